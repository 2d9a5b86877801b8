"""A baseline from a terminal: learned, tried, published, and listed."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from schemas.baseline import Baseline
from streams.runtime.commands.baseline import records_of
from streams.runtime.terminal import Exit

Tocsin = Callable[..., tuple[int, str, str]]
GOLDEN = Path(__file__).parents[3] / "golden" / "wire" / "baseline" / "1.bin"
BEGINS_MS = 1_764_064_800_000


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Write settings of one model, and a healthy history of it."""
    folder = tmp_path_factory.mktemp("baseline")
    settings, history = folder / "tocsin.toml", folder / "healthy.ndjson"
    settings.write_text('[models.fraud]\nkind = "classification"\nsla_accuracy = 0.8\nlabel_wait = "1 h"\n')
    rng = np.random.default_rng(5)
    score, hit = rng.random(2_000).round(3).tolist(), (rng.random(2_000) < 0.9).tolist()
    with history.open("wb") as lines:
        for n in range(2_000):
            answer = int(score[n] >= 0.5)
            made_at_ms = BEGINS_MS + n * 1_000
            row = {
                "prediction_id": f"p{n}",
                "model": "fraud",
                "made_at_ms": made_at_ms,
                "prediction": answer,
                "score": score[n],
                "label": answer if hit[n] else 1 - answer,
                "labelled_at_ms": made_at_ms + 5_000,
            }
            lines.write(msgspec.json.encode(row) + b"\n")
    return settings, history


def test_what_is_tried_only_asks_no_broker_and_publishes_nothing(tocsin: Tocsin, files: tuple[Path, Path]) -> None:
    settings, history = files
    words = ("baseline", "build", str(history), "--model", "fraud", "--config", str(settings))
    status, out, _ = tocsin(*words, "--dry-run")
    assert status == Exit.DONE
    assert "2,000 outputs, 2,000 of them labelled" in out
    assert "raw_error" in out
    assert "Not published" in out
    assert tocsin("baseline", "list")[1] == ""


def test_each_build_is_a_new_version_and_is_listed(tocsin: Tocsin, files: tuple[Path, Path]) -> None:
    settings, history = files
    words = ("baseline", "build", str(history), "--model", "fraud", "--config", str(settings), "--json")
    for version in (1, 2):
        status, out, err = tocsin(*words, "--valid-from", "2025-11-25T12:00:00Z")
        assert status == Exit.DONE, err
        assert json.loads(out)["version"] == version
        assert "right only where" in err
    listed = [json.loads(line) for line in tocsin("baseline", "list", "--json")[1].splitlines()]
    assert [(one["model"], one["version"]) for one in listed] == [("fraud", 1), ("fraud", 2)]
    assert listed[0]["armed"]["accuracy_below_sla"] >= 1


@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        (("--model", "nobody"), Exit.USAGE),
        (("--model", "fraud", "--valid-from", "tomorrow"), Exit.USAGE),
    ],
)
def test_what_cannot_be_meant_is_usage(
    tocsin: Tocsin, files: tuple[Path, Path], more: tuple[str, ...], wanted: Exit
) -> None:
    settings, history = files
    assert tocsin("baseline", "build", str(history), "--config", str(settings), *more)[0] == wanted


def test_a_history_that_is_too_short_is_no_reference(tocsin: Tocsin, files: tuple[Path, Path], tmp_path: Path) -> None:
    settings, history = files
    short = tmp_path / "short.ndjson"
    short.write_text("".join(history.read_text().splitlines(keepends=True)[:100]))
    status, _, err = tocsin("baseline", "build", str(short), "--model", "fraud", "--config", str(settings), "--dry-run")
    assert status == Exit.DATA
    assert "at least 500 outputs" in err


def test_a_version_gets_its_tombstones_a_week_after_the_next_one_took_its_place() -> None:
    day_ms = 86_400_000
    first = Baseline.decode(GOLDEN.read_bytes())
    first = replace(first, version=1, parts=2, part=0, valid_from_ms=0, decided_at_ms=0)
    second = replace(first, version=2, valid_from_ms=3 * day_ms)
    third = replace(first, version=3, valid_from_ms=9 * day_ms, decided_at_ms=9 * day_ms)
    for now_ms, gone in ((10 * day_ms, []), (10 * day_ms + 1, [b"a model/1/0", b"a model/1/1"])):
        records = records_of(third, [first, second], now_ms, 4)
        assert [record.key for record in records if record.value is None] == gone
