"""The UNet: its published size, its earlier name, its options."""

from __future__ import annotations

import pytest
import torch

from trainables import models
from trainables.errors import SettingsError
from trainables.settings import ModelSettings


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


@pytest.mark.parametrize("patch", [[1, 32, 64], [32, 32, 32]], ids=["2D", "3D"])
def test_the_option_norm_of_the_unet_treats_every_sample_by_itself(patch):
    settings = ModelSettings(width=4, depth=2, options={"norm": "instance"})
    model = models.build(settings, in_channels=1, num_classes=3, patch=patch)
    images = torch.randn(2, 1, *patch[3 - model.spatial_dims :])
    torch.testing.assert_close(model(images)[:1], model(images[:1]))


def test_the_option_dropout_of_the_unet_drops_in_training_and_renames_no_weight():
    torch.manual_seed(0)
    plain, dropping = (
        models.build(ModelSettings(width=4, depth=2, options=options), in_channels=1, num_classes=3, patch=[1, 16, 16])
        for options in ({}, {"dropout": 0.5})
    )
    dropping.load_state_dict(plain.state_dict())
    image = torch.randn(1, 1, 16, 16)
    assert not torch.equal(dropping(image), dropping(image))
    assert torch.equal(plain.eval()(image), dropping.load_state_dict(plain.state_dict()) and dropping.eval()(image))


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
        ({}, [20, 64, 64], ["data.patch=[20, 64, 64]: z, y and x", "2**model.depth = 16", "data.patch=[16,64,64]"]),
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
