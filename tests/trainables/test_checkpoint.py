"""Checkpoints survive crashes: atomic writes, rotation, and the fall-back to the one before."""

from __future__ import annotations

import pytest
import torch

from trainables import checkpoint
from trainables.errors import CheckpointError


def cut_short(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


@pytest.fixture
def folder(tmp_path):
    """last.pt of epoch 2 and previous.pt of epoch 1."""
    for epoch in (1, 2):
        checkpoint.rotate(tmp_path, {"epoch": epoch, "w": torch.arange(1000.0) * epoch})
    return tmp_path


def test_round_trip(tmp_path):
    state = {"w": torch.randn(3, 4), "nested": {"list": [1, 2.5, "x", None], "nan": float("inf")}}
    checkpoint.write(tmp_path / "a.pt", state)
    loaded = checkpoint.read(tmp_path / "a.pt")
    assert torch.equal(loaded["w"], state["w"])
    assert loaded["nested"] == state["nested"]
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]


def test_the_newest_is_read_and_the_one_before_kept(folder):
    found = checkpoint.read_latest(folder)
    assert (found.state["epoch"], found.path.name, found.warning) == (2, "last.pt", "")
    assert checkpoint.read(folder / "previous.pt")["epoch"] == 1
    checkpoint.rotate(folder, {"epoch": 3})
    assert checkpoint.read(folder / "previous.pt")["epoch"] == 2
    assert sorted(p.name for p in folder.iterdir()) == ["last.pt", "previous.pt"]


def test_nothing_there_is_no_error(tmp_path):
    assert checkpoint.read_latest(tmp_path) is None


@pytest.mark.parametrize("damage", [cut_short, lambda p: p.write_bytes(b""), lambda p: p.write_bytes(b"x" * 999)])
def test_a_damaged_one_falls_back_and_names_both(folder, damage):
    damage(folder / "last.pt")
    found = checkpoint.read_latest(folder)
    assert found.state["epoch"] == 1
    assert str(folder / "last.pt") in found.warning
    assert str(folder / "previous.pt") in found.warning


def test_flipped_bytes_are_noticed(folder):
    data = bytearray((folder / "last.pt").read_bytes())
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(255 - b for b in data[middle : middle + 64])
    (folder / "last.pt").write_bytes(bytes(data))
    assert checkpoint.read_latest(folder).state["epoch"] == 1


def test_a_crash_between_the_two_renames_leaves_the_one_before(folder):
    (folder / "last.pt").replace(folder / "previous.pt")
    found = checkpoint.read_latest(folder)
    assert found.state["epoch"] == 2
    assert "last.pt does not exist" in found.warning


def test_two_damaged_ones_are_an_error_that_names_both(folder):
    cut_short(folder / "last.pt")
    cut_short(folder / "previous.pt")
    with pytest.raises(CheckpointError, match=r"(?s)last\.pt.*previous\.pt"):
        checkpoint.read_latest(folder)


def test_a_write_that_dies_half_way_changes_nothing(folder, monkeypatch):
    def die(state, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", die)
    with pytest.raises(OSError, match="No space"):
        checkpoint.rotate(folder, {"epoch": 3})
    assert checkpoint.read_latest(folder).state["epoch"] == 2


def test_code_in_a_file_is_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("code from a checkpoint was run",))

    torch.save({"epoch": Bomb()}, tmp_path / "last.pt")
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoint.read(tmp_path / "last.pt")


def test_something_else_is_refused(tmp_path):
    torch.save([1, 2], tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="holds no checkpoint but a list"):
        checkpoint.read(tmp_path / "a.pt")
