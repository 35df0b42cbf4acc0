"""Where a sweep on a cluster may keep its folder, and how its words travel. No Ray is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from tune_app.errors import InputError
from tune_app.ray_adapters import remote as clusters


@pytest.fixture
def nodes(monkeypatch):
    """Pretends that these nodes do not see a file."""

    def blind(*hosts: str) -> None:
        monkeypatch.setattr(clusters, "_nodes_without", lambda path: [*hosts] if path.exists() else ["no marker"])

    return blind


def test_a_folder_that_all_nodes_see(nodes, tmp_path):
    nodes()
    clusters.refuse_local_folder(tmp_path / "results" / "sweep")
    assert list(tmp_path.iterdir()) == [], "the marker is gone"


def test_a_folder_that_a_node_does_not_see(nodes, tmp_path):
    nodes("n2", "n3")
    with pytest.raises(InputError, match=r"results_dir=.*results: node n2 does not see .*results_dir=PATH$"):
        clusters.refuse_local_folder(tmp_path / "results" / "sweep")


def test_a_folder_in_memory(nodes):
    nodes()
    shm = Path("/dev/shm")
    if clusters._file_system(shm) not in clusters.IN_MEMORY:
        pytest.skip("needs /dev/shm in memory")
    with pytest.raises(InputError, match="this node's memory"):
        clusters.refuse_local_folder(shm / "results" / "sweep")


def test_the_file_system_of_the_innermost_mount():
    assert clusters._file_system(Path("/proc/self")) == "proc"


def test_words_travel_as_they_were_typed():
    assert clusters.plain(["++space.p=0.8", "family=seesaw"]) == ["space.p=0.8", "family=seesaw"]
