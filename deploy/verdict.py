"""How did the tests end, and did those that need a real Kafka run at all?

Reads pytest's JUnit file. Without this, a broker that could not start would look like a green run.
"""

import sys
import xml.etree.ElementTree as ET
from pathlib import Path


def verdict(report: Path) -> tuple[str, list[str]]:
    """Return the closing line, and what is wrong."""
    passed = failed = skipped = on_kafka = 0
    wrong = []
    for case in ET.parse(report).iter("testcase"):  # noqa: S314 -- our own pytest wrote it
        name = f"{case.get('classname')}.{case.get('name')}"
        needs_kafka = case.find("properties/property[@name='marker'][@value='kafka']") is not None
        if case.find("failure") is not None or case.find("error") is not None:
            failed += 1
            wrong.append(f"failed: {name}")
        elif case.find("skipped") is not None:
            skipped += 1
            if needs_kafka:
                wrong.append(f"skipped, though it needs Kafka: {name}")
        else:
            passed += 1
            on_kafka += needs_kafka
    if not on_kafka:
        wrong.append("no test ran on a real Kafka")
    return f"{passed} passed, {failed} failed, {skipped} skipped", wrong


def main(report: Path) -> int:
    """Print the verdict; 0 when all is well."""
    closing, wrong = verdict(report) if report.exists() else ("0 passed, 0 failed", [f"no test ran: no {report}"])
    print("\n".join([*wrong, closing]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
