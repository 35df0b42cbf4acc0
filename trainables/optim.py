"""From a loss to new weights: optimiser and learning-rate schedule by name, clipping, scaling, weight averaging.

Nearly all is torch's. The learning rate is a pure function of the step and the noise in the weights one of the epoch,
so nothing of them is checkpointed; what cannot be one (the rate that falls or rises where the objective stands still,
the average of the weights) is part of the state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel, update_bn

from trainables.hardware import Hardware
from trainables.settings import TrainerSettings, require

NOISE_STREAM = 0x4015E
"""Keeps the noise of the weights apart from what else is drawn with a trial's seed."""


def make_optimizer(parameters: Any, trainer: TrainerSettings) -> torch.optim.Optimizer:
    """The optimiser of `trainer.optimizer`, fused: it takes a scaler's verdict on the device, without a sync.

    parameters: as torch's optimisers take them, a list or groups; a group's `lr_ratio` is its rate over trainer.lr.
    """
    if trainer.optimizer == "sgd":
        return torch.optim.SGD(
            parameters,
            lr=trainer.lr,
            momentum=trainer.momentum,
            nesterov=trainer.nesterov,
            weight_decay=trainer.weight_decay,
            fused=True,
        )
    return torch.optim.AdamW(
        parameters,
        lr=trainer.lr,
        betas=(trainer.betas[0], trainer.betas[1]),
        weight_decay=trainer.weight_decay,
        fused=True,
    )


def learning_rate(step: int, trainer: TrainerSettings) -> float:
    """The rate of step `step` (0-based) but for what a plateau takes from it; warm-up rises linearly."""
    total = trainer.epochs * trainer.iterations_per_epoch
    rate = trainer.lr
    if trainer.schedule == "one_cycle":
        rate = one_cycle_lr(step, total_steps=total, max_lr=trainer.lr, pct_start=trainer.pct_start)
    elif trainer.schedule == "cosine":
        rate = _cosine(trainer.lr, 0.0, step * (trainer.restarts + 1) % total / total)
    return rate * (step + 1) / trainer.warmup_steps if step < trainer.warmup_steps else rate


def one_cycle_lr(step: int, *, total_steps: int, max_lr: float, pct_start: float) -> float:
    """Learning rate of step `step` (0-based): cosine from max_lr/25 up to max_lr, then down to max_lr/250 000.

    torch's OneCycleLR at its default divisors, without its cycling of β₁ (which would override trainer.betas), and a
    pure function: nothing to checkpoint, and short runs whose rise is one step or less do not divide by zero.
    Smith & Topin 2017, arXiv:1708.07120.
    """
    low, end = max_lr / 25, max_lr / 25 / 1e4
    peak, last = pct_start * total_steps - 1, total_steps - 1
    if step < peak:
        return _cosine(low, max_lr, step / peak)
    return _cosine(max_lr, end, (step - peak) / (last - peak)) if last > peak else max_lr


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * min(1.0, max(0.0, share))))


@torch.no_grad()
def sum_as_one(tensors: list[Tensor], reduce: Callable[[Tensor], object], scale: float = 1.0) -> None:
    """Replace each tensor by `scale` times its sum over the ranks, in one message. reduce: sums one in place."""
    whole = torch.cat([tensor.reshape(-1) for tensor in tensors])
    reduce(whole)
    parts = whole.mul_(scale).split([tensor.numel() for tensor in tensors])
    torch._foreach_copy_(tensors, [part.view_as(tensor) for part, tensor in zip(parts, tensors)])


@dataclass
class Stalls:
    """What the learning rate is multiplied by where the objective stands still: a + (k − 1)·b at the k-th time, on top
    of what it was before."""

    factor: float = 1.0
    count: int = 0
    """k, how often it has stood still."""
    epochs: int = 0
    """Epochs since the best figure, or since it last stood still."""
    best: float = math.nan

    def take(self, figure: float, *, mode: str, patience: int, multiplier: Iterable[float]) -> None:
        """Take an epoch's figure; NaN is no progress. More than `patience` epochs without a better one is a stall."""
        better = figure > self.best if mode == "max" else figure < self.best
        if better or (math.isnan(self.best) and not math.isnan(figure)):
            self.best, self.epochs = figure, 0
            return
        self.epochs += 1
        if self.epochs > patience:
            first, more = multiplier
            self.factor *= first + self.count * more
            self.count, self.epochs = self.count + 1, 0


