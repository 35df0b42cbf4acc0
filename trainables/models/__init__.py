"""The networks. One file per architecture; the file's name is `model.name` on the command line.

A model file defines `build(settings, *, in_channels, num_classes, patch) -> torch.nn.Module`. The module maps
images (N, in_channels, *space) to logits (N, num_classes, *space) and has these attributes:

    spatial_dims   2: its space is H W, the patch is one slice thick; 3: D H W
    stride         of what its sides must be multiples
    fixed_size     the only space that its exported program takes, and so the window of predictions; may be left out,
                   or None: any multiples of the stride
    per_image      True: logits are (N, num_classes, 1, 1, 1), one label for an image; may be left out
    encoder        the part of it that may come trained: trainer.unfreeze_epoch freezes it, trainer.lr_encoder is its
                   learning rate; may be left out. With a method `classified`, from what the encoder gives, (N, E), to
                   logits, its output is kept while it is frozen (trainer.cached_views)
    output_layer   the layer whose bias `set_output_bias` sets; may be left out, where it is the last convolution

`build` refuses what this architecture cannot take: patch, channels, depth, `settings.options`; it runs on the meta
device, too, before a sweep starts. Its layers re-initialise by construction: the engine draws a new model on the CPU
and copies its state_dict in place, so a model needs no reset of its own, and no buffer that is not in the state_dict. A
parameter that never gets a gradient has requires_grad=False. The module is one graph for torch.compile.

A file may also define `blocks(network) -> Iterable[torch.nn.Module]`: what model.checkpointing computes again in the
backward pass, each with tensors in and one tensor out.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from trainables.errors import SettingsError
from trainables.settings import ModelSettings, require, require_choice

EARLIER_NAMES = {"unet2d": "unet"}
"""Names by which sweeps and exports of earlier versions call a model, and the file that it is in now."""


def model_names() -> tuple[str, ...]:
    """Names of all architectures: the files of this package, sorted."""
    return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")))


def build(settings: ModelSettings, *, in_channels: int, num_classes: int, patch: Sequence[int]) -> nn.Module:
    """The network that `settings.name` names, with freshly drawn weights (global torch seed).

    patch: (D, H, W) in voxels, only to be checked against what the architecture can take.
    Raises SettingsError for an unknown name, or a patch, depth or option that the architecture cannot take.
    """
    name = EARLIER_NAMES.get(settings.name, settings.name)
    require_choice("model.name", name, model_names())
    module = importlib.import_module(f"{__name__}.{name}")
    network: nn.Module = module.build(settings, in_channels=in_channels, num_classes=num_classes, patch=patch)
    if settings.checkpointing:
        require(
            hasattr(module, "blocks"),
            "model.checkpointing",
            settings.checkpointing,
            f"model.name={name} has no blocks that could be computed again",
            "Leave it out",
        )
        for block in module.blocks(network):
            block.forward = partial(_recomputed, block.forward, block)
    return network


def _recomputed(forward: Callable[..., Tensor], block: nn.Module, *inputs: Tensor) -> Tensor:
    """What `forward` puts out, of which autograd keeps the inputs alone. Randomness is the same the second time."""
    if not torch.is_grad_enabled():
        return forward(*inputs)
    if torch.compiler.is_compiling():  # a graph updates running statistics once, at its end
        out: Tensor = checkpoint(forward, *inputs, use_reentrant=False)
    else:
        out = checkpoint(forward, *inputs, use_reentrant=False, context_fn=lambda: (nullcontext(), _settled(block)))
    return out


@contextmanager
def _settled(block: nn.Module) -> Iterator[None]:
    """Within it batch norm in training leaves its running statistics alone: they have seen this batch already."""
    held = [(norm, dict(norm._buffers)) for norm in block.modules() if isinstance(norm, _BatchNorm)]
    for norm, buffers in held:  # copies, not None: autograd counts on as many tensors as the first time
        norm._buffers.update({name: value if value is None else value.clone() for name, value in buffers.items()})
    try:
        yield
    finally:
        for norm, buffers in held:
            norm._buffers.update(buffers)


LEAST_SHARE = 1e-4
"""Of a class in `set_output_bias`: one without a positive voxel must still be able to appear."""


@torch.no_grad()
def set_output_bias(network: nn.Module, share: Tensor) -> None:
    """Set the bias of the last layer, in place, so that logits of 0 become the log odds of each class.

    share: (C,) in [0, 1], of the annotated voxels that are positive; NaN, a class that is never annotated, counts as ½.
    The last layer is `output_layer`, or the last convolution of C output channels. Raises SettingsError where it has no
    bias.
    """
    convolutions = [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Conv3d))]
    biases = [m.bias for m in convolutions if m.out_channels == len(share)]
    if (output := getattr(network, "output_layer", None)) is not None:
        biases = [output.bias]
    if not biases or biases[-1] is None:
        name = type(network).__name__
        raise SettingsError(
            f"model.output_bias=prior: the last layer of {name} has no bias. Use model.output_bias=drawn"
        )
    biases[-1].copy_(torch.logit(share.nan_to_num(0.5).clamp(LEAST_SHARE, 1 - LEAST_SHARE)))


def spatial_dims_of(patch: Sequence[int], stride: int, rule: str, *, alternative: str = "", norm_fix: str = "") -> int:
    """2 for a patch (D, H, W) that is one slice thick, else 3.

    SettingsError, which names the nearest size that fits, where a side is not a multiple of `stride`; `rule` says why
    it must be. norm_fix: not empty for a network whose lowest level, a stride-th of the size, has instance norm, which
    needs more than one voxel there; what else helps.
    """
    dims = 2 if patch[0] == 1 else 3
    sides = list(patch[3 - dims :])
    fitting = [max(1, (side + stride // 2) // stride) * stride for side in sides]
    if norm_fix and max(fitting) == stride:
        fitting[-1] = 2 * stride
    nearest = f"For example data.patch=[{','.join(map(str, [1, *fitting][-3:]))}]"
    require(
        all(side % stride == 0 for side in sides),
        "data.patch",
        list(patch),
        f"{'y and x' if dims == 2 else 'z, y and x'} must be divisible by {rule}",
        f"{nearest}{alternative}",
    )
    require(
        not norm_fix or max(sides) > stride,
        "data.patch",
        list(patch),
        f"instance norm needs more than one voxel at the lowest level, a side above {stride}",
        f"{nearest}{norm_fix}",
    )
    return dims
