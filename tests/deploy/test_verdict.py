"""Is a run without Kafka, or with a failure, never called green?"""

import subprocess
import sys
from pathlib import Path

import pytest

VERDICT = Path(__file__).parents[2] / "deploy" / "verdict.py"


def needs(*what: str) -> str:
    properties = (f'<property name="needs" value="{one}"/>' for one in what)
    return f"<properties>{''.join(properties)}</properties>"


KAFKA = needs("a real Kafka")
ALL = needs("a real Kafka", "kcat", "docker-compose", "gcc")


@pytest.mark.parametrize(
    ("cases", "status", "lines"),
    [
        pytest.param(["", ALL], 0, ["2 passed, 0 failed, 0 skipped"], id="all ran"),
        pytest.param(
            [ALL, f"{KAFKA}<skipped/>"],
            1,
            ["skipped, though it needs a real Kafka: t.1", "1 passed, 0 failed, 1 skipped"],
            id="one skipped for want of Kafka",
        ),
        pytest.param(["<skipped/>", ALL], 0, ["1 passed, 0 failed, 1 skipped"], id="another skipped"),
        pytest.param(
            [needs("kcat"), f"{ALL}<skipped/>"],
            1,
            [
                "skipped, though it needs a real Kafka and kcat and docker-compose and gcc: t.1",
                "no test ran with a real Kafka",
                "no test ran with docker-compose",
                "no test ran with gcc",
                "1 passed, 0 failed, 1 skipped",
            ],
            id="none on Kafka",
        ),
        pytest.param(
            [ALL, "<failure/>", "<error/>"],
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


def test_what_a_test_needs_is_known_in_the_report(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("""\
import pytest

@pytest.mark.kafka
@pytest.mark.program("sh")
def test_with_what_is_here(): pass

@pytest.mark.program("no-such-program")
def test_with_what_is_not(): pass
""")
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n  kafka\n  program\n")
    (tmp_path / "conftest.py").write_text((Path(__file__).parents[1] / "conftest.py").read_text())
    report = tmp_path / "junit.xml"
    command = [sys.executable, "-Im", "pytest", "-rs", str(tmp_path), f"--junitxml={report}", "-p", "no:cacheprovider"]
    ran = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path)
    assert "no no-such-program on this machine: `apt-get install no-such-program` brings it" in ran.stdout
    answer = subprocess.run([sys.executable, VERDICT, report], check=False, capture_output=True, text=True)
    assert answer.stdout.splitlines() == [
        "skipped, though it needs no-such-program: test_it.test_with_what_is_not",
        "no test ran with kcat",
        "no test ran with docker-compose",
        "no test ran with gcc",
        "1 passed, 0 failed, 1 skipped",
    ]
