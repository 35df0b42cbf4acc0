"""Fixtures: a small data set on disk and settings that read it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from volume_writer import write_small

from trainables.settings import DataSettings


@pytest.fixture(scope="session")
def small_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    write_small(folder)
    return folder


@pytest.fixture
def small_root(small_template: Path, tmp_path: Path) -> Path:
    """`write_small` in a folder of its own: tests may damage it."""
    return Path(shutil.copytree(small_template, tmp_path / "data"))


@pytest.fixture
def settings_for(tmp_path: Path) -> Callable[..., DataSettings]:
    """DataSettings for a root, cache in tmp_path; nuc and pm, 16² patches unless told otherwise."""

    def make(root: Path, **more: Any) -> DataSettings:
        given = {"classes": ["nuc", "pm"], "patch": [1, 16, 16], "validation_fraction": 0.25} | more
        return DataSettings(name="cellmap", root=str(root), cache_dir=str(tmp_path / "cache"), **given)

    return make
