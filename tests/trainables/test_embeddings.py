"""Embeddings of a frozen encoder: the same training as by the encoder itself, made once, and made anew where they
would be others."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_volume_classifier import engine_of

from trainables.embeddings import Embeddings
from trainables.engine import Engine

STILL = {"mirror": False, "mirror_z": False, "transpose": False, "rotate_degrees": 0.0, "gain": 0.0}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNE_APP_CACHE", str(tmp_path))
    return tmp_path / "embeddings"


def still(engine: Engine) -> Engine:
    """Without augmentation."""
    for name, value in STILL.items():
        setattr(engine.dataset.settings, name, value)
    engine.reset({"name": "cross_entropy", "params": {"weights": [1.0] * 3}}, 0, engine.settings.trainer)
    return engine


def test_without_augmentation_it_is_the_training_by_the_encoder_itself(cache: Path) -> None:
    cached, direct = (still(engine_of(unfreeze_epoch=-1, cached_views=n)) for n in (2, 0))
    for _ in range(2):
        one, other = cached.run_epoch(), direct.run_epoch()
        for name in ("loss", "val_loss", "balanced_accuracy", "grad_norm", "train_accuracy"):
            assert one[name] == pytest.approx(other[name], rel=1e-4), name
    assert len(list(cache.glob("*.npy"))) == 1


def test_they_are_made_once_and_read_by_trials_of_other_heads_rates_and_weights(cache: Path) -> None:
    engine = engine_of(unfreeze_epoch=-1, cached_views=2)
    engine.run_epoch()
    (made,) = cache.glob("*.npy")
    os.utime(made, (1, 1))
    trainer = engine_of(unfreeze_epoch=-1, cached_views=2, lr=1e-4).settings.trainer
    engine.reset({"name": "cross_entropy", "params": {"weights": [1.0, 2.0, 3.0]}}, 0, trainer)
    engine.run_epoch()
    assert [path.stat().st_mtime for path in cache.glob("*.npy")] == [1]


def test_another_encoder_number_of_views_or_augmentation_is_another_file() -> None:
    def key(seed: int = 0, views: int = 2, **changed: Any) -> str:
        engine = engine_of()
        for name, value in changed.items():
            setattr(engine.dataset.settings, name, value)
        engine.reset({"name": "cross_entropy", "params": {"weights": [1.0] * 3}}, seed, engine.settings.trainer)
        encoder: Any = engine.model.encoder
        return Embeddings.key(encoder, engine.dataset, views, engine.hardware)

    assert key() == key()
    others = [key(seed=1), key(views=3), key(gain=0.1), key(split_seed=1), key(mirror=False)]
    assert len({key(), *others}) == 6


def test_views_differ_and_the_first_is_plain() -> None:
    engine = engine_of(unfreeze_epoch=-1, cached_views=3)
    engine.run_epoch()
    found = engine.validator.embeddings
    assert found is not None
    train = found.table[0]
    assert len({tuple(row) for row in train.tolist()}) > 2
    crop = torch.from_numpy(np.array(engine.dataset.crops[0].em))[None, None].float() / 255
    with torch.no_grad():
        torch.testing.assert_close(engine.model.eval().encoder(crop)[0], train[0], rtol=1e-4, atol=1e-5)
    assert found.table[-1, 1:].abs().sum() == 0  # of a crop that validates there is the plain view alone


def test_unfreezing_goes_on_by_the_encoder_and_a_resumed_trial_to_the_bit() -> None:
    def fresh() -> Engine:
        return engine_of(unfreeze_epoch=2, cached_views=2, lr_encoder=1e-3)

    straight = fresh()
    start = torch.cat([p.detach().flatten().clone() for p in straight.model.encoder.parameters()])
    rows = [straight.run_epoch()]
    assert straight.validator.embeddings is not None
    rows.append(straight.run_epoch())
    assert straight.validator.embeddings is None
    assert not torch.equal(torch.cat([p.detach().flatten() for p in straight.model.encoder.parameters()]), start)
    first, resumed = fresh(), fresh()
    first.run_epoch()
    resumed.load_state_dict(first.state_dict())
    assert resumed.run_epoch()["loss"] == rows[1]["loss"]


def test_a_file_that_was_not_finished_is_not_read(cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / "half.part").write_bytes(b"x")
    started = time.time()
    engine_of(unfreeze_epoch=-1, cached_views=1).run_epoch()
    (made,) = cache.glob("*.npy")
    assert made.stat().st_mtime >= started - 1
