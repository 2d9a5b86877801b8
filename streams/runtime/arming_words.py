"""What is armed in a baseline, what is not, why, and what helps? In words for people and in rows for scripts."""

from collections.abc import Mapping, Sequence

from detectors.detector import Unarmed
from detectors.fitting import LONGEST_AGE_TICKS, Learned
from detectors.suitability import Doubt, Doubtful
from detectors.table import DETECTORS
from schemas.baseline import Baseline
from schemas.lane import Lane
from schemas.model import Model
from streams.runtime.lines import plain
from streams.runtime.terminal import columns, lasting

GROUPS = ("whole model", "versions", "segment values", "version x segment")
MOST_NAMED = 3
"""Lanes of one reason that are named; the others are counted."""

ACCEPT_SHORT, ACCEPT_FAULTY = "--accept-short", "--accept-faulty"

WORDS: Mapping[Unarmed, tuple[str, str]] = {
    Unarmed.NO_LABELS: (
        "the history has no labels",
        "bring them, beside the outputs (label, labelled_at_ms) or in a file of their own (--labels FILE)",
    ),
    Unarmed.FEW_LABELS: ("the history has too few labels", "bring more of them, or a longer history"),
    Unarmed.LATE_LABELS: (
        "labels come too late for their delay to be followed",
        f"nothing does: the wait for a label is followed for {LONGEST_AGE_TICKS:,} ticks, a week at 10 s",
    ),
    Unarmed.NO_PROMISE: ("no accuracy is promised", "set sla_accuracy of the model, in (0, 1), if there is a promise"),
    Unarmed.NO_FEATURES: ("no features are declared", "list those that matter in the model's features"),
    Unarmed.NO_CONFIDENCE: ("outputs have neither a score nor probabilities", "send score or probabilities"),
    Unarmed.NO_TRAFFIC: ("the history has no traffic", "bring one that has"),
    Unarmed.FEW_ROWS: ("the history holds too little of a lane", "bring a longer one; a rare value has no remedy"),
    Unarmed.BUSIER_LANES: (
        "the budget is divided between fewer lanes than there are, and these are not the busiest",
        "raise detect.max_rollups_per_model or detect.max_lanes_per_model: each lane's share falls by it",
    ),
    Unarmed.RANG: (
        "it rings in its own healthy past, however much is tolerated",
        "look whether that history was healthy, and leave out the time in which it was not",
    ),
}
"""Why, and what helps."""


def group_of(lane: str) -> str:
    """Name the group of a lane.

    >>> [group_of(name) for name in ("*", "version:7", "segment:SEX=1", "version:7|segment:SEX=1")]
    ['whole model', 'versions', 'segment values', 'version x segment']
    """
    of = Lane.of(lane)
    return GROUPS[bool(of.version) + 2 * bool(of.segment)]


def signals(learned: Learned) -> list[dict[str, object]]:
    """Say for each detector and group of lanes how many are armed, of how many it is meant for, and why not the others."""
    rows: list[dict[str, object]] = []
    for name in DETECTORS:
        armed, unarmed = learned.baseline.armed.get(name, ()), learned.unarmed[name]
        for group in GROUPS:
            on = [lane for lane in armed if group_of(lane) == group]
            off = [why for lane, why in unarmed.items() if group_of(lane) == group]
            if on or off:
                rows.append(
                    {
                        "detector": name,
                        "lanes": group,
                        "of": len(on) + len(off),
                        "armed": len(on),
                        "unarmed": {why.value: off.count(why) for why in dict.fromkeys(off)},
                    }
                )
    return rows


def table(learned: Learned) -> list[str]:
    """Show the same as a table: a row a detector, a column a group; `-` where it is not meant for them."""
    cells = {(row["detector"], row["lanes"]): f"{row['armed']} of {row['of']}" for row in signals(learned)}
    tolerance = learned.baseline.tolerance
    rows = [
        (
            name,
            *(cells.get((name, group), "-") for group in GROUPS),
            f"{tolerance[name]:g}" if name in tolerance else "-",
        )
        for name in DETECTORS
    ]
    return columns(("lanes armed", *GROUPS, "tolerance, log-odds"), rows)


