"""A baseline from a terminal: learned, tried, published, and listed."""

import json
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from schemas import baseline
from schemas.baseline import Baseline
from streams.runtime.commands.baseline import records_of
from streams.runtime.terminal import CommandError, Exit
from streams.runtime.topics import partition_of
from tests.schemas.test_baseline import large, wide

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
            made_at_ms = BEGINS_MS + n * 2_010
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
    status, out, err = tocsin(*words, "--dry-run")
    assert status == Exit.DONE
    assert "spans 1 h 6 min and not a week" in err
    assert "(1 h 6 min)" in out, "the same span, though its ticks end later"
    assert "2,000 outputs, 2,000 of them labelled" in out
    assert "raw_error" in out
    assert "Not published" in out
    assert "fraud, a version to be, valid from" in out
    assert json.loads(tocsin(*words, "--dry-run", "--json")[1])["version"] is None
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
    assert "100 outputs, at least 500 are expected" in err


@pytest.mark.parametrize("which", ["outputs", "of others", "none"])
def test_a_file_of_labels_that_has_none_of_these_outputs_is_refused(
    which: str, tocsin: Tocsin, files: tuple[Path, Path], tmp_path: Path
) -> None:
    settings, history = files
    rows = [msgspec.json.decode(line) for line in history.read_text().splitlines()]
    outputs = [{name: value for name, value in row.items() if "label" not in name} for row in rows]
    beside = ("model", "label", "labelled_at_ms")
    others = [
        {"prediction_id": f"of another {n}", **{name: row[name] for name in beside}} for n, row in enumerate(rows)
    ]
    given = {"outputs": outputs, "of others": others, "none": []}[which]
    file, labels = tmp_path / "outputs.ndjson", tmp_path / "labels.ndjson"
    file.write_bytes(b"\n".join(map(msgspec.json.encode, outputs)))
    labels.write_bytes(b"\n".join(map(msgspec.json.encode, given)))
    words = ("baseline", "build", str(file), "--labels", str(labels), "--model", "fraud", "--config", str(settings))
    status, out, err = tocsin(*words, "--dry-run")
    assert (status, out) == (Exit.DATA, "")
    assert f"{labels}: no labels of these outputs of fraud" in err
    assert ("labels.ndjson:1: label" in err) == (which == "outputs")


def test_outputs_and_labels_from_pipes_are_read_to_their_last_row(
    tocsin: Tocsin, files: tuple[Path, Path], tmp_path: Path
) -> None:
    settings, history = files
    pipes = tmp_path / "outputs", tmp_path / "labels"
    beside = ("prediction_id", "model", "label", "labelled_at_ms")
    rows = [msgspec.json.decode(line) for line in history.read_text().splitlines()]
    outputs = [{name: value for name, value in row.items() if "label" not in name} for row in rows]
    labels = [{name: row[name] for name in beside} for row in rows]

    def write() -> None:
        for pipe, given in zip(pipes, (outputs, labels), strict=True):  # one after the other, as a script does
            pipe.write_bytes(b"\n".join(map(msgspec.json.encode, given)))

    for pipe in pipes:
        os.mkfifo(pipe)
    threading.Thread(target=write, daemon=True).start()
    words = ("baseline", "build", str(pipes[0]), "--model", "fraud", "--config", str(settings), "--dry-run", "--json")
    status, out, _ = tocsin(*words, "--labels", str(pipes[1]))
    said = json.loads(out)
    assert (status, said["outputs"], said["labelled"]) == (Exit.DONE, 2_000, 2_000)
    status, _, err = tocsin(
        *("/dev/null" if word == str(pipes[0]) else word for word in words), "--labels", "/dev/null"
    )
    assert (status, "it is named twice" in err) == (Exit.USAGE, True)


