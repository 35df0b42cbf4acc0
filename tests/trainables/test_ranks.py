"""Two ranks, as threads of this process: their shares make up the whole, and what is reduced is that of one process."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from test_engine import weights_of
from tiny_trial import CLASSES, loss_of, tiny_dataset, tiny_settings
from torch import Tensor

from trainables.data import PatchSampler
from trainables.engine import Engine
from trainables.errors import SettingsError

FROZEN = {"lr": 1e-30, "batch_size": 4, "weight_decay": 0}
"""Gradients are not averaged here: with a rate of nothing both ranks keep the weights of one process."""


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


def make(family: str, **ranks) -> Engine:
    settings = tiny_settings(trainer=FROZEN)
    return Engine(settings, loss_of(family), 0, dataset=tiny_dataset(settings.data), **ranks)


def both(family: str) -> list[tuple[dict, Engine]]:
    """Row and engine of either rank after two epochs."""
    ranks = Ranks()

    def train(rank: int) -> tuple[dict, Engine]:
        engine = engines[rank]
        engine.run_epoch()
        return engine.run_epoch(), engine

    engines = [make(family, rank=rank, world=2, reduce=lambda t, r=rank: ranks.reduce(r, t)) for rank in range(2)]
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


def test_reduced_counts_and_scores_are_those_of_one_process() -> None:
    """balanced_softmax: its shifts follow from the class counts, which the ranks must sum."""
    alone = make("balanced_softmax")
    alone.run_epoch()
    row = alone.run_epoch()
    for found, engine in both("balanced_softmax"):
        for name in ("positive_count", "known_count", "shift"):
            assert torch.equal(getattr(engine.loss, name), getattr(alone.loss, name))
        assert float(alone.loss.positive_count.sum()) > 0
        for name in ("known", "epochs"):
            np.testing.assert_array_equal(engine.validation[name], alone.validation[name])
        assert [found[f"support/{c}"] for c in CLASSES] == [row[f"support/{c}"] for c in CLASSES]
        assert len(engine.validator.batches) == 3, "of an odd number one rank has one more"


def test_a_validation_pass_over_the_same_weights_counts_the_same() -> None:
    """Batch norm sees other batches on each rank, so the running statistics are set alike before the pass."""
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
        make("tversky", rank=0, world=3)
