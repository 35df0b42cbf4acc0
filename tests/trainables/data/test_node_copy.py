"""A finished cache is copied to the node's own disk, once and whole, where the node says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainables.data.packed import on_this_node


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    folder = tmp_path / "shared" / "abc"
    folder.mkdir(parents=True)
    (folder / "index.json").write_text("{}")
    (folder / "0.em.npy").write_bytes(b"voxels")
    return folder


def test_without_a_place_the_shared_cache_is_used(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TUNE_APP_NODE_CACHE", raising=False)
    assert on_this_node(shared) == shared


def test_the_copy_is_made_once(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNE_APP_NODE_CACHE", str(tmp_path / "node"))
    copy = on_this_node(shared)
    assert copy == tmp_path / "node" / "packed" / "abc"
    assert sorted(path.name for path in copy.iterdir()) == ["0.em.npy", "index.json"]
    (shared / "0.em.npy").write_bytes(b"gone")
    assert (on_this_node(shared) / "0.em.npy").read_bytes() == b"voxels"


def test_where_it_cannot_be_copied_the_shared_one_is_read(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TUNE_APP_NODE_CACHE", str(tmp_path / "file"))
    assert on_this_node(shared) == shared
    assert "could not be copied" in caplog.text
