"""What every architecture keeps to, found by discovery, in 2D and in 3D; the sizes and the files of the comparison.

An architecture is tried in the dimensions of which it has a `…_small`, and in both where it has none.
"""

from __future__ import annotations

import importlib
import io
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_trial import fewest_channels, tiny_dataset, tiny_settings, trial_config
from torch import Tensor, nn

from trainables import models
from trainables.data.sources import open_source
from trainables.engine import Engine
from trainables.errors import SettingsError
from trainables.inference import inference, load_program, save_program
from trainables.settings import ModelSettings, TrialSettings, network_names, network_preset, trial_settings


def dimensions(name: str) -> list[int]:
    return [dims for dims in (2, 3) if f"{name}_{dims}d_small" in network_names()] or [2, 3]


CASES = [pytest.param(name, dims, id=f"{name}-{dims}D") for name in models.model_names() for dims in dimensions(name)]
EVERY = pytest.mark.parametrize(("name", "dims"), CASES)
CHECKPOINTED = [
    case for case in CASES if hasattr(importlib.import_module(f"trainables.models.{case.values[0]}"), "blocks")
]
PARAMETERS = {
    "unet_2d": 31.036,
    "unet_3d": 90.298,
    "resnet_2d": 7.971,
    "resnet_3d": 23.788,
    "swin_2d": 35.81,
    "swin_3d": 62.19,
    "vit_2d": 104.70,
    "vit_3d": 31.94,
}
"""Millions, at fourteen classes."""


def sections(name: str, dims: int) -> dict[str, Any]:
    """Model and patch of the architecture in tiny: as its preset says, else of width 4 and depth 2."""
    if f"{name}_{dims}d_small" in network_names():
        found = network_preset(f"{name}_{dims}d_small")
        return {"model": found["model"], "data": found["data"]}
    return {"model": {"name": name, "width": 4, "depth": 2}, "data": {"patch": [1 if dims == 2 else 16, 16, 32]}}


def settings_of(name: str, dims: int, **model: Any) -> TrialSettings:
    found = sections(name, dims)
    return trial_settings({"model": found["model"] | model, "data": found["data"] | {"classes": ["a", "b", "c"]}})


def built(name: str, dims: int, *, classes: int = 3, least: int = 1, seed: int = 0, **model: Any) -> nn.Module:
    """For the fewest channels, `least` or more, that the architecture takes."""
    settings, channels = settings_of(name, dims, **model), fewest_channels(settings_of(name, dims), least)
    torch.manual_seed(seed)
    return models.build(settings.model, in_channels=channels, num_classes=classes, patch=settings.data.patch)


@EVERY
def test_the_output_bias_is_added_to_the_logits_of_each_class(name: str, dims: int) -> None:
    """From one prior to another all logits of a class move by the difference of its log odds."""
    network, logits = built(name, dims).eval(), []
    image = images(network, name, batch=1)
    for share in ([0.5, 0.5, 0.5], [0.2, 0.0, float("nan")]):
        models.set_output_bias(network, torch.tensor(share))
        with torch.no_grad():
            logits.append(network(image))
    moved = (logits[1] - logits[0]).transpose(0, 1).flatten(1)
    expected = torch.logit(torch.tensor([0.2, models.LEAST_SHARE, 0.5]))[:, None].expand_as(moved)
    torch.testing.assert_close(moved, expected, atol=1e-4, rtol=1e-4)


def images(network: nn.Module, name: str, *, batch: int = 2, least: int = 1) -> Tensor:
    settings = settings_of(name, int(network.spatial_dims))
    torch.manual_seed(1)
    return torch.rand(batch, fewest_channels(settings, least), *settings.data.patch[3 - int(network.spatial_dims) :])


@EVERY
def test_an_architecture_is_2d_and_3d_by_its_patch(name: str, dims: int) -> None:
    network, patch = built(name, dims), sections(name, dims)["data"]["patch"]
    assert network.spatial_dims == dims
    assert all(side % network.stride == 0 for side in patch[-dims:])
    assert getattr(network, "fixed_size", None) in (None, tuple(patch[-dims:]))


