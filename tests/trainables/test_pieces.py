"""Batches that go through the network in pieces: the same training, and what a trial does when memory runs out."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from test_engine import weights_of
from test_ranks import Ranks
from tiny_trial import CLASSES, loss_of, tiny_dataset, tiny_settings, trial_config
from torch import Tensor

from trainables import engine as engine_module
from trainables.engine import Engine
from trainables.errors import MemoryShortError
from trainables.steps import Forward
from trainables.trial import SegmentationTrial
from trainables.workers import Workers, is_out_of_memory

BATCH = {"batch_size": 8, "optimizer": "sgd", "lr": 0.1}
"""AdamW would make steps of full size of what rounding leaves of a gradient that is 0."""


def make(pieces: int, family: str = "seesaw", trainer: dict | None = None, **ranks) -> Engine:
    settings = tiny_settings(model={"options": {"norm": "instance"}}, trainer=BATCH | (trainer or {}))
    return Engine(settings, loss_of(family), 0, dataset=tiny_dataset(settings.data), pieces=pieces, **ranks)


@pytest.mark.parametrize("trainer", [{}, {"accumulate": 2}, {"accumulate": 2, "pool_accumulated": False}], ids=str)
@pytest.mark.parametrize("family", ["balanced_softmax", "seesaw"])
@pytest.mark.parametrize("pieces", [2, 8])
def test_pieces_are_the_batch(pieces: int, family: str, trainer: dict) -> None:
    """Rows, counts and weights, where every sample is normalised by itself."""
    whole, parts = make(1, family, trainer), make(pieces, family, trainer)
    for _ in range(2):
        row, found = whole.run_epoch(), parts.run_epoch()
    torch.testing.assert_close(weights_of(parts), weights_of(whole), rtol=1e-3, atol=1e-5)
    for name in ("positive_count", "known_count", "shift", "weight"):
        assert torch.equal(getattr(parts.loss, name), getattr(whole.loss, name))
    for name in ("known", "epochs"):
        np.testing.assert_array_equal(parts.validation[name], whole.validation[name])
    assert found.keys() == row.keys()
    for name in ("loss", "grad_norm", "weight_growth", "lr", *(f"loss/{c}" for c in CLASSES)):
        assert found[name] == pytest.approx(row[name], rel=1e-3)
    assert [found[f"support/{c}"] for c in CLASSES] == [row[f"support/{c}"] for c in CLASSES]


def test_pieces_of_two_ranks_are_the_batch() -> None:
    whole, ranks = make(1), Ranks()
    both = [make(2, rank=r, world=2, reduce=lambda t, r=r: ranks.reduce(r, t)) for r in range(2)]
    row = whole.run_epoch()
    with ThreadPoolExecutor(2) as pool:
        for found in pool.map(Engine.run_epoch, both):
            assert found["loss"] == pytest.approx(row["loss"], rel=1e-3)
    torch.testing.assert_close(weights_of(both[0]), weights_of(whole), rtol=1e-3, atol=1e-5)


def test_dropout_of_each_piece_is_drawn_anew() -> None:
    engine = make(2)
    drawn = []
    for index in (0, 1, 2, 0):
        engine._begin_pass(3, index)
        drawn.append(float(torch.rand(())))
    assert len(set(drawn)) == 3
    assert drawn[3] == drawn[0]


@pytest.fixture
def trial(monkeypatch, tmp_path) -> Iterator[SegmentationTrial]:
    monkeypatch.setattr(engine_module, "open_packed", tiny_dataset)
    monkeypatch.setattr("ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", str(tmp_path / "ray"))
    trial = SegmentationTrial(trial_config(tmp_path / "t", trainer=BATCH | {"epochs": 3}))
    yield trial
    trial.cleanup()


@pytest.fixture
def limit(monkeypatch) -> Callable[[int], None]:
    """Makes the device too small for more than so many patches at once."""

    def only(patches: int) -> None:
        def forward(self: Forward, em: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            if len(em) > patches:
                torch.empty(2**60)
            return whole(self, em, labels)

        monkeypatch.setattr(Forward, "forward", forward)

    whole = Forward.forward
    return only


def test_a_trial_out_of_memory_goes_on_from_its_checkpoint_in_smaller_pieces(trial, limit, tmp_path, caplog) -> None:
    first = trial.step()
    assert "pieces" not in first
    limit(3)
    with caplog.at_level(logging.WARNING):
        second = trial.step()
    told = [record.message for record in caplog.records if "OUT OF MEMORY" in record.message]
    assert [line.split(" (")[0] for line in told] == [f"OUT OF MEMORY with {n} patches at once" for n in (8, 4)]
    limit(2)
    assert (second["pieces"], trial.step()["pieces"]) == (4, 4), "what fits is kept to"
    rows = [json.loads(line) for line in (tmp_path / "t/history.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert rows[0]["loss"] == first["loss"], "what was trained before is not trained again"


def test_the_next_trial_in_the_process_begins_with_what_fitted(trial, limit, tmp_path) -> None:
    limit(4)
    trial.step()
    trial.reset_config(trial_config(tmp_path / "next", trainer=BATCH | {"epochs": 3}))
    assert trial.step()["pieces"] == 2
    trial.reset_config(trial_config(tmp_path / "other", trainer=BATCH | {"epochs": 3, "batch_size": 4}))
    assert "pieces" not in trial.step(), "another batch is another matter"


def test_a_trial_for_which_single_patches_are_too_large_says_so(trial, limit) -> None:
    limit(0)
    with pytest.raises(MemoryShortError, match=r"not even one patch fits.*model\.checkpointing=true"):
        trial.step()


def test_any_other_failure_is_not_taken_for_a_lack_of_memory(trial, monkeypatch) -> None:
    def fail(self, on_step=None):
        raise RuntimeError("something else")

    monkeypatch.setattr(Workers, "run_epoch", fail)
    with pytest.raises(RuntimeError, match="something else"):
        trial.step()
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert not is_out_of_memory(RuntimeError("something else"))
