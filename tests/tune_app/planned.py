"""Settings, counts and Ray trials for tests that need neither data nor Ray."""

from __future__ import annotations

import functools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
from omegaconf import OmegaConf
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from search_spaces import ClassCounts
from trainables.data import PackedCrop, PackedDataset
from trainables.settings import FIVE_CLASSES
from tune_app.settings.command_line import Composed, compose
from tune_app.settings.schema import Settings
from tune_app.settings.stored import merged

COUNTS = ClassCounts(FIVE_CLASSES, (90_000, 70_000, 60_000, 20_000, 5_000), (1_000_000,) * 5, "test")
PAPER_COUNTS = ClassCounts.published()


GROUPS = ("data", "model", "trainer", "hardware", "search", "experiment")


def settings_of(*words: str) -> Settings:
    """The settings that these words on the command line give."""
    return composed_of(*words).settings


def composed_of(*words: str) -> Composed[Settings]:
    """As `compose` gives it; Hydra, which is slow, is asked once per choice of groups."""
    groups = tuple(word for word in words if word.split("=")[0] in GROUPS)
    others = [word for word in words if word not in groups]
    settings = merged(_composed_groups(groups).as_dict(), OmegaConf.from_dotlist(others), {}, source="test")
    return Composed(settings, list(words))


@functools.cache
def _composed_groups(groups: tuple[str, ...]) -> Settings:
    composed = compose("run", Settings, groups)
    assert composed is not None
    return composed.settings


def dataset_in_memory(settings: Any) -> PackedDataset:
    """One training crop of nothing but unknown voxels, with counts: enough for a sweep to be planned."""
    shape, classes = (1, 64, 64), tuple(settings.classes)
    planes = np.zeros((-(-len(classes) // 4), *shape), np.uint8)
    positive, known = np.full(len(classes), 100), np.full(len(classes), 4000)
    positions = np.zeros((len(classes), 8, 3), np.int32)
    crop = PackedCrop(
        "cells/crop1", "train", shape, np.zeros(shape, np.uint8), planes, (0, 0, 0), positive, known, positions
    )
    return PackedDataset(settings, classes, (crop,), "f00d", "", Path())


def study_of_one(**params: float) -> optuna.Study:
    """A study in memory with trial 0 running, whose parameters lie in 0–2."""
    study = optuna.create_study(direction="maximize")
    axes = {name: FloatDistribution(0.0, 2.0) for name in params}
    attributes = {"family": "seesaw", "preset": None, "seed": 3}
    study.add_trial(create_trial(state=TrialState.RUNNING, params=params, distributions=axes, user_attrs=attributes))
    return study


def ray_trial(folder: Path, name: str = "0000_arm", **last_result: Any) -> Any:
    """What callbacks read of a Ray trial."""
    config = {"run": {"number": 0, "name": name, "dir": str(folder / name)}, "loss": {"name": "seesaw"}}
    return SimpleNamespace(
        trial_id=name, config=config, evaluated_params={}, last_result=last_result, checkpoint=None, logdir=None
    )
