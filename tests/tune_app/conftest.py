"""Where the tests of a file run the program."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sweeps import Place, place_in


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Iterator[Place]:
    with place_in(tmp_path_factory.mktemp("it's a place (für alles), wirklich"), shared_cache) as made:
        yield made


@pytest.fixture(autouse=True)
def nothing_left_running(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "place" in request.fixturenames:
        request.getfixturevalue("place").stop_all()
