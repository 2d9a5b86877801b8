"""`docs/first-incident.md`: its settings and rows are good, its commands end well, and its rows open the incident that it shows."""

import sys
from pathlib import Path

import pytest

from config.load import load
from schemas.label import Label
from schemas.output import Output
from streams.embedded import Tocsin
from streams.runtime.commands.produce import Sent, event_ms, in_time
from streams.runtime.reading import Reader, published_parts
from streams.runtime.row_files import read_rows
from tests.integration.pages import BROKER, examples

STEP_MS = 10_000
PAGE = {one.language: one for one in examples("first-incident.md") if one.language}


@pytest.mark.kafka
def test_the_rows_of_the_page_arm_every_detector_and_open_its_incident_three_minutes_after_they_began(
    whole_kafka: str, tmp_path: Path
) -> None:
    #  0          3 min      about 5 min 10 s
    #  | healthy  | amount is null | an incident
    file = tmp_path / "tocsin.toml"
    file.write_text(PAGE["toml"].text.replace(BROKER, whole_kafka))
    (tmp_path / "rows.py").write_text(PAGE["python"].text)
    said = PAGE["sh"].run(whole_kafka, tmp_path, str(Path(sys.executable).parent))
    assert "all topics are there" not in said, "that is no result"
    assert "fraud, version 1, valid from" in said
    assert "not armed" not in said

    settings = load(file, {}, {}, lambda _: ())
    with Reader(settings.kafka) as reader:
        [baseline] = published_parts(reader)
    sent = Sent()
    rows = list(in_time(read_rows(tmp_path / "broken.ndjson"), sent, "broken.ndjson"))
    assert sent.refused == 0
    begins_ms = event_ms(rows[0])
    assert begins_ms <= baseline.valid_from_ms < begins_ms + 180_000, "it holds before anything is broken"
    now_ms = begins_ms
    tocsin = Tocsin(models=settings.models.values(), baselines=[baseline], clock=lambda: now_ms)
    opened_ms: list[int] = []
    for now_ms in range(begins_ms, begins_ms + 900_000, STEP_MS):
        taken = [row for row in rows if now_ms - STEP_MS <= event_ms(row) < now_ms]
        outputs = [row for row in taken if isinstance(row, Output)]
        opened_ms += [now_ms] * tocsin(outputs, [row for row in taken if isinstance(row, Label)]).detected
    [incident] = tocsin.incidents.values()
    assert {one.kind for one in incident.findings} == {"feature_corruption"}
    assert (incident.severity, len(opened_ms)) == (2, 1)
    assert opened_ms[0] > begins_ms + 180_000
