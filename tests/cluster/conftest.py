"""A fake Slurm, a real one, and a folder of clusters."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_slurm import FakeSlurm
from slurm_site import Site, slurm_site


@pytest.fixture
def fake_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    return FakeSlurm(tmp_path / "slurm", monkeypatch)


@pytest.fixture
def clusters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "clusters"
    monkeypatch.setenv("TUNE_APP_CLUSTERS", str(folder))
    return folder


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Iterator[Site]:
    with slurm_site(tmp_path_factory.mktemp("site"), shared_cache) as site:
        yield site
