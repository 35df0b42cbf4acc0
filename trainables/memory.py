"""What a training step needs in memory, worked out from shapes: nothing is computed, and nothing but shapes allocated.

A step runs on tensors without storage (torch's FakeTensorMode) as an uncompiled step would on real ones, and what lives
at once is added up. A compiled step keeps less for its backward pass, a GPU's libraries have work space of their own,
and an allocator cannot use every gap: docs/memory.md says how well it agrees with what was measured.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from trainables import losses, models
from trainables.data.expand import packed_bytes
from trainables.hardware import PRECISIONS, Hardware
from trainables.settings import TrialSettings, trial_settings
from trainables.steps import Forward
from trainables.tasks import get_task

MOMENTS = {"adamw": 2, "sgd": 1}
"""Numbers that an optimiser keeps for each weight."""


def step_bytes(settings: TrialSettings, *, in_channels: int, patches: int, gpu: bool, workers: int = 1) -> int:
    """Bytes that live at once at the most demanding moment of a training step, in one process.

    patches: of one forward pass of one process. gpu: whether precision=auto means half. workers: processes that sum
    their gradients. data.classes are to be names, not `auto`. The loss is a Tversky loss. Raises SettingsError where
    there is no such network, or it does not take the patch. Takes seconds, and nothing for what it was asked before.
    """
    data, trainer, hardware = settings.data, settings.trainer, settings.hardware
    asked = {  # what matters, so that trials that differ in the rest are reckoned once
        "data": {"classes": list(data.classes), "patch": list(data.patch), "intensity": list(data.intensity)},
        "model": asdict(settings.model) | {"output_bias": "drawn"},
        "trainer": {
            "optimizer": trainer.optimizer,
            "accumulate": min(2, trainer.accumulate),
            "swa_from": min(1, trainer.swa_from),
        },
        "hardware": {"precision": hardware.precision, "channels_last": hardware.channels_last},
        "task": asdict(settings.task),
    }
    return _step_bytes(json.dumps(asked, sort_keys=True), in_channels, patches, gpu, workers)


def state_bytes(settings: TrialSettings, *, in_channels: int) -> int:
    """Of these the part that does not depend on the patches: weights, and what the optimiser keeps of each."""
    network = _shapes_of(settings, in_channels)
    return sum(parameter.nbytes for parameter in network.parameters()) + _kept(settings, network)


def _shapes_of(settings: TrialSettings, in_channels: int) -> nn.Module:
    outputs = get_task(settings.task.name, settings.task.options).outputs(settings.data.classes)
    with torch.device("meta"):
        return models.build(
            settings.model, in_channels=in_channels, num_classes=len(outputs), patch=settings.data.patch
        )


def _kept(settings: TrialSettings, network: nn.Module) -> int:
    """Bytes beside weights and gradients: the optimiser's, and the average of the weights with those in training."""
    weights, trained = (sum(p.nbytes for p in some) for some in (network.parameters(), _trained(network)))
    return MOMENTS[settings.trainer.optimizer] * trained + 2 * weights * bool(settings.trainer.swa_from)


def _trained(network: nn.Module) -> Iterable[nn.Parameter]:
    return (parameter for parameter in network.parameters() if parameter.requires_grad)


@lru_cache(maxsize=256)
def _step_bytes(config: str, in_channels: int, patches: int, gpu: bool, workers: int) -> int:
    from torch._subclasses.fake_tensor import FakeTensorMode  # its import takes seconds

    settings = trial_settings(json.loads(config))
    data, trainer, precision = settings.data, settings.trainer, settings.hardware.precision
    task = get_task(settings.task.name, settings.task.options)
    outputs = task.outputs(data.classes)
    hardware = Hardware(
        device=torch.device("cpu"),
        autocast=torch.bfloat16 if precision in PRECISIONS or (precision == "auto" and gpu) else None,
        channels_last=settings.hardware.channels_last,
        threads=1,
        memory_fraction=1.0,
        tf32=False,
    )
    network = _shapes_of(settings, in_channels)
    with FakeTensorMode(allow_non_fake_inputs=True):
        network = network.to_empty(device=hardware.device).train()
        forward = Forward(network, task, data.classes, hardware, data.intensity)
        loss = losses.build("static", {"weights": [1.0] * len(outputs)}, outputs)
        em = torch.empty(patches, in_channels, *data.patch, dtype=torch.uint8)
        labels = torch.empty(patches, packed_bytes(len(data.classes)), *data.patch, dtype=torch.uint8)
        with Living([*network.parameters(), *network.buffers(), em, labels]) as living:
            loss.with_counts(*forward(em, labels))[0].backward()
    trained = sum(parameter.nbytes for parameter in _trained(network))
    summed = trained * (trainer.accumulate > 1)
    return _kept(settings, network) + summed + max(living.most, living.now + trained * (workers > 1))


class Living(TorchDispatchMode):
    """Adds up the storages that live: `now`, and at the `most`. known: tensors that are there before it is entered."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.now = self.most = 0
        self._sizes: dict[int, int] = {}
        for tensor in known:
            self._see(tensor)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_iter(out):
            if isinstance(leaf, Tensor):
                self._see(leaf)
        return out

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._sizes:
            self._sizes[storage._cdata] = storage.nbytes()
            self.now += storage.nbytes()
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self._gone, storage._cdata)

    def _gone(self, key: int) -> None:
        with suppress(KeyError):
            self.now -= self._sizes.pop(key)
