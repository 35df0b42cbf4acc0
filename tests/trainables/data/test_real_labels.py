"""Blocks of a measured brain: four tissues that are frequent and rare, learnt at its back and told at its front."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import real_labels

from trainables.data.check import check
from trainables.data.sources import open_source
from trainables.engine import Engine
from trainables.settings import trial_settings

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("brain")
    real_labels.make(folder / "blocks")
    return {
        "name": "classified_volumes",
        "root": str(folder / "blocks"),
        "cache_dir": str(folder / "cache"),
        "classes": real_labels.CLASSES,
        "patch": list(real_labels.BLOCK),
        "voxel_nm": [1, 1, 1],
        "mirror_y": False,
        "transpose": False,
        "rotate_degrees": 5.0,
        "gain": 0.1,
    }


def trained(data: dict[str, Any], epochs: int, **trainer: Any) -> dict[str, Any]:
    """The last row."""
    fixed = {"iterations_per_epoch": 40, "batch_size": 8, "compile": False, "epochs": epochs, "schedule": "cosine"}
    config = {
        "data": data,
        "model": {"name": "volume_classifier", "width": 8, "depth": 1},
        "trainer": fixed | trainer,
        "hardware": {"device": "cpu"},
        "task": {"name": "classification"},
    }
    weights = trainer.pop("weights", [1.0] * 4)
    engine = Engine(trial_settings(config), {"name": "cross_entropy", "params": {"weights": weights}}, seed=0)
    return [engine.run_epoch() for _ in range(epochs)][-1]


def test_two_thirds_of_the_blocks_are_outside_on_either_side(data: dict[str, Any]) -> None:
    settings = trial_settings({"data": data}).data
    assert {finding.level for finding in check(settings)} == {"info"}
    counts = Counter((item.side, item.label) for item in open_source(settings).items())
    for side in ("train", "validate"):
        shares = [counts[side, name] / sum(counts[side, n] for n in data["classes"]) for name in data["classes"]]
        assert shares[0] == pytest.approx(0.67, abs=0.04)
        assert 0.04 < min(shares) < 0.1


def test_a_frozen_encoder_that_knows_nothing_misses_tissues_and_a_trained_one_finds_all(data: dict[str, Any]) -> None:
    frozen = trained(data, 4, lr=1e-3, unfreeze_epoch=-1)
    learnt = trained(data, 4, lr=3e-3)
    assert frozen["min_recall"] == 0.0
    assert frozen["balanced_accuracy"] < 0.5
    assert learnt["min_recall"] > 0.2
    assert learnt["balanced_accuracy"] > 0.6
    assert learnt["accuracy"] > learnt["balanced_accuracy"], "two thirds are outside"