def reasons(learned: Learned, model: Model) -> list[str]:
    """Say why what is not armed is not, and what helps: two lines a reason."""
    lines = []
    for reason, (words, remedy) in WORDS.items():
        of = [
            _named(name, [lane for lane, why in unarmed.items() if why == reason], learned.baseline, reason)
            for name, unarmed in learned.unarmed.items()
            if reason in unarmed.values()
        ]
        if of:
            lines += [f"{words}: {', '.join(of)}", f"  {remedy}"]
    broken = learned.unarmed["accuracy_below_sla"]
    if broken.get("*") == Unarmed.RANG and model.sla_accuracy is not None:
        lines.append(
            f"  accuracy in that history: {_accuracy(learned.baseline):.1%}; promised: {model.sla_accuracy:.1%}"
        )
    return lines


def _named(name: str, lanes: Sequence[str], baseline: Baseline, reason: Unarmed) -> str:
    """Name a detector, and its lanes where others of it are armed or have another reason."""
    least = f", each needs {DETECTORS[name].least}" if reason == Unarmed.FEW_ROWS else ""
    if not baseline.armed.get(name) and not least:
        return name
    some = ", ".join(plain(lane) for lane in lanes[:MOST_NAMED]) + (", …" if len(lanes) > MOST_NAMED else "")
    return f"{name} ({len(lanes)} lane{'s' * (len(lanes) > 1)}: {some}{least})"


def _accuracy(baseline: Baseline) -> float:
    """Share of the labelled outputs of the whole model that were right."""
    total, wrong = (int(baseline.arrays[name][0].sum()) for name in DETECTORS["accuracy_below_sla"].needs)
    return 1 - wrong / total


def doubtful(one: Doubtful) -> tuple[str, str]:
    """Say what is doubtful in a history, and what helps; where it is grave, how to take it all the same.

    >>> doubtful(Doubtful(doubt=Doubt.SHORT, observed=2_000_000, limit=3_600_000, grave=True))[0]
    'the history spans 33 min 20 s, at least 1 h is expected: it shows one moment, not how traffic and errors go'
    """
    name, share = plain(one.feature), f"{one.observed:.1%} of the outputs"
    match one.doubt:
        case Doubt.FEW:
            return (
                f"the history has {one.observed:,} outputs, at least {one.limit:,} are expected",
                "bring a longer one",
            )
        case Doubt.SHORT:
            words = (
                f"the history spans {lasting(round(one.observed))}, at least {lasting(round(one.limit))} is expected: "
                "it shows one moment, not how traffic and errors go"
            )
            return words, f"bring a longer one, best some weeks, or take it as it is: {ACCEPT_SHORT}"
        case Doubt.NOT_A_WEEK:
            words = f"the history spans {lasting(round(one.observed))} and not a week: what is usual on its other days"
            return f"{words} is not known, and may ring", "best bring some weeks"
        case Doubt.MISSING:
            words = f"required feature {name} is missing (null or absent) in {share}, which is healthy from now on"
            remedy = "bring a history in which it is there, or take it out of the model's `required`"
        case Doubt.WRONG_TYPE:
            words = (
                f"feature {name} is not of the type that it is declared to be in {share}, which is healthy from now on"
            )
            remedy = "declare the type that it has in the model's `features`, or bring a history in which it is right"
        case Doubt.NEVER_THERE:
            return f"feature {name} is declared and never there: nothing is learned of it", "take it out, or send it"
    if one.grave:
        words += f"; from {one.limit:.0%} on no rule watches it"
        remedy += f", or take it as it is: {ACCEPT_FAULTY} {name}"
    return words, remedy
