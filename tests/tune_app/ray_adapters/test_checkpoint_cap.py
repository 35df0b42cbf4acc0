"""What a sweep keeps on disk."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from planned import ray_trial

from trainables.objective import Objective
from tune_app.ray_adapters.checkpoint_cap import CheckpointKeeper

DICE = Objective(metric="mean_dice")


def trained(folder: Path, name: str, size: int = 1000, *, best: bool = True) -> Path:
    trial = folder / name
    trial.mkdir()
    for file in ("last.pt", "previous.pt", *(["best.pt"] if best else [])):
        (trial / file).write_bytes(b"x" * size)
    (trial / "history.jsonl").write_text("{}\n")
    return trial


def end(keeper: CheckpointKeeper, folder: Path, name: str, best: object) -> None:
    keeper.on_trial_complete(0, [], ray_trial(folder, name, best_mean_dice=best))


def kept(folder: Path) -> list[str]:
    return sorted(path.parent.name for path in folder.glob("*/best.pt"))


def test_an_ended_trial_keeps_its_best_epoch_only(tmp_path):
    trained(tmp_path, "a")
    trained(tmp_path, "running")
    end(CheckpointKeeper(5, 1, DICE), tmp_path, "a", 0.5)
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["best.pt", "history.jsonl"]
    assert len(list((tmp_path / "running").iterdir())) == 4


def test_weights_that_were_to_be_kept_stay_beyond_the_cap(tmp_path):
    keeper = CheckpointKeeper(1, 1e-9, DICE)
    for name, score in (("good", 0.5), ("poor", 0.1)):
        (trained(tmp_path, name) / "epoch_0002.pt").write_bytes(b"x" * 9000)
        end(keeper, tmp_path, name, score)
    assert kept(tmp_path) == ["good"]
    assert len(list(tmp_path.glob("*/epoch_0002.pt"))) == 2


def test_the_best_in_number(tmp_path):
    keeper = CheckpointKeeper(2, 1, DICE)
    for name, score in (("a", 0.5), ("b", 0.9), ("c", 0.1), ("d", 0.7)):
        trained(tmp_path, name)
        end(keeper, tmp_path, name, score)
    assert kept(tmp_path) == ["b", "d"]


def test_the_best_in_bytes(tmp_path):
    keeper = CheckpointKeeper(99, 2500e-9, DICE)
    for name, score in (("a", 0.5), ("b", 0.9), ("c", 0.6)):
        trained(tmp_path, name, 1000)
        end(keeper, tmp_path, name, score)
    assert kept(tmp_path) == ["b", "c"]


def test_a_smaller_one_may_stay_where_a_larger_one_does_not_fit(tmp_path):
    keeper = CheckpointKeeper(99, 2500e-9, DICE)
    for name, score, size in (("a", 0.9, 2000), ("b", 0.8, 1000), ("c", 0.7, 400)):
        trained(tmp_path, name, size)
        end(keeper, tmp_path, name, score)
    assert kept(tmp_path) == ["a", "c"]


def test_the_best_of_all_stays_however_large(tmp_path):
    trained(tmp_path, "a", 10_000)
    end(CheckpointKeeper(1, 1e-9, DICE), tmp_path, "a", 0.5)
    assert kept(tmp_path) == ["a"]


@pytest.mark.parametrize("best", [math.nan, None, "word"])
def test_a_trial_without_a_score_ranks_last(tmp_path, best):
    keeper = CheckpointKeeper(1, 1, DICE)
    trained(tmp_path, "nan")
    end(keeper, tmp_path, "nan", best)
    trained(tmp_path, "poor")
    end(keeper, tmp_path, "poor", 0.0)
    assert kept(tmp_path) == ["poor"]


def test_a_failed_trial_leaves_nothing_to_resume(tmp_path):
    keeper = CheckpointKeeper(1, 1, DICE)
    trained(tmp_path, "good")
    end(keeper, tmp_path, "good", 0.4)
    trained(tmp_path, "failed")
    keeper.on_trial_error(0, [], ray_trial(tmp_path, "failed"))
    assert kept(tmp_path) == ["good"]
    assert not list((tmp_path / "failed").glob("*.pt"))


def test_a_sweep_that_goes_on_counts_what_is_there(tmp_path):
    scores = {"a": 0.9, "b": 0.2, "gone": 0.95}
    best = {trained(tmp_path, n, best=n != "gone"): DICE.key({"mean_dice": score}) for n, score in scores.items()}
    keeper = CheckpointKeeper(2, 1, DICE, best)
    trained(tmp_path, "new")
    end(keeper, tmp_path, "new", 0.5)
    assert kept(tmp_path) == ["a", "new"]
    assert keeper.enforce() == []


def test_the_thousandth_end_looks_at_no_more_folders_than_the_first(tmp_path, monkeypatch):
    keeper, looked_at = CheckpointKeeper(3, 1, DICE), []
    is_file = Path.is_file
    monkeypatch.setattr(Path, "is_file", lambda path: looked_at.append(path) or is_file(path))
    for number in range(40):
        trained(tmp_path, f"{number:02d}", best=number % 4 != 0)
        looked_at.clear()
        end(keeper, tmp_path, f"{number:02d}", (number * 7 % 40) / 40)
        assert len(looked_at) <= 4, "those that are kept, and the new one"
    assert len(kept(tmp_path)) == 3
