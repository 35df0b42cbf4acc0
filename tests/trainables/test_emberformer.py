"""The network for series of rasters: its size, what it sees of which frame, what it refuses, and that it trains.

Images of the small one are two to four frames of fire, wind and one static channel, in this order.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_trial import tiny_dataset, tiny_settings, trial_config
from torch import Tensor

from trainables import models
from trainables.engine import Engine
from trainables.errors import SettingsError
from trainables.inference import Inference, load_program, save_program
from trainables.models.emberformer import EmberFormer
from trainables.settings import ModelSettings, network_preset

FIRE, STATIC, CHANNELS = 0, 2, 3
PATCH = 4


def small(steps: int = 4) -> EmberFormer:
    settings = network_preset("emberformer_2d_small")["model"]
    settings["options"]["steps"] = steps
    torch.manual_seed(0)
    network = models.build(
        ModelSettings(**settings), in_channels=steps * CHANNELS, num_classes=1, patch=[1, 16, 16]
    ).eval()
    assert isinstance(network, EmberFormer)
    return network


def frames(batch: int = 2, steps: int = 4, side: int = 16) -> Tensor:
    """(N, T, C, H, W) in [0, 1], float64: an untrained network changes little with what it attends to."""
    drawn = torch.Generator().manual_seed(1)
    return torch.rand(batch, steps, CHANNELS, side, side, dtype=torch.float64, generator=drawn)


def moved(network: EmberFormer, before: Tensor, after: Tensor) -> bool:
    """Whether logits differ by more than what rounding makes of them."""
    with torch.no_grad():
        difference = (network(after.flatten(1, 2)) - network(before.flatten(1, 2))).abs().max()
    assert difference < 1e-12 or difference > 1e-8
    return bool(difference > 1e-8)


@pytest.mark.parametrize(("channels", "parameters"), [(3, 1_068_305), (6, 1_068_993), (12, 1_070_241)])
def test_it_has_the_published_number_of_parameters(channels: int, parameters: int) -> None:
    settings = ModelSettings(**network_preset("emberformer")["model"])
    with torch.device("meta"):
        network = models.build(settings, in_channels=5 * channels, num_classes=1, patch=[1, 64, 64])
    counted = sum(p.numel() for p in network.parameters())
    assert counted == parameters
    assert counted == pytest.approx(1.07e6, rel=0.05)


def test_the_order_of_the_frames_matters_by_their_positions_alone() -> None:
    network, series = small().double(), frames()
    reordered = series[:, [2, 0, 1, 3]]
    assert moved(network, series, reordered)
    network.tokens.positions.zero_()
    assert not moved(network, series, reordered)


def test_what_is_static_is_taken_from_the_newest_frame() -> None:
    network, series = small().double(), frames()
    changed = series.clone()
    changed[:, :-1, STATIC] = 0.0
    assert not moved(network, series, changed)
    changed[:, -1, STATIC] = 0.0
    assert moved(network, series, changed)


def test_of_an_earlier_frame_it_sees_the_mean_of_each_patch_and_of_the_newest_every_pixel() -> None:
    network, series = small().double(), frames()
    mirrored = series.unflatten(-1, (-1, PATCH)).flip(-1).flatten(-2)  # within each patch
    assert not moved(network, series, torch.cat([mirrored[:, :-1], series[:, -1:]], dim=1))
    assert moved(network, series, torch.cat([series[:, :-1], mirrored[:, -1:]], dim=1))


def test_until_the_head_a_patch_of_the_map_depends_on_its_own_history_alone() -> None:
    network, seen = small().double(), []
    network.norm.register_forward_hook(lambda module, given, out: seen.append(out))
    image = frames().flatten(1, 2).requires_grad_()
    network(image)
    seen[0].view(2, 4, 4, -1)[1, 2, 3].square().sum().backward()
    reached = torch.nn.functional.max_pool2d(image.grad.abs().amax(dim=1), PATCH)
    assert reached.nonzero().tolist() == [[1, 2, 3]]


def test_it_remembers_where_fire_was_before_the_newest_frame() -> None:
    """Target: the fire of the oldest of two frames, which attention over time alone can bring to the end."""
    network = small(steps=2).train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-2)
    found = []
    for _ in range(40):
        series = torch.rand(8, 2, CHANNELS, 4, 4).round().repeat_interleave(PATCH, -1).repeat_interleave(PATCH, -2)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(network(series.flatten(1, 2)), series[:, :1, FIRE])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        found.append(float(loss.detach()))
    assert found[0] > 0.5
    assert sum(found[-5:]) / 5 < 0.2


def test_an_epoch_begun_anew_is_the_same_to_the_bit() -> None:
    preset = network_preset("emberformer_2d_small")
    settings = tiny_settings(model=preset["model"], data={"patch": [1, 16, 16]})
    dataset = tiny_dataset(settings.data)
    crops = tuple(replace(crop, em=np.stack([crop.em] * 2 * CHANNELS)) for crop in dataset.crops)
    engine = Engine(settings, trial_config()["loss"], seed=0, dataset=replace(dataset, crops=crops))
    rows = []
    for _ in range(2):
        engine.reset(trial_config()["loss"], 0, settings.trainer)
        rows.append(engine.run_epoch())
    assert rows[0]["diagnosis"] == ""
    assert (rows[0]["loss"], rows[0]["weight_growth"]) == (rows[1]["loss"], rows[1]["weight_growth"])


def test_images_of_a_single_patch_and_of_odd_numbers_of_patches_are_taken_by_the_program_too(tmp_path: Path) -> None:
    network = Inference(small(), [0.0], in_channels=4 * CHANNELS).eval()
    save_program(network, tmp_path / "model.pt2")
    program = load_program(tmp_path / "model.pt2", torch.device("cpu"))
    for batch, height, width in ((1, PATCH, PATCH), (3, PATCH, 5 * PATCH), (2, 11 * PATCH, 9 * PATCH)):
        image = torch.randint(0, 256, (batch, 4 * CHANNELS, height, width), dtype=torch.uint8)
        with torch.no_grad():
            torch.testing.assert_close(program(image), network(image))


@pytest.mark.parametrize(
    ("options", "channels", "words"),
    [
        ({}, 31, ["model.options.steps=5", "must divide", "31", "divides it: 1, 31"]),
        ({}, 1, ["model.options.steps=5", "must divide", "data of 5 frames"]),
        ({"steps": 0}, 30, ["model.options.steps=0", "[1, 1000]"]),
        ({"fire": 6}, 30, ["model.options.fire=6", "6 channels", "30 of the data ÷ 5 steps", "0 to 5"]),
        ({"fire": -1}, 30, ["model.options.fire=-1", "0 to 5"]),
        ({"wind": [1, 6]}, 30, ["model.options.wind=[1, 6]", "0 to 5"]),
        ({"wind": [0, 1]}, 30, ["model.options.wind=[0, 1]", "model.options.fire=0", "twice"]),
        ({"wind": [2, 2]}, 30, ["model.options.wind=[2, 2]", "twice"]),
        ({"wind": 1}, 30, ["model.options.wind=1", "list of whole numbers", "[1,2]"]),
        ({"patch": 6}, 30, ["model.options.patch=6", "2, 4, 8, 16, 32"]),
        ({"heads": 5}, 30, ["model.options.heads=5", "model.width=64"]),
        ({"widths": []}, 30, ["model.options.widths=[]", "at least one level"]),
        ({"head_width": 100}, 30, ["model.options.head_width=100", "multiple of 16", "Use 112"]),
    ],
)
def test_what_it_cannot_take_is_refused(options: dict[str, Any], channels: int, words: list[str]) -> None:
    settings = ModelSettings(name="emberformer", width=64, depth=3, options=options)
    with pytest.raises(SettingsError) as refusal, torch.device("meta"):
        models.build(settings, in_channels=channels, num_classes=1, patch=[1, 64, 64])
    assert [word for word in words if word not in str(refusal.value)] == []


@pytest.mark.parametrize(
    ("patch", "words"),
    [
        ([5, 64, 64], ["data.patch=[5, 64, 64]", "one slice thick", "[1,64,64]"]),
        ([1, 54, 432], ["data.patch=[1, 54, 432]", "divisible by model.options.patch = 8", "[1,56,432]"]),
    ],
)
def test_a_patch_of_several_slices_or_part_of_a_token_is_refused(patch: list[int], words: list[str]) -> None:
    with pytest.raises(SettingsError) as refusal, torch.device("meta"):
        models.build(ModelSettings(name="emberformer", depth=3), in_channels=30, num_classes=1, patch=patch)
    assert [word for word in words if word not in str(refusal.value)] == []
