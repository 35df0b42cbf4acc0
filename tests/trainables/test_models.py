"""Every architecture, and the published size of the UNet."""

from __future__ import annotations

import contextlib

import pytest
import torch

from trainables import models
from trainables.errors import SettingsError
from trainables.settings import ModelSettings

PATCHES = ([1, 32, 64], [32, 32, 32])
"""In 2D and in 3D; an architecture takes one of them at least."""


def small(name: str, patch: list[int]) -> tuple[torch.nn.Module, list[int]]:
    """A network of two input channels and three classes, and the space of its images; skips a patch it refuses."""
    try:
        settings = ModelSettings(name=name, width=4, depth=2)
        model = models.build(settings, in_channels=2, num_classes=3, patch=patch)
    except SettingsError as refusal:
        pytest.skip(str(refusal))
    return model, patch[3 - model.spatial_dims :]


@pytest.mark.parametrize(
    ("name", "patch", "classes", "parameters"),
    [
        ("unet", [1, 256, 256], 5, 31_036_741),
        ("unet2d", [1, 256, 256], 5, 31_036_741),
        ("unet", [32, 128, 128], 14, 90_299_406),
    ],
)
def test_the_unet_has_the_published_number_of_parameters(name, patch, classes, parameters):
    with torch.device("meta"):
        unet = models.build(
            ModelSettings(name=name, width=64, depth=4), in_channels=1, num_classes=classes, patch=patch
        )
    assert sum(p.numel() for p in unet.parameters()) == parameters


def test_the_earlier_name_gives_the_same_network():
    """Weights, their names (exports and checkpoints hold them) and logits, to the bit."""
    networks = []
    for name in ("unet", "unet2d"):
        torch.manual_seed(0)
        networks.append(
            models.build(
                ModelSettings(name=name, width=4, depth=2), in_channels=1, num_classes=3, patch=[1, 16, 16]
            ).eval()
        )
    states = [network.state_dict() for network in networks]
    assert list(states[0]) == list(states[1])
    assert {"first.0.weight", "down.1.3.weight", "up.0.up.bias", "up.1.convs.4.running_var", "head.bias"} < set(
        states[0]
    )
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    image = torch.randn(1, 1, 16, 16)
    assert torch.equal(*(network(image) for network in networks))


@pytest.mark.parametrize("name", models.model_names())
def test_an_architecture_takes_a_patch(name):
    taken = 0
    for patch in PATCHES:
        with contextlib.suppress(SettingsError):
            models.build(ModelSettings(name=name, width=4, depth=2), in_channels=1, num_classes=3, patch=patch)
            taken += 1
    assert taken


@pytest.mark.parametrize("patch", PATCHES, ids=["2D", "3D"])
@pytest.mark.parametrize("name", models.model_names())
def test_logits_have_the_shape_of_the_image_and_every_parameter_gets_a_gradient(name, patch):
    model, space = small(name, patch)
    logits = model(torch.randn(2, 2, *space))
    assert logits.shape == (2, 3, *space)
    assert all(side % model.stride == 0 for side in space)
    logits.square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("patch", PATCHES, ids=["2D", "3D"])
@pytest.mark.parametrize("name", models.model_names())
def test_the_seed_decides_the_weights(name, patch):
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(torch.cat([p.flatten() for p in small(name, patch)[0].parameters()]))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


@pytest.mark.parametrize("patch", PATCHES, ids=["2D", "3D"])
@pytest.mark.parametrize("name", models.model_names())
def test_the_output_bias_is_added_to_the_logits_of_each_class(name, patch):
    """From one prior to another all logits of a class move by the difference of its log odds."""
    model, space = small(name, patch)
    image, logits = torch.randn(1, 2, *space), []
    for share in ([0.5, 0.5, 0.5], [0.2, 0.0, float("nan")]):
        models.set_output_bias(model, torch.tensor(share))
        with torch.no_grad():
            logits.append(model.eval()(image))
    moved = (logits[1] - logits[0]).transpose(0, 1).flatten(1)
    least = models.LEAST_SHARE
    expected = torch.logit(torch.tensor([0.2, least, 0.5]))[:, None].expand_as(moved)
    torch.testing.assert_close(moved, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", models.model_names())
def test_an_unknown_option_is_refused_on_the_meta_device(name):
    settings = ModelSettings(name=name, width=4, depth=2, options={"bogus": 1})
    with pytest.raises(SettingsError, match=r"model\.options\.bogus=1"), torch.device("meta"):
        models.build(settings, in_channels=1, num_classes=3, patch=PATCHES[0])


@pytest.mark.parametrize("patch", PATCHES, ids=["2D", "3D"])
def test_the_option_norm_of_the_unet_treats_every_sample_by_itself(patch):
    settings = ModelSettings(width=4, depth=2, options={"norm": "instance"})
    model = models.build(settings, in_channels=1, num_classes=3, patch=patch)
    images = torch.randn(2, 1, *patch[3 - model.spatial_dims :])
    torch.testing.assert_close(model(images)[:1], model(images[:1]))


@pytest.mark.parametrize(("depth", "last"), [(1, 9), (2, 21), (3, 45)])
def test_the_unet_sees_as_far_as_its_depth(depth, last):
    """The last image row that the output of row 0 depends on; weights of one sign, so that nothing cancels.

    Every 3 × 3 convolution looks one row further at its level, and every pooling over a brightening image picks the
    lower of two rows: from the bottom, row r of level l stems from rows up to 2(r + 2) + 1 of level l - 1.
    """
    unet = models.build(ModelSettings(width=2, depth=depth), in_channels=1, num_classes=1, patch=[1, 128, 8]).double()
    for parameter in unet.parameters():
        torch.nn.init.constant_(parameter, 0.125)
    image = torch.arange(1.0, 129, dtype=torch.float64).view(1, 1, 128, 1).repeat(1, 1, 1, 8).requires_grad_()
    unet.eval()(image)[..., 0, :].sum().backward()
    seen = image.grad.amax(dim=(0, 1, 3)).nonzero()
    assert int(seen.max()) == last


@pytest.mark.parametrize(
    ("settings", "patch", "words"),
    [
        ({}, [1, 250, 256], ["data.patch=[1, 250, 256]: y and x", "2**model.depth = 16", "data.patch=[1,256,256]"]),
        ({}, [20, 64, 64], ["data.patch=[20, 64, 64]: z, y and x", "2**model.depth = 16", "data.patch=[32,64,64]"]),
        ({"name": "unet2d"}, [16, 64, 64], ["data.patch", "one slice thick", "model.name=unet"]),
        ({"options": {"norm": "layer"}}, [1, 64, 64], ["model.options.norm=layer", "batch, instance"]),
        ({"options": {"norm": "instance"}}, [1, 16, 16], ["data.patch", "more than one voxel", "above 16"]),
        ({"name": "unet4d"}, [1, 256, 256], ["model.name=unet4d", "unet"]),
        ({"name": "_hidden"}, [1, 256, 256], ["model.name=_hidden", "unet"]),
    ],
)
def test_what_cannot_be_built_is_refused(settings, patch, words):
    with pytest.raises(SettingsError) as error, torch.device("meta"):
        models.build(ModelSettings(**settings), in_channels=1, num_classes=5, patch=patch)
    assert all(word in str(error.value) for word in words)
