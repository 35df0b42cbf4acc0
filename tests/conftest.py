"""The order of the files of tests."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that start a real Ray first, the longest before the others: with a file per process, none is waited for."""
    counts: dict[object, int] = {}
    for item in items:
        counts[item.path] = counts.get(item.path, 0) + (item.get_closest_marker("ray") is not None)
    items.sort(key=lambda item: -counts[item.path])