@pytest.mark.parametrize("where", ["outputs", "labels"])
def test_rows_that_cannot_be_read_are_left_out_and_told_by_the_status(
    where: str, tocsin: Tocsin, files: tuple[Path, Path], tmp_path: Path
) -> None:
    settings, history = files
    rows = history.read_bytes()
    file, labels = tmp_path / "outputs.ndjson", tmp_path / "labels.ndjson"
    file.write_bytes(rows + b"no JSON\n" * (where == "outputs"))
    last = msgspec.json.decode(rows.splitlines()[-1])
    beside = {name: last[name] for name in ("prediction_id", "model", "label", "labelled_at_ms")}
    labels.write_bytes(msgspec.json.encode(beside) + b"\n" + b"no JSON\n" * (where == "labels"))
    words = ("baseline", "build", str(file), "--labels", str(labels), "--model", "fraud", "--config", str(settings))
    status, out, err = tocsin(*words, "--dry-run", "--json")
    assert (status, json.loads(out)["outputs"]) == (Exit.DATA, 2_000)
    assert f"{where}.ndjson:{2_001 if where == 'outputs' else 2}: row: expected a JSON object" in err


SETTINGS = """
[models.fraud]
kind = "classification"
sla_accuracy = 0.8
segments = ["region"]
features = { income = "numeric" }
required = ["income"]
[models.notes]
kind = "text"
"""


def written(
    folder: Path, *, outputs: int = 1_500, spans_ms: int = 7_200_000, missing: float = 0.0, **also: object
) -> Path:
    """Write a history of `fraud` without labels, or of another model, in which income is missing now and then."""
    (folder / "some.toml").write_text(SETTINGS)
    file, rng = folder / "some.ndjson", np.random.default_rng(6)
    score, hit = rng.random(outputs).round(3).tolist(), (rng.random(outputs) < missing).tolist()
    with file.open("wb") as lines:
        for n in range(outputs):
            row = {
                "prediction_id": f"p{n}",
                "model": "fraud",
                "made_at_ms": BEGINS_MS + n * spans_ms // outputs,
                "prediction": int(score[n] >= 0.5),
                "score": score[n],
                "segments": {"region": "north" if n % 20 else "west"},
                "features": {} if hit[n] else {"income": 1.0 + n},
            }
            lines.write(
                msgspec.json.encode({name: value for name, value in {**row, **also}.items() if value is not None})
                + b"\n"
            )
    return file


def build(tocsin: Tocsin, file: Path, *more: str, model: str = "fraud") -> tuple[int, str, str]:
    settings = str(file.with_suffix(".toml"))
    return tocsin("baseline", "build", str(file), "--model", model, "--config", settings, "--dry-run", *more)


def test_what_is_not_armed_is_named_with_the_reason_and_what_helps(tocsin: Tocsin, tmp_path: Path) -> None:
    status, out, err = build(tocsin, written(tmp_path))
    assert status == Exit.DONE
    assert "1,500 outputs, 0 of them labelled (0%)" in out
    assert (
        "the history has no labels: error_given_score, raw_error, accuracy_below_sla, label_pipeline, label_silence"
        in out
    )
    assert "--labels FILE" in out
    assert "confidence_drop (1 lane: segment:region=west, each needs 200 outputs)" in out
    assert "not a week" in err
    lines = {line.split()[0]: line for line in out.splitlines() if line}
    assert lines["raw_error"].split()[1:4] == ["0", "of", "1"]
    assert lines["feature_integrity_rule"].split()[1:] == ["1", "of", "1", "-", "-", "-", "0"]


def test_lanes_are_named_where_others_of_a_detector_are_armed(tocsin: Tocsin, tmp_path: Path) -> None:
    file = written(tmp_path)
    with file.with_suffix(".toml").open("a") as settings:
        settings.write("[detect]\nmax_rollups_per_model = 2\n")
    out = build(tocsin, file)[1]
    assert "not the busiest: silence (1 lane: segment:region=west)\n    raise detect.max_rollups_per_model" in out


def test_a_script_gets_the_same(tocsin: Tocsin, tmp_path: Path) -> None:
    said = json.loads(build(tocsin, written(tmp_path), "--json")[1])
    assert (said["outputs"], said["labelled"], said["published"]) == (1_500, 0, False)
    raw = [one for one in said["signals"] if one["detector"] == "raw_error"]
    assert raw == [
        {"detector": "raw_error", "lanes": group, "of": of, "armed": 0, "unarmed": {"no_labels": of}}
        for group, of in (("whole model", 1), ("segment values", 2))
    ]
    assert [one["doubt"] for one in said["doubts"]] == ["not_a_week"]


