"""The order of the files of tests, and one cache for all that run the program: the phantom is packed once."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import foreign_data
import pytest
from filelock import FileLock


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of all processes of this run of the tests."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "cache"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def foreign_root(shared_cache: Path) -> Path:
    """`foreign_data`, written once for all processes. Only read it."""
    root = shared_cache.with_name("foreign")
    with FileLock(root.with_suffix(".lock")):
        if not root.exists():
            making = root.with_suffix(".making")
            foreign_data.make(making)
            making.rename(root)
    return root


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that start a real Ray first, the longest before the others: with a file per process, none is waited for.

    How long a file takes is guessed by the time limit of its tests, then by how many there are.
    """
    limits: dict[object, list[float]] = {}
    for item in items:
        limit = item.get_closest_marker("timeout")
        if limit and item.get_closest_marker("ray"):
            limits.setdefault(item.path, []).append(limit.args[0])
    items.sort(key=lambda item: [-max(limits[item.path]), -len(limits[item.path])] if item.path in limits else [0, 0])


def pytest_collection_finish() -> None:
    """What is imported by now stays: no collection of garbage need look at it again (half a second each, PyTorch)."""
    gc.freeze()
