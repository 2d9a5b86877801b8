"""Write the JSON Schema of the records, from the definitions that the decoder uses.

  tocsin schema                 names, one a line
  tocsin schema output          one schema, on standard output
  tocsin schema --all DIR       all of them, a file each

`docs/records.md` says on which topic each of them travels.
"""

import argparse
import json
from pathlib import Path

from config.reader import cause_of
from streams.runtime.terminal import CommandError, Exit, say


def configure(parser: argparse.ArgumentParser) -> None:
    """Say what can be given."""
    parser.add_argument("record", nargs="?", metavar="RECORD", help="one of the names (default: list them)")
    parser.add_argument(
        "--all",
        type=Path,
        metavar="DIR",
        help="write every schema into this folder, which is made (default: write none)",
    )


def run(arguments: argparse.Namespace) -> int:
    """List names, print a schema, or write all."""
    from schemas.export import HEADERS, RECORDS, json_schema  # noqa: PLC0415 -- every record is imported by it

    names = [*RECORDS, *HEADERS]
    if arguments.all is not None:
        for name in names:
            file = arguments.all / f"{name}.schema.json"
            try:
                arguments.all.mkdir(parents=True, exist_ok=True)
                file.write_text(json.dumps(json_schema(name), indent=2) + "\n", encoding="utf-8")
            except (OSError, ValueError) as error:
                raise CommandError(Exit.DATA, f"{file} cannot be written: {cause_of(error)}") from None
            say(str(file))
    elif arguments.record is None:
        say("\n".join(names))
    elif arguments.record in names:
        say(json.dumps(json_schema(arguments.record), indent=2))
    else:
        raise CommandError(Exit.USAGE, f"no record is called {arguments.record!r}; there are {', '.join(names)}")
    return Exit.DONE
