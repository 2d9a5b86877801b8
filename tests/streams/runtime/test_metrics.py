"""Metrics: one table, named as Prometheus' users expect, documented as it stands."""

import os
import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from streams.runtime.metrics import METRICS, Exporter, Measure, registry_of

OPERATIONS = Path(__file__).parents[3] / "docs" / "operations.md"
UNITS = ("seconds", "bytes", "ratio", "rows", "offsets", "records", "outputs", "labels", "ticks", "info")
"""What a gauge's last word may be, where it is no noun of its own."""
NOUNS = ("ready", "owned", "paused", "open", "waiting", "hand", "week")


def documented() -> list[str]:
    """Return the rows that docs/operations.md has to have, made from the table."""
    return [
        f"| `{name}` | {', '.join(f'`{label}`' for label in one.labels) or '-'} | {one.help} |"
        for name, one in METRICS.items()
    ]


@pytest.mark.parametrize("name", METRICS)
def test_a_name_ends_with_its_unit_and_a_counter_with_total(name: str) -> None:
    one = METRICS[name]
    assert re.fullmatch(r"tocsin(_[a-z]+)+", name)
    assert (one.kind == "counter") == name.endswith("_total")
    assert one.kind == "counter" or name.rpartition("_")[2] in UNITS + NOUNS
    assert one.help.endswith(".")
    assert len(set(one.labels)) == len(one.labels)


def test_the_page_for_operators_lists_each_metric_as_the_table_has_it() -> None:
    text = OPERATIONS.read_text()
    rows = [line for line in text.splitlines() if line.startswith("| `tocsin_")]
    if os.environ.get("UPDATE_GOLDEN") == "1" and rows != documented():
        whole = "\n".join(rows)
        assert whole in text, "the rows stand together"
        OPERATIONS.write_text(text.replace(whole, "\n".join(documented())))
        return
    assert rows == documented(), "UPDATE_GOLDEN=1 writes the table anew"


def test_what_is_scraped_can_be_read_and_says_what_it_is() -> None:
    registry = registry_of([lambda: [Measure("tocsin_lag_offsets", ("join", 'a "topic"\n', "3"), 7.0)]])
    text = generate_latest(registry).decode()
    found = {family.name: family for family in text_string_to_metric_families(text)}
    (sample,) = found["tocsin_lag_offsets"].samples
    assert (sample.labels["topic"], sample.value) == ('a "topic"\n', 7.0)
    assert found["tocsin_lag_offsets"].documentation == METRICS["tocsin_lag_offsets"].help
    assert {name.removesuffix("_total") for name in METRICS} <= found.keys()


def test_a_name_that_is_not_in_the_table_is_a_defect() -> None:
    registry = CollectorRegistry()
    registry.register(Exporter([lambda: [Measure("tocsin_invented", (), 1.0)]]))
    with pytest.raises(KeyError, match="tocsin_invented"):
        generate_latest(registry)


def test_two_registries_of_one_process_do_not_meet() -> None:
    for _ in range(2):
        assert b"tocsin_build_info" in generate_latest(registry_of([]))
