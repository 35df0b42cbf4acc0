"""The trainable of a Tuner of the user's own that searches a family: the point in, its trial trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray import tune

from search_spaces import ClassCounts, Sections, trial_of
from trainables.data import open_packed
from trainables.settings import DataSettings, from_mapping
from trainables.trial import SegmentationTrial


class FamilyTrial(SegmentationTrial):
    """Trains the point of a family: config {"family": "seesaw", "point": get_family("seesaw").tune_space()}, and what
    `SegmentationTrial` takes without a loss.

    Weights that derive from class counts take those of every voxel of the training crops.
    """

    def setup(self, config: dict[str, Any]) -> None:
        super().setup(with_sections(config))

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        return super().reset_config(with_sections(new_config))

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        return super().default_resource_request(with_sections(config))


def with_sections(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of the trial that `family` and `point` stand for."""
    counts = open_packed(from_mapping(DataSettings, config.get("data", {}), "data")).counts("train")
    trial: Sections = trial_of(config["family"], config["point"], ClassCounts.from_mapping(counts))
    rest = {name: value for name, value in config.items() if name not in ("family", "point")}
    return rest | {name: {**config.get(name, {}), **values} for name, values in trial.items()}
