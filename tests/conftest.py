"""What all tests share."""

import shutil
from pathlib import Path

import pytest
from hypothesis import settings

HELPERS = [f"tests.{folder.parent.name}" for folder in Path(__file__).parent.glob("*/[!_]*.py")]
pytest.register_assert_rewrite(*sorted(set(HELPERS)))  # what fails in a helper shows its values too

settings.register_profile("tocsin", deadline=None)  # no test asserts a time
settings.load_profile("tocsin")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Write into the JUnit file what each test needs beside Python: continuous integration sees that it was there.

    A program that is not there, marker `program`, skips its tests, for a laptop need not have it; the reason says how to
    bring it, and continuous integration fails (`deploy/verdict.py`).
    """
    for item in items:
        if item.get_closest_marker("kafka") is not None:
            item.user_properties.append(("needs", "a real Kafka"))
        for marker in item.iter_markers("program"):
            (name,) = marker.args
            item.user_properties.append(("needs", name))
            if shutil.which(name) is None:
                item.add_marker(
                    pytest.mark.skip(reason=f"no {name} on this machine: `apt-get install {name}` brings it")
                )
