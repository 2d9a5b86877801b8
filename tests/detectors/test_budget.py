"""The parts of the budget are the whole, or the excess has a name."""

from dataclasses import replace

import pytest

from detectors.budget import SIGNALS, Budget, BudgetError


def budget(**tiers: str) -> Budget:
    return Budget(
        pages_per_week=1,
        tickets_per_week=20,
        tick_ms=10_000,
        tiers=tiers or {"m": "standard"},  # type: ignore[arg-type]
        max_lanes_per_model=500,
        max_rollups_per_model=16,
    )


def test_the_parts_are_the_whole() -> None:
    assert budget(a="critical", b="standard", c="long_tail", d="standard").proven() == {"page": 1.0, "ticket": 20.0}


def test_all_lanes_of_a_week_and_the_reserve_are_within_it() -> None:
    many = budget(a="critical", b="long_tail")
    spent = 0.0
    for model in many.tiers:
        spent += many.reserve(model)
        for signal in (one for one in many.signals if one.ledger == "page"):
            for detector in signal.detectors:
                each = many.spend(model, detector)
                tick = 16 * (each.rollup + each.recovery_rollup) + 500 * (each.fine + each.recovery_fine)
                spent += tick * many.ticks_per_week
    assert spent == pytest.approx(1.0)


def test_the_excess_is_named() -> None:
    greedy = replace(budget(), signals=(*SIGNALS, replace(SIGNALS[0], name="safety", share=0.1)))
    with pytest.raises(BudgetError, match=r"pages: expected at most 1 a week.*safety 10%.*0.08 too many"):
        greedy.proven()


def test_a_share_without_a_detector_is_named_and_not_spent() -> None:
    assert budget().unbuilt() == ("drift",)
    unspent = {term.what for term in budget().terms() if not term.spent}
    assert unspent == {"drift lanes", "drift recovery", "reserve for deployments"}


def test_a_week_of_deployments_takes_no_more_than_the_reserve() -> None:
    spent = 0.0
    for _ in range(40):
        spent += budget(a="standard", b="standard").lump("a", spent)
    assert spent == pytest.approx(0.1)
