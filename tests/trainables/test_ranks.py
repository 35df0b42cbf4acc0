"""Two ranks, as threads of this process: their shares make up the whole, and what is reduced is that of one process."""

from __future__ import annotations

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from test_engine import weights_of
from tiny_trial import CLASSES, loss_of, steady, tiny_dataset, tiny_settings
from torch import Tensor

from trainables.data import PatchSampler
from trainables.engine import Engine
from trainables.errors import SettingsError

TRAINER = {"batch_size": 4, "lr": 1e-3}


class Ranks:
    """Sums tensors in place over two threads."""

    def __init__(self) -> None:
        self.barrier = threading.Barrier(2, timeout=60)
        self.given: dict[int, Tensor] = {}

    def reduce(self, rank: int, total: Tensor) -> None:
        self.given[rank] = total.clone()
        self.barrier.wait()
        total.copy_(self.given[0] + self.given[1])
        self.barrier.wait()


def make(family: str, *, norm: str = "instance", trainer: dict | None = None, **ranks) -> Engine:
    settings = tiny_settings(model={"options": {"norm": norm}}, trainer=TRAINER | (trainer or {}))
    return Engine(settings, loss_of(family), 0, dataset=tiny_dataset(settings.data), **ranks)


def both(family: str, **how) -> list[tuple[dict, Engine]]:
    """Row and engine of either rank after two epochs."""
    ranks = Ranks()

    def train(rank: int) -> tuple[dict, Engine]:
        engine = engines[rank]
        engine.run_epoch()
        return engine.run_epoch(), engine

    engines = [make(family, rank=r, world=2, reduce=lambda t, r=r: ranks.reduce(r, t), **how) for r in range(2)]
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(train, range(2)))


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("sampling", ["crop", "class_aware"])
def test_the_shares_of_all_ranks_are_the_batch(world: int, sampling: str) -> None:
    dataset = tiny_dataset(tiny_settings().data)
    whole = PatchSampler(dataset, batch_size=4, seed=3, sampling=sampling).batch(5)
    for rank in range(world):
        sampler = PatchSampler(dataset, batch_size=4, seed=3, sampling=sampling, rank=rank, world=world)
        part = sampler.batch(5)
        for name in ("em", "labels", "crop"):
            assert torch.equal(getattr(part, name), getattr(whole, name)[rank::world])
        assert all(torch.equal(part.draws[name], whole.draws[name][rank::world]) for name in whole.draws)


@pytest.mark.parametrize("trainer", [{}, {"accumulate": 2}, {"accumulate": 2, "pool_accumulated": False}], ids=str)
@pytest.mark.parametrize("family", ["balanced_softmax", "seesaw"])
def test_two_ranks_are_one_process_with_their_batch(family: str, trainer: dict) -> None:
    """Rows, counts and weights, where every sample is normalised by itself. The shifts of balanced_softmax follow from
    the class counts, which the ranks must sum."""
    alone = make(family, trainer=trainer)
    alone.run_epoch()
    row = alone.run_epoch()
    for found, engine in both(family, trainer=trainer):
        torch.testing.assert_close(weights_of(engine), weights_of(alone), rtol=1e-3, atol=1e-5)
        for name in ("positive_count", "known_count", "shift", "weight"):
            assert torch.equal(getattr(engine.loss, name), getattr(alone.loss, name))
        assert float(alone.loss.positive_count.sum()) > 0
        assert engine.count_updates == alone.count_updates
        assert len(alone.count_updates) == 2
        for name in ("known", "epochs"):
            np.testing.assert_array_equal(engine.validation[name], alone.validation[name])
        assert found.keys() == row.keys()
        for name in ("loss", "val_loss", "grad_norm", "weight_growth", "lr", *(f"loss/{c}" for c in CLASSES)):
            assert found[name] == pytest.approx(row[name], rel=1e-3)
        assert [found[f"support/{c}"] for c in CLASSES] == [row[f"support/{c}"] for c in CLASSES]
        assert len(engine.validator.batches) == 3, "of an odd number one rank has one more"


def test_ranks_go_on_from_the_state_of_the_first() -> None:
    """After an odd number of steps, so that a window of counts is open, whose halves lie on the two ranks."""
    (row, whole), _ = both("seesaw", norm="batch")
    state, ranks = whole_after_one("seesaw"), Ranks()

    def resume(rank: int) -> tuple[dict, Engine]:
        engines[rank].load_state_dict(copy.deepcopy(state))  # as another process would have it
        return engines[rank].run_epoch(), engines[rank]

    engines = [
        make("seesaw", norm="batch", rank=r, world=2, reduce=lambda t, r=r: ranks.reduce(r, t)) for r in range(2)
    ]
    with ThreadPoolExecutor(2) as pool:
        for found, engine in pool.map(resume, range(2)):
            assert steady(found) == steady(row)
            assert torch.equal(weights_of(engine), weights_of(whole))


def whole_after_one(family: str) -> dict:
    """The state of rank 0 of two after their first epoch."""
    ranks = Ranks()

    def train(rank: int) -> dict:
        engines[rank].run_epoch()
        return copy.deepcopy(engines[rank].state_dict())

    engines = [make(family, norm="batch", rank=r, world=2, reduce=lambda t, r=r: ranks.reduce(r, t)) for r in range(2)]
    with ThreadPoolExecutor(2) as pool:
        return next(pool.map(train, range(2)))


def test_ranks_keep_the_same_running_statistics() -> None:
    """Batch norm sees its own share on each rank; before every validation pass they share what they have seen."""
    (_, first), (_, second) = both("tversky", norm="batch")
    states = first.model.state_dict(), second.model.state_dict()
    assert any("running_mean" in name for name in states[0])
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def test_a_validation_pass_over_the_same_weights_counts_the_same() -> None:
    alone = make("tversky")
    alone.run_epoch()
    alone.model.eval()
    whole = alone.validator.run(alone.evaluation_step)
    parts = []
    for rank in range(2):
        engine = make("tversky", rank=rank, world=2)
        engine.model.load_state_dict(alone.model.state_dict())
        engine.model.eval()
        assert torch.equal(weights_of(engine), weights_of(alone))
        parts.append(engine.validator.run(engine.evaluation_step))
    for name in ("tp", "fp", "fn", "known", "hist_positive", "hist_negative"):
        np.testing.assert_array_equal(parts[0][name] + parts[1][name], whole[name])
    assert parts[0]["val_loss"] + parts[1]["val_loss"] == pytest.approx(whole["val_loss"])
    assert (parts[0]["sigmoid"] == whole["sigmoid"]).all()
    assert not parts[1]["sigmoid"].any()


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"trainer\.batch_size=4.*3 ranks.*multiple of 3"):
        make("tversky", rank=0, world=3)  # of 4
