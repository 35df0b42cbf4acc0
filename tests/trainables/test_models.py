"""Every architecture, and the published size of the UNet."""

from __future__ import annotations

import pytest
import torch

from trainables import models
from trainables.errors import SettingsError
from trainables.settings import ModelSettings

SMALL = {"unet2d": ([1, 16, 24], (16, 24))}
"""Per architecture: a patch it takes, and the space of its input."""


def small(name: str, **more: int) -> tuple[torch.nn.Module, tuple[int, ...]]:
    patch, space = SMALL[name]
    settings = ModelSettings(name=name, **({"width": 4, "depth": 2} | more))
    return models.build(settings, in_channels=1, num_classes=3, patch=patch), space


def test_unet2d_has_the_published_number_of_parameters():
    with torch.device("meta"):
        unet = models.build(ModelSettings(width=64, depth=4), in_channels=1, num_classes=5, patch=[1, 256, 256])
    assert sum(p.numel() for p in unet.parameters()) == 31_036_741


@pytest.mark.parametrize("name", models.model_names())
def test_logits_have_the_shape_of_the_image(name):
    model, space = small(name)
    assert model.spatial_dims == len(space)
    assert model(torch.randn(2, 1, *space)).shape == (2, 3, *space)


@pytest.mark.parametrize("name", models.model_names())
def test_every_parameter_gets_a_gradient(name):
    model, space = small(name)
    model(torch.randn(4, 1, *space)).square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("name", models.model_names())
def test_the_seed_decides_the_weights(name):
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(torch.cat([p.flatten() for p in small(name)[0].parameters()]))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


@pytest.mark.parametrize(("depth", "last"), [(1, 9), (2, 21), (3, 45)])
def test_unet2d_sees_as_far_as_its_depth(depth, last):
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
    ("name", "patch", "words"),
    [
        ("unet2d", [1, 250, 256], ["data.patch", "divisible by 2**model.depth = 16"]),
        ("unet2d", [8, 256, 256], ["data.patch", "one slice thick"]),
        ("unet4d", [1, 256, 256], ["model.name=unet4d", "unet2d"]),
        ("_hidden", [1, 256, 256], ["model.name=_hidden", "unet2d"]),
    ],
)
def test_what_cannot_be_built_is_refused(name, patch, words):
    with pytest.raises(SettingsError) as error:
        models.build(ModelSettings(name=name), in_channels=1, num_classes=5, patch=patch)
    assert all(word in str(error.value) for word in words)