def test_a_required_feature_that_is_mostly_missing_is_refused_or_accepted_by_name(
    tocsin: Tocsin, tmp_path: Path
) -> None:
    file = written(tmp_path, missing=0.48)
    status, out, err = build(tocsin, file)
    assert (status, out) == (Exit.DATA, "")
    assert "required feature income is missing" in err
    assert "--accept-faulty income" in err
    assert build(tocsin, file, "--accept-faulty", "age")[0] == Exit.USAGE
    status, out, err = build(tocsin, file, "--accept-faulty", "income")
    assert status == Exit.DONE
    assert "beware: required feature income is missing" in err


def test_a_short_history_is_refused_or_accepted(tocsin: Tocsin, tmp_path: Path) -> None:
    file = written(tmp_path, spans_ms=1_800_000)
    status, _, err = build(tocsin, file)
    assert status == Exit.DATA
    assert "at least 1 h is expected" in err
    assert build(tocsin, file, "--accept-short")[0] == Exit.DONE


def test_where_nothing_could_ring_nothing_is_published(tocsin: Tocsin, tmp_path: Path) -> None:
    rare = written(tmp_path, outputs=600, spans_ms=60 * 86_400_000, model="notes", score=None, prediction="yes")
    status, out, err = build(tocsin, rare, model="notes")
    assert (status, out) == (Exit.DATA, "")
    assert "nothing can be armed" in err
    assert "silence" in err
    assert build(tocsin, rare)[0] == Exit.DATA  # of fraud there is nothing at all


def test_a_version_gets_its_tombstones_a_week_after_the_next_one_took_its_place() -> None:
    day_ms = 86_400_000
    first = Baseline.decode(GOLDEN.read_bytes())
    first = replace(first, version=1, parts=2, part=0, valid_from_ms=0, decided_at_ms=0)
    second = replace(first, version=2, valid_from_ms=3 * day_ms)
    third = replace(first, version=3, valid_from_ms=9 * day_ms, decided_at_ms=9 * day_ms)
    for now_ms, gone in ((10 * day_ms, []), (10 * day_ms + 1, [b"a model/1/0", b"a model/1/1"])):
        records = records_of(third, [first, second], now_ms, 4)
        assert [record.key for record in records if record.value is None] == gone


def test_what_cannot_be_published_is_said_before_it_is_tried(
    tocsin: Tocsin, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, history = files
    monkeypatch.setattr(baseline, "LIMIT_BYTES", 1_000)
    words = ("baseline", "build", str(history), "--model", "fraud", "--config", str(settings), "--dry-run")
    status, out, err = tocsin(*words)
    assert (status, out) == (Exit.DATA, "")
    assert "the baseline of fraud is too large to be published: a part has " in err


def test_no_part_is_sent_where_one_could_not_be() -> None:
    with pytest.raises(CommandError, match="version 1 of fraud is too large to be published: a part has 1,") as caught:
        records_of(wide("n" * 64, 20, 2, 20_000), [], 0, 4)
    assert caught.value.status == Exit.DATA


def test_a_baseline_of_several_parts_is_listed_whole_and_without_a_part_by_its_first(
    tocsin: Tocsin, put: Callable[[str, bytes | None, bytes | None, int], None]
) -> None:
    def listed() -> tuple[int, dict[str, int]]:
        [one] = [
            said
            for line in tocsin("baseline", "list", "--json")[1].splitlines()
            if (said := json.loads(line))["model"] == "wide"
        ]
        return one["lanes"], one["armed"]

    whole = replace(large(), model="wide")
    parts, at = whole.split(), partition_of("wide", 4)
    assert len(parts) > 1
    for part in parts:
        put("baselines", f"wide/1/{part.part}".encode(), part.encode(), at)
    assert listed() == (500, {"error_rate": 2, "silence": 200})
    put("baselines", b"wide/1/1", None, at)
    assert listed() == (len(parts[0].lanes), {"error_rate": 2, "silence": 0})
    for part in parts:
        put("baselines", f"wide/1/{part.part}".encode(), None, at)
