"""What all tests share."""

import pytest
from hypothesis import settings

settings.register_profile("tocsin", deadline=None)  # no test asserts a time
settings.load_profile("tocsin")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Write into the JUnit file which tests need a broker: continuous integration counts them."""
    for item in items:
        if item.get_closest_marker("kafka") is not None:
            item.user_properties.append(("marker", "kafka"))
