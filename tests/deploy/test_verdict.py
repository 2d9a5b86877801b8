"""Is a run without Kafka, or with a failure, never called green?"""

import subprocess
import sys
from pathlib import Path

import pytest

VERDICT = Path(__file__).parents[2] / "deploy" / "verdict.py"
KAFKA = '<properties><property name="marker" value="kafka"/></properties>'


@pytest.mark.parametrize(
    ("cases", "status", "lines"),
    [
        pytest.param(["", KAFKA], 0, ["2 passed, 0 failed, 0 skipped"], id="all ran"),
        pytest.param(
            [KAFKA, f"{KAFKA}<skipped/>"],
            1,
            ["skipped, though it needs Kafka: t.1", "1 passed, 0 failed, 1 skipped"],
            id="one skipped for want of Kafka",
        ),
        pytest.param(["<skipped/>", KAFKA], 0, ["1 passed, 0 failed, 1 skipped"], id="another skipped"),
        pytest.param([""], 1, ["no test ran on a real Kafka", "1 passed, 0 failed, 0 skipped"], id="none on Kafka"),
        pytest.param(
            [KAFKA, "<failure/>", "<error/>"],
            1,
            ["failed: t.1", "failed: t.2", "1 passed, 2 failed, 0 skipped"],
            id="some failed",
        ),
    ],
)
def test_the_verdict_tells_and_closes_with_the_counts(
    tmp_path: Path, cases: list[str], status: int, lines: list[str]
) -> None:
    report = tmp_path / "junit.xml"
    written = "".join(f'<testcase classname="t" name="{at}">{inner}</testcase>' for at, inner in enumerate(cases))
    report.write_text(f"<testsuites><testsuite>{written}</testsuite></testsuites>")
    answer = subprocess.run([sys.executable, VERDICT, report], check=False, capture_output=True, text=True)
    assert (answer.returncode, answer.stdout.splitlines()) == (status, lines)


def test_no_report_is_no_green_run(tmp_path: Path) -> None:
    command = [sys.executable, str(VERDICT), str(tmp_path / "junit.xml")]
    answer = subprocess.run(command, check=False, capture_output=True, text=True)
    assert answer.returncode == 1
    assert answer.stdout.endswith("\n0 passed, 0 failed\n")


def test_a_marked_test_is_known_in_the_report(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("import pytest\n\n@pytest.mark.kafka\ndef test_it(): pass\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = kafka\n")
    (tmp_path / "conftest.py").write_text((Path(__file__).parents[1] / "conftest.py").read_text())
    report = tmp_path / "junit.xml"
    command = [sys.executable, "-Im", "pytest", str(tmp_path), f"--junitxml={report}", "-p", "no:cacheprovider"]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    answer = subprocess.run([sys.executable, VERDICT, report], check=False, capture_output=True, text=True)
    assert (answer.returncode, answer.stdout) == (0, "1 passed, 0 failed, 0 skipped\n")
