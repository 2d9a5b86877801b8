#!/bin/sh
# Runs uv with the arguments given; where the system has none, brings it into build/ first.
# A fresh machine needs Python 3.11 and pip for that, nothing else.
set -eu

if command -v uv > /dev/null; then
    exec uv "$@"
fi

tools=$(dirname "$0")/../build/tools
python=${PYTHON:-python3}
wanted='uv>=0.9,<1'

if ! [ -x "$tools/bin/uv" ]; then
    rm -rf "$tools"
    # Debian ships Python without venv; a folder of its own is then as good, and allowed where the
    # system's Python refuses to be installed into (PEP 668). Both put the command into the same place.
    if "$python" -m venv "$tools" > /dev/null 2>&1; then
        "$tools/bin/python" -m pip install --quiet "$wanted" >&2
    else
        rm -rf "$tools"
        "$python" -m pip install --quiet --target "$tools" "$wanted" >&2
    fi
fi
exec "$tools/bin/uv" "$@"