@EVERY
@pytest.mark.parametrize("classes", [1, 5, 14])
def test_logits_have_the_shape_of_the_image_and_every_parameter_gets_a_gradient(
    name: str, dims: int, classes: int
) -> None:
    network = built(name, dims, classes=classes, least=5)
    image = images(network, name, least=5)
    logits = network(image)
    space = [1] * dims if getattr(network, "per_image", False) else image.shape[2:]
    assert logits.shape == (2, classes, *space)
    logits.square().sum().backward()
    trained = {n: p.grad for n, p in network.named_parameters() if p.requires_grad}
    assert [n for n, gradient in trained.items() if gradient is None or not gradient.abs().sum() > 0] == []
    assert all(p.grad is None for p in network.parameters() if not p.requires_grad)


@EVERY
def test_the_seed_decides_the_weights(name: str, dims: int) -> None:
    states = [torch.cat([p.flatten() for p in built(name, dims, seed=seed).parameters()]) for seed in (0, 0, 1)]
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


@EVERY
def test_bfloat16_gives_about_the_same_logits_and_in_2d_finite_gradients(name: str, dims: int) -> None:
    network = built(name, dims).eval()
    image = images(network, name, batch=1)
    with torch.no_grad():
        exact = network(image)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = network(image)
    # Each rounding is one of 2⁻⁹, over some tens of layers; a logit of 0 has no relative error to speak of.
    torch.testing.assert_close(logits.float(), exact, rtol=0.2, atol=0.2 * float(exact.std()))
    if dims == 2:  # in 3D those of the CPU are random, and refused: `trainables.hardware.require_cpu_precision`
        logits.float().square().mean().backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


@EVERY
def test_a_fresh_state_in_place_is_a_fresh_model(name: str, dims: int) -> None:
    """As the engine begins a trial anew: nothing of the former one is left, and no tensor has moved."""
    network, fresh = built(name, dims, seed=0), built(name, dims, seed=1)
    image = images(network, name)
    network(image).square().mean().backward()  # running statistics
    tensors = [*network.parameters(), *network.buffers()]
    places = [tensor.data_ptr() for tensor in tensors]
    assert {buffer for buffer, _ in network.named_buffers()} <= set(network.state_dict())
    network.load_state_dict(fresh.state_dict())
    assert [tensor.data_ptr() for tensor in tensors] == places
    with torch.no_grad():
        assert torch.equal(network.eval()(image), fresh.eval()(image))


