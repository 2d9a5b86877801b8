"""Is the demonstration's stream what it says it is?"""

import numpy as np
import pytest

from schemas.label import Label
from schemas.output import Output
from streams.runtime.demo.census import THRESHOLD, Census, census
from streams.runtime.demo.generator import MINUTE_MS, Fault, Stream, stream

BEGIN_MS = 1_768_208_400_000
FAULT_MS = BEGIN_MS + 60 * MINUTE_MS


@pytest.fixture(scope="module")
def people() -> Census:
    return census(2016)


def run(people: Census, fault: Fault, seed: int = 1) -> Stream:
    return stream(people, name="t", begins_at_ms=BEGIN_MS, seed=seed, fault=fault, fault_at_ms=FAULT_MS)


def test_both_years_have_the_published_accuracy() -> None:
    for year, rows, accuracy in ((2015, 68_785, 0.827157), (2016, 69_126, 0.825333)):
        people = census(2015 if year == 2015 else 2016)
        assert len(people) == rows
        assert ((people.score >= THRESHOLD) == people.employed).mean() == pytest.approx(accuracy, abs=5e-7)


def test_the_same_seed_gives_the_same_stream_and_another_another(people: Census) -> None:
    first, again, other = run(people, "unit"), run(people, "unit"), run(people, "unit", seed=2)
    window = FAULT_MS, FAULT_MS + MINUTE_MS
    assert first.outputs(*window) == again.outputs(*window)
    assert first.labels(*window) == again.labels(*window)
    assert first.labels(*window) != other.labels(*window)


@pytest.mark.parametrize("fault", ["unit", "rollback"])
def test_before_the_fault_nothing_differs(people: Census, fault: Fault) -> None:
    healthy, broken = run(people, "none"), run(people, fault)
    before = healthy.made_at_ms < FAULT_MS
    for name in ("age", "score", "labelled_at_ms"):
        np.testing.assert_array_equal(getattr(healthy, name)[before], getattr(broken, name)[before])
    assert broken.wrong[~before].mean() > healthy.wrong[~before].mean() + 0.04


def test_a_minute_has_300_outputs_and_wrong_answers_are_told_sooner(people: Census) -> None:
    healthy = run(people, "none")
    assert len(healthy.outputs(BEGIN_MS, BEGIN_MS + MINUTE_MS)) == 300
    delay_minutes = (healthy.labelled_at_ms - healthy.made_at_ms) / MINUTE_MS
    # standard errors: 10 / sqrt(12,000) = 0.09 and 30 / sqrt(57,000) = 0.13 minutes
    assert delay_minutes[healthy.wrong].mean() == pytest.approx(10, abs=0.5)
    assert delay_minutes[~healthy.wrong].mean() == pytest.approx(30, abs=0.6)


def test_one_age_in_five_is_given_in_months(people: Census) -> None:
    broken = run(people, "unit")
    after = broken.made_at_ms >= FAULT_MS
    changed = broken.age[after] != people.age[after]
    assert set((broken.age[after][changed] / people.age[after][changed]).tolist()) == {12.0}
    grown = people.age[after] > 0  # a newborn is as old in months as in years
    assert changed[grown].mean() == pytest.approx(0.2, abs=0.01)


def test_the_answer_for_months_is_that_for_somebody_alike_aged_85_or_more(people: Census) -> None:
    broken = run(people, "unit")
    old = people.age >= 85
    keys = list(zip(people.codes["SCHL"].tolist(), people.codes["RELP"].tolist(), strict=True))
    said: dict[tuple[int, int], set[float]] = {}
    for key, score, is_old in zip(keys, people.score.tolist(), old.tolist(), strict=True):
        if is_old:
            said.setdefault(key, set()).add(score)
    told_in_months = np.flatnonzero(broken.age > 94).tolist()
    assert told_in_months
    for row in told_in_months:
        assert broken.score[row] in said.get(keys[row], set(people.score[old].tolist()))


def test_the_rolled_back_score_knows_only_decade_and_sex(people: Census) -> None:
    broken = run(people, "rollback")
    after = broken.made_at_ms >= FAULT_MS
    cells = people.age[after] // 10 * 10 + people.codes["SEX"][after]
    for cell in np.unique(cells):
        assert len(np.unique(broken.score[after][cells == cell])) == 1


def test_every_output_has_one_label_at_its_time(people: Census) -> None:
    healthy = run(people, "none")
    windows = [(at, at + 30 * MINUTE_MS) for at in range(BEGIN_MS, BEGIN_MS + 720 * MINUTE_MS, 30 * MINUTE_MS)]
    labels = [label for window in windows for label in healthy.labels(*window)]
    assert len({label.prediction_id for label in labels}) == len(labels) == len(people)
    times = [label.labelled_at_ms for label in labels]
    assert times == sorted(times)
    assert Label.decode(labels[0].encode()) == labels[0]


def test_what_is_generated_is_a_record_with_everything_declared(people: Census) -> None:
    output = run(people, "none").outputs(BEGIN_MS, BEGIN_MS + 1)[0]
    assert Output.decode(output.encode()) == output
    assert set(output.segments) == {"SEX", "RAC1P"}
    assert set(output.features) == {"AGEP", "SCHL", "MAR", "RELP"}
