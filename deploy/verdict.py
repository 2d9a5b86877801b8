"""How did the tests end, and did those run at all that need more than Python?

Reads pytest's JUnit file. Without this, a broker that could not start, or a program that was not installed, would look
like a green run.
"""

import sys
import xml.etree.ElementTree as ET
from pathlib import Path

NEEDED = ("a real Kafka", "kcat", "docker-compose", "gcc")
"""What a run must have had: `tests/conftest.py` says of each test which of these it needs."""


def verdict(report: Path) -> tuple[str, list[str]]:
    """Return the closing line, and what is wrong."""
    passed = failed = skipped = 0
    ran: set[str | None] = set()
    wrong = []
    for case in ET.parse(report).iter("testcase"):  # noqa: S314 -- our own pytest wrote it
        name = f"{case.get('classname')}.{case.get('name')}"
        needs = [one.get("value") for one in case.iterfind("properties/property[@name='needs']")]
        if case.find("failure") is not None or case.find("error") is not None:
            failed += 1
            wrong.append(f"failed: {name}")
        elif case.find("skipped") is not None:
            skipped += 1
            if needs:
                wrong.append(f"skipped, though it needs {' and '.join(map(str, needs))}: {name}")
        else:
            passed += 1
            ran.update(needs)
    wrong += [f"no test ran with {needed}" for needed in NEEDED if needed not in ran]
    return f"{passed} passed, {failed} failed, {skipped} skipped", wrong


def main(report: Path) -> int:
    """Print the verdict; 0 when all is well."""
    closing, wrong = verdict(report) if report.exists() else ("0 passed, 0 failed", [f"no test ran: no {report}"])
    print("\n".join([*wrong, closing]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
