"""How does `tocsin` begin? Nothing is loaded before Ctrl-C is listened to: who regrets a command at once sees no traceback."""

import sys


def main() -> None:
    """Load the commands, and run one."""
    try:
        from streams.runtime import cli  # noqa: PLC0415 -- that is what takes time

        cli.main()
    except KeyboardInterrupt:
        if sys.stderr is not None:
            sys.stderr.write("tocsin: interrupted\n")
        sys.exit(130)  # as `Exit.INTERRUPTED`
