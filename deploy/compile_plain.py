"""How do `plain.c` and `fetched.c` come into the package? Compiled by whatever compiler the machine has; without one it stays out.

`CC` names the compiler, `CFLAGS` adds to what it is told. A package without it does the same, slower: `tocsin worker`
says at its start which it is.
"""

import os
import shlex
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCES = (Path("streams/runtime/plain.c"), Path("streams/runtime/fetched.c"))
LIBRARY = SOURCES[0].with_name("_plain.so")
FLAGS = ("-std=c11", "-O3", "-fPIC", "-shared")
COMPILERS = ("cc", "gcc", "clang")


def compiled(root: Path, to: Path) -> str:
    """Compile; return what hindered it, "" when nothing did."""
    compiler = os.environ.get("CC") or next(filter(shutil.which, COMPILERS), None)
    if compiler is None:
        return "no C compiler"
    command = [*shlex.split(compiler), *FLAGS, *shlex.split(os.environ.get("CFLAGS", ""))]
    try:
        done = subprocess.run(
            [*command, "-o", str(to), *(str(root / source) for source in SOURCES), "-lm"],
            check=False,
            capture_output=True,
            text=True,
        )
    except OSError as error:
        return str(error)
    return "" if done.returncode == 0 else done.stderr


class CompilePlain(BuildHookInterface):  # type: ignore[misc]
    """Hatchling calls it before a wheel is put together."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile into the source tree; a wheel takes it from there, an editable environment finds it there."""
        del version
        root = Path(self.root)
        library = root / LIBRARY
        anew = library.with_suffix(f".{os.getpid()}")
        why = compiled(root, anew)
        if why:
            library.unlink(missing_ok=True)
            self.app.display_warning(f"nothing is compiled, rows are read more slowly: {why}")
            return
        anew.replace(library)  # whoever has the old one open keeps it
        build_data["artifacts"].append(str(LIBRARY))
        build_data["pure_python"] = False
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{platform}"  # it knows nothing of Python


def get_build_hook() -> type[CompilePlain]:
    """Hatchling asks for it."""
    return CompilePlain