def set_frozen(model: nn.Module, frozen: bool) -> list[nn.Parameter]:
    """Freeze a network's encoder, or let it be trained; what of it is ever trained, [] where there is no encoder."""
    encoder = getattr(model, "encoder", None)
    if encoder is None:
        return []
    if not hasattr(encoder, "trained"):
        encoder.trained = [p for p in encoder.parameters() if p.requires_grad]  # as it was built
    for parameter in encoder.trained:
        parameter.requires_grad_(not frozen)
    found: list[nn.Parameter] = encoder.trained
    return found


class Optimisation:
    """What trains a model with one trainer's settings. Between epochs the model holds the weights that are validated.

    mode: max or min, the objective's direction, for the plateau.
    """

    def __init__(self, model: nn.Module, trainer: TrainerSettings, hardware: Hardware, mode: str) -> None:
        encoder = set_frozen(model, False)
        for name in ("unfreeze_epoch", "lr_encoder"):
            value = getattr(trainer, name)
            rule = "this network has no encoder that could be treated differently"
            require(bool(encoder) or not value, f"trainer.{name}", value, rule, "Leave it out")
        self.frozen = False
        """Whether the encoder is frozen in the present epoch."""
        self.unfreeze_epoch = math.inf if trainer.unfreeze_epoch < 0 else trainer.unfreeze_epoch
        self.model, self.parameters = model, [p for p in model.parameters() if p.requires_grad]
        groups: Any = self.parameters
        if trainer.lr_encoder:
            inside = {id(p) for p in encoder}
            outside = [p for p in self.parameters if id(p) not in inside]
            groups = [
                {"params": outside, "lr_ratio": 1.0},
                {"params": encoder, "lr_ratio": trainer.lr_encoder / trainer.lr},
            ]
        self.optimizer = make_optimizer(groups, trainer)
        # Only float16 underflows.
        self.scaler = torch.amp.GradScaler(hardware.device.type, enabled=hardware.autocast is torch.float16)
        self.plateau: ReduceLROnPlateau | None = None
        if trainer.schedule == "plateau":
            self.plateau = ReduceLROnPlateau(
                self.optimizer,
                mode="max" if mode == "max" else "min",
                factor=trainer.plateau_factor,
                patience=trainer.epochs_here(trainer.plateau_patience),
            )
        self.mode, self.stalls = mode, Stalls() if trainer.plateau_multiplier else None
        self.average = AveragedModel(model) if trainer.swa_from else None
        self._trained: dict[str, Tensor] = {}  # the weights in training, while the model holds their average
        self._held: list[Tensor] = []
        self.optimizer.zero_grad(set_to_none=True)

    def backward(self, output: Tensor, slope: Tensor | None = None, *, part: int = 0, parts: int = 1) -> None:
        """Add the gradient of slope · output (without a slope: output / parts) to that of the parts before it; part 0
        begins anew. No sync.

        slope: as `output` is shaped; what follows is differentiated with respect to it. The gradients in the parameters
        are to be None: freed before the forward pass, which needs the memory.
        """
        if slope is None:
            self.scaler.scale(output if parts == 1 else output / parts).backward()
        else:
            output.backward(self.scaler.scale(slope))
        if parts == 1:
            return
        # A CUDA graph writes its gradients over those of the call before: they are summed up in memory of our own.
        trained = [p for p in self.parameters if p.grad is not None]
        gradients = [p.grad for p in trained if p.grad is not None]
        if part == 0:
            self._held = [gradient.clone() for gradient in gradients]
        else:
            torch._foreach_add_(self._held, gradients)
        for parameter, gradient in zip(trained, self._held):
            parameter.grad = gradient

    def sum_gradients(self, reduce: Callable[[Tensor], object]) -> None:
        """Add up the gradients of all ranks. reduce: sums a tensor in place over them."""
        sum_as_one([p.grad for p in self.parameters if p.grad is not None], reduce)

    def step(self, step: int, trainer: TrainerSettings) -> Tensor:
        """Unscale, clip to norm trainer.clip_grad_norm (0: never), step; the norm before clipping, 0-d. No sync."""
        rate = learning_rate(step, trainer)
        if self.plateau is not None:
            rate *= float(self.plateau.get_last_lr()[0]) / trainer.lr
        if self.stalls is not None:
            rate *= self.stalls.factor
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("lr_ratio", 1.0)
        if self.scaler.is_enabled():
            self.scaler.unscale_(self.optimizer)
        clip = trainer.clip_grad_norm
        norm = nn.utils.clip_grad_norm_(self.parameters, clip if clip > 0 else math.inf)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return norm

    def take_figure(self, figure: float, trainer: TrainerSettings) -> None:
        """Tell the plateau the objective's figure of an epoch; NaN is no progress."""
        if self.stalls is not None:
            patience = trainer.epochs_here(trainer.plateau_patience)
            self.stalls.take(figure, mode=self.mode, patience=patience, multiplier=trainer.plateau_multiplier)
        if self.plateau is not None:
            for group in self.optimizer.param_groups:  # as the plateau left it, without warm-up
                group["lr"] = self.plateau.get_last_lr()[0]
            self.plateau.step(figure)

    def take_up(self, epoch: int) -> None:
        """Before the first step of an epoch, counted from 1: put the weights in training back into the model, in place,
        and train the encoder from its epoch on."""
        self.frozen = epoch < self.unfreeze_epoch
        set_frozen(self.model, self.frozen)
        if self._trained:
            self.model.load_state_dict(self._trained)
            self._trained = {}

    @torch.no_grad()
    def add_noise(self, epoch: int, seed: int, trainer: TrainerSettings) -> None:
        """Before the steps of epoch `epoch` (from 1 on): add the noise of trainer.noise_std, where one is due.

        A pure function of seed and epoch, drawn on the CPU: the same on all ranks and devices and after a resume.
        """
        begin, every = trainer.epochs_here(trainer.noise_from), trainer.epochs_here(trainer.noise_every)
        if trainer.noise_std == 0 or epoch < begin or (epoch - begin) % every:
            return
        drawn_from = np.random.SeedSequence([NOISE_STREAM, seed, epoch])
        generator = torch.Generator().manual_seed(int(drawn_from.generate_state(1, np.uint64)[0] >> np.uint64(1)))
        for parameter in self.parameters:
            noise = torch.randn(parameter.shape, generator=generator) * trainer.noise_std
            if parameter.requires_grad:  # a frozen encoder stays what it is
                parameter.add_(noise.to(parameter.device))

    def put_average(self, forward: nn.Module, batches: Iterable[tuple[Any]]) -> None:
        """Take the model's weights into the average (stochastic weight averaging) and put that into the model.

        The running statistics of batch norm belong to no average: they are taken anew, by `forward` on the first of
        each of `batches`. Izmailov et al. 2018, arXiv:1803.05407.
        """
        assert self.average is not None
        self.average.update_parameters(self.model)
        self._trained = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.model.load_state_dict(self.average.module.state_dict())
        update_bn(batches, forward)

    def state_dict(self) -> dict[str, Any]:
        """Optimiser and scaler, and where there are any the plateau, the stalls, the average and the weights in
        training."""
        state: dict[str, Any] = {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}
        if self.plateau is not None:
            state["plateau"] = self.plateau.state_dict()
        if self.stalls is not None:
            state["stalls"] = asdict(self.stalls)
        if self.average is not None:
            state |= {"average": self.average.state_dict(), "trained": self._trained}
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become what was saved."""
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scaler.is_enabled() and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        if self.plateau is not None:
            self.plateau.load_state_dict(state["plateau"])
        if self.stalls is not None:
            self.stalls = Stalls(**state["stalls"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
            self._trained = dict(state["trained"])
