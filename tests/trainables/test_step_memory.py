"""The memory that a step is said to need, against what PyTorch's allocator was asked for in a step."""

from __future__ import annotations

from typing import Any

import pytest
from tiny_trial import fewest_channels

from benchmarks.memory import held_by_steps
from trainables.memory import state_bytes, step_bytes
from trainables.settings import TrialSettings, network_names, network_preset, trial_settings

SMALL = [name for name in network_names() if name.endswith(("_2d_small", "_3d_small"))]
CLASSES = [f"class{c}" for c in range(14)]
DEVIATION = 0.25


def settings_of(name: str, **sections: dict[str, Any]) -> TrialSettings:
    preset = network_preset(name)
    asked: dict[str, Any] = {"data": {"classes": CLASSES}, "trainer": {"accumulate": 1}, "hardware": {"device": "cpu"}}
    asked["task"] = {"name": "classification" if preset["model"]["name"] == "volume_classifier" else "multilabel"}
    return trial_settings(
        {part: preset.get(part, {}) | asked.get(part, {}) | sections.get(part, {}) for part in ("model", *asked)}
    )


@pytest.mark.parametrize("name", SMALL)
def test_it_is_what_a_step_takes(name: str) -> None:
    settings = settings_of(name)
    patches, channels = settings.trainer.batch_size, fewest_channels(settings)
    said = step_bytes(settings, in_channels=channels, patches=patches, gpu=False)
    assert said == pytest.approx(held_by_steps(settings, patches, channels), rel=DEVIATION)


def test_it_grows_with_what_a_trial_asks_for() -> None:
    def said(patches: int = 4, gpu: bool = False, workers: int = 1, **sections: dict[str, Any]) -> int:
        return step_bytes(
            settings_of("unet_2d_small", **sections), in_channels=1, patches=patches, gpu=gpu, workers=workers
        )

    state, one = state_bytes(settings_of("unet_2d_small"), in_channels=1), said()
    assert said(8) - state == pytest.approx(2 * (one - state), rel=0.05)
    assert said(gpu=True) < one, "half precision"
    assert said(gpu=True, hardware={"precision": "off"}) == one
    assert said(model={"checkpointing": True}) < one
    weights = state // 3
    assert said(trainer={"optimizer": "sgd"}) == one - weights
    assert said(trainer={"accumulate": 2}) == one + weights, "gradients are summed in memory of their own"
    assert said(trainer={"swa_from": 1}) == one + 2 * weights
    assert said(workers=2) >= one
    assert said(data={"patch": [1, 128, 128]}) > 2 * one


def test_nothing_is_allocated_for_networks_as_they_were_published() -> None:
    """300 GB or so."""
    settings = settings_of("unet_3d")
    assert step_bytes(settings, in_channels=1, patches=26, gpu=False) > 100e9