@EVERY
def test_weights_written_and_read_by_the_exported_program_give_the_same_logits(
    name: str, dims: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through torch.save, a network on the meta device, and torch.export; any batch, and any size or the fixed one."""
    settings, network = settings_of(name, dims), built(name, dims).eval()
    channels = fewest_channels(settings)
    monkeypatch.setattr(type(open_source(settings.data)), "in_channels", channels)
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    file.seek(0)
    exported = inference(settings, torch.load(file, weights_only=True), [0.0, 0.5, 0.0])
    save_program(exported, tmp_path / "model.pt2")
    program = load_program(tmp_path / "model.pt2", torch.device("cpu"))
    sizes = [images(network, name).shape[2:]]
    if exported.fixed_size is None:
        sizes.append(torch.Size([sizes[0][0] + int(network.stride), *sizes[0][1:]]))
    for batch, size in enumerate(sizes, start=1):
        em = torch.randint(0, 256, (batch, channels, *size), dtype=torch.uint8)
        with torch.no_grad():
            expected = network(em.float() / 255) + torch.tensor([0.0, 0.5, 0.0]).view(1, 3, *[1] * dims)
            torch.testing.assert_close(program(em), expected)


@pytest.mark.parametrize(("name", "dims"), CHECKPOINTED)
def test_training_with_recomputed_blocks_is_one_graph(name: str, dims: int) -> None:
    network = built(name, dims, checkpointing=True)
    compiled, graphs = compiled_by_counting(network)
    image = images(network, name)
    compiled(image).square().mean().backward()
    compiled(image + 1).square().mean().backward()
    assert graphs.frame_count == 1


@EVERY
def test_the_network_as_one_graph_gives_the_same_logits_and_gradients(name: str, dims: int) -> None:
    """The graph that the compiler would be given, as it is; `test_engine` compiles one to the end."""
    network = built(name, dims, **without_dropout(name, dims))
    compiled, graphs = compiled_by_counting(network)
    image = images(network, name)
    found = []
    for call in (network, compiled, compiled):
        network.zero_grad()
        logits = call(image)
        logits.square().mean().backward()
        found.append((logits.detach(), torch.cat([p.grad.flatten() for p in network.parameters() if p.requires_grad])))
    assert graphs.frame_count == 1
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-3, atol=1e-3)
    scale = float(found[0][1].abs().max())
    torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-2, atol=1e-3 * scale)


def compiled_by_counting(network: nn.Module) -> tuple[Any, Any]:
    from torch._dynamo.testing import CompileCounterWithBackend

    torch.compiler.reset()
    graphs = CompileCounterWithBackend("aot_eager")
    return torch.compile(network, backend=graphs, fullgraph=True, dynamic=False), graphs


def kept_bytes(network: nn.Module, image: Tensor) -> int:
    """Of the tensors that autograd keeps after a forward pass, weights not counted."""
    weights = {p.untyped_storage().data_ptr() for p in network.parameters()}
    kept: dict[int, int] = {}
    tensors = []  # alive, so that no two of them have had one address

    def keep(tensor: Tensor) -> Tensor:
        tensors.append(tensor)
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(image)
    return sum(kept.values())


@pytest.mark.parametrize(("name", "dims"), CHECKPOINTED)
def test_checkpointing_is_the_same_training_in_less_memory(name: str, dims: int) -> None:
    """Dropout and running statistics included, for the same random numbers."""
    options = {"options": {"dropout": 0.2}} if name == "unet" else {}
    networks = [built(name, dims, checkpointing=checkpointing, **options) for checkpointing in (False, True)]
    image, found = images(networks[0], name), []
    for network in networks:
        torch.manual_seed(2)
        network(image).square().mean().backward()
        found.append([p.grad for p in network.parameters() if p.requires_grad])
    scale = max(float(gradient.abs().max()) for gradient in found[0])
    for gradient, again in zip(*found):
        torch.testing.assert_close(again, gradient, rtol=1e-3, atol=1e-5 * scale)
    assert list(networks[0].state_dict()) == list(networks[1].state_dict())
    for (key, buffer), (_, again) in zip(networks[0].named_buffers(), networks[1].named_buffers()):
        torch.testing.assert_close(again, buffer, msg=key)
    assert kept_bytes(networks[1], image) < 0.8 * kept_bytes(networks[0], image)


def test_checkpointing_is_no_other_training_and_needs_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    from trainables.models import resnet
    from trainables.trial import identity

    config = trial_config()
    assert identity(config) == identity(config | {"model": config["model"] | {"checkpointing": True}})
    monkeypatch.delattr(resnet, "blocks")
    with pytest.raises(SettingsError, match=r"model\.checkpointing=True: model\.name=resnet has no blocks"):
        built("resnet", 2, checkpointing=True)


def without_dropout(name: str, dims: int) -> dict[str, Any]:
    options = dict(sections(name, dims)["model"].get("options", {}))
    options.pop("dropout", None)
    return {"options": options}


@EVERY
def test_an_unknown_option_is_refused_on_the_meta_device(name: str, dims: int) -> None:
    with pytest.raises(SettingsError, match=r"model\.options\.bogus=1"), torch.device("meta"):
        built(name, dims, options={"bogus": 1})


@EVERY
@pytest.mark.parametrize("off", [-1, 1])
def test_a_patch_that_does_not_fit_is_refused_with_one_that_does(name: str, dims: int, off: int) -> None:
    settings = settings_of(name, dims)
    channels = fewest_channels(settings)
    if built(name, dims).stride == 1:
        return  # takes any side
    for axis in range(3 - dims, 3):
        patch = list(settings.data.patch)
        patch[axis] += off
        with pytest.raises(SettingsError, match="divisible") as refusal, torch.device("meta"):
            models.build(settings.model, in_channels=channels, num_classes=1, patch=patch)
        nearest = [int(side) for side in re.search(r"data\.patch=\[(\d+),(\d+),(\d+)\]", str(refusal.value)).groups()]
        assert nearest == settings.data.patch
        with torch.device("meta"):
            models.build(settings.model, in_channels=channels, num_classes=1, patch=nearest)


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_networks_of_the_comparison_have_their_size(name: str) -> None:
    found = network_preset(name)
    settings = ModelSettings(**found["model"])
    with torch.device("meta"):
        network = models.build(settings, in_channels=1, num_classes=14, patch=found["data"]["patch"])
    millions = sum(p.numel() for p in network.parameters()) / 1e6
    assert millions == pytest.approx(PARAMETERS[name], rel=0.001)


@pytest.mark.parametrize("name", [f"{name}_small" for name in PARAMETERS])
def test_a_small_network_trains(name: str) -> None:
    """An epoch through the engine, as the preset says; begun anew it is the same to the bit."""
    found = network_preset(name)
    own = {section: found[section] for section in ("model", "data")}
    trainer = found["trainer"] | {"validation_batches": 1, "iterations_per_epoch": 1}
    settings = tiny_settings(**own, trainer=trainer)
    engine = Engine(settings, trial_config()["loss"], seed=0, dataset=tiny_dataset(settings.data))
    rows = []
    for _ in range(2):
        engine.reset(trial_config()["loss"], 0, settings.trainer)
        rows.append(engine.run_epoch())
    assert rows[0]["diagnosis"] == ""
    assert rows[0]["grad_norm"] > 0
    assert rows[0]["loss"] == rows[1]["loss"]
    assert rows[0]["weight_growth"] == rows[1]["weight_growth"]


@pytest.mark.parametrize(
    ("model", "patch", "words"),
    [
        ({"name": "resnet", "depth": 2}, [1, 64, 64], ["model.depth=2", "blocks_down=[1, 2, 2, 4]", "model.depth=3"]),
        ({"name": "resnet", "depth": 3}, [8, 8, 8], ["data.patch=[8, 8, 8]", "a side above 8", "[8,8,16]"]),
        (
            {"name": "resnet", "depth": 1, "options": {"blocks_down": [0, 1]}},
            [1, 64, 64],
            ["blocks_down=[0, 1]", "positive whole numbers"],
        ),
        ({"name": "swin", "depth": 4, "width": 12}, [1, 64, 64], ["model.depth=4", "5 times", "model.depth=5"]),
        ({"name": "swin", "depth": 5, "width": 64}, [1, 64, 64], ["model.width=64", "multiple of 12", "Use 60"]),
        ({"name": "swin", "depth": 5, "width": 12}, [1, 32, 32], ["data.patch=[1, 32, 32]", "above 32", "[1,32,64]"]),
        ({"name": "swin", "depth": 5, "width": 12}, [16, 64, 64], ["z, y and x", "32", "data.patch=[32,64,64]"]),
        (
            {"name": "swin", "depth": 5, "width": 12, "options": {"depths": [2, 2]}},
            [1, 64, 64],
            ["model.options.depths=[2, 2]", "one per stage", "model.options.depths=[2,2,2,2]"],
        ),
        (
            {"name": "swin", "depth": 5, "width": 12, "options": {"num_heads": [5, 6, 12, 24]}},
            [1, 64, 64],
            ["num_heads=[5, 6, 12, 24]", "[12, 24, 48, 96]"],
        ),
        ({"name": "vit", "depth": 5}, [1, 64, 64], ["model.depth=5", "4 times", "model.depth=4"]),
        ({"name": "vit", "options": {"num_heads": 7}}, [1, 64, 64], ["num_heads=7", "hidden_size=768"]),
        ({"name": "vit", "options": {"dropout": 1}}, [1, 64, 64], ["model.options.dropout=1"]),
        ({"name": "unet", "options": {"dropout": -0.1}}, [1, 64, 64], ["model.options.dropout=-0.1"]),
    ],
)
def test_what_an_architecture_cannot_take_is_refused(model: dict[str, Any], patch: list[int], words: list[str]) -> None:
    with pytest.raises(SettingsError) as refusal, torch.device("meta"):
        models.build(ModelSettings(**model), in_channels=1, num_classes=3, patch=patch)
    assert [word for word in words if word not in str(refusal.value)] == []


def test_there_is_no_such_preset() -> None:
    with pytest.raises(SettingsError, match=r"model=unet_4d.*unet_2d"):
        network_preset("unet_4d")
