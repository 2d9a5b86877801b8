"""What is in the table is there, what is there is in the table, and each has its share."""

import importlib
import pkgutil

import detectors
from detectors.budget import SIGNALS
from detectors.statistics import STATISTICS
from detectors.table import DETECTORS, NEEDS


def test_every_detector_that_is_written_is_in_the_table() -> None:
    modules = [
        importlib.import_module(f"detectors.{module.name}") for module in pkgutil.iter_modules(detectors.__path__)
    ]
    classes = (
        each
        for module in modules
        for each in vars(module).values()
        if isinstance(each, type) and each.__module__ == module.__name__ and "delay_conditioned" in vars(each)
    )
    written = {vars(each)["name"] for each in classes if isinstance(vars(each).get("name"), str)}
    assert written == set(DETECTORS)


def test_what_they_need_is_counted() -> None:
    assert set(NEEDS) <= STATISTICS.keys()
    assert all(set(one.needs) <= set(NEEDS) for one in DETECTORS.values())


def test_each_has_one_share_or_rings_by_rule() -> None:
    paid = [name for signal in SIGNALS for name in signal.detectors]
    assert sorted(paid) == sorted(name for name, one in DETECTORS.items() if one.guarantee == "budget")


def test_tolerances_begin_at_none_and_grow() -> None:
    for one in DETECTORS.values():
        assert one.tolerances[0] == 0
        assert list(one.tolerances) == sorted(set(one.tolerances))


def test_errors_are_stepped_before_labels() -> None:
    # whichever rings in the same tick, the errors are the news
    order = list(DETECTORS)
    assert max(order.index(name) for name, one in DETECTORS.items() if one.delay_conditioned) < order.index(
        "label_pipeline"
    )


def test_each_statistic_is_called_in_the_notes_what_the_table_says() -> None:
    # the notes have no count of expiries, of flips, or by hour of the week
    assert {name: one.codes for name, one in STATISTICS.items()} == {
        "outputs": ("W1",), "outputs_by_score": ("W1",), "outputs_by_confidence": ("W1",), "outputs_by_week_hour": (),
        "labelled": ("W2",), "labelled_by_week_hour": (),
        "labelled_by_delay_confidence": ("W2",), "wrong_by_delay_confidence": ("W2",),
        "labelled_by_delay_hour": ("W3",), "wrong_by_delay_hour": ("W3",), "expired": (), "label_flips": (),
        "at_risk_by_age": ("W5",), "labelled_by_age": ("W5",), "feature_slots": ("W6", "W7"),
    }  # fmt: skip
