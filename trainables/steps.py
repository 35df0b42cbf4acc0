"""The pieces of a training step: learning rate, the two compiled graphs, the optimiser step, and loading ahead.

Shapes: N batch, K input channels, C classes, D H W space, P packed label bytes per voxel. For a 2D model D = 1 and the
space is H W.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from trainables.hardware import Hardware, compiler_problem
from trainables.tasks import Task

logger = logging.getLogger(__name__)
T = TypeVar("T")
Patches = tuple[Tensor, Tensor]
"""EM and labels on the device."""


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


def normalise(em: Tensor) -> Tensor:
    """Grey values 0…255 of any dtype to float32 in [0, 1]."""
    grey = em.float() / 255
    return grey if em.dtype == torch.uint8 else grey.clamp(0, 1)


class Forward(nn.Module):
    """Packed bytes to logits and targets: the part that the training and the evaluation graph share."""

    def __init__(self, model: nn.Module, task: Task, classes: Sequence[str], hardware: Hardware) -> None:
        super().__init__()
        self.model, self.task, self.classes, self.hardware = model, task, tuple(classes), hardware
        spatial_dims = getattr(model, "spatial_dims", 3)
        self.flat, self.memory_format = spatial_dims == 2, hardware.memory_format(spatial_dims)

    def forward(self, em: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """em uint8 (N, K, D, H, W), labels uint8 (N, P, D, H, W): logits and target float32 (N, C, *space)."""
        image, target = normalise(em), self.task.target(labels, self.classes)
        if self.flat:
            image, target = image[:, :, 0], target[:, :, 0]
        image = image.contiguous(memory_format=self.memory_format)
        with self._autocast():
            logits = self.model(image)
        return logits.float(), target

    def _autocast(self) -> AbstractContextManager[Any]:
        """None at all where precision is off: a graph with an autocast in it cannot be found in the on-disk cache."""
        dtype = self.hardware.autocast
        return nullcontext() if dtype is None else torch.autocast(self.hardware.device.type, dtype=dtype)


class Step:
    """A function compiled on its first call; where no compiler works, the same function run eagerly, said once.

    reduce-overhead on CUDA captures CUDA graphs, which read weights and buffers by address: whoever re-initialises them
    must copy in place. Shapes are static; there is one graph per Step.
    """

    def __init__(self, function: Callable[..., Any], *, compiled: bool, cuda: bool) -> None:
        self.eager = function
        self.cuda = cuda
        self.compiled = compiled
        mode = "reduce-overhead" if cuda else "default"
        self.call = torch.compile(function, mode=mode, dynamic=False, fullgraph=True) if compiled else function
        self._proven = not compiled

    def __call__(self, *tensors: Tensor) -> Any:
        """The function's outputs. On CUDA they live until the next call: use them up before it."""
        if self.cuda and self.compiled:
            torch.compiler.cudagraph_mark_step_begin()
        return self.call(*tensors) if self._proven else self._first_call(tensors)

    def _first_call(self, tensors: tuple[Tensor, ...]) -> Any:
        from torch._dynamo.exc import BackendCompilerFailed
        from torch._inductor.exc import InductorError

        self._proven = True
        try:
            return self.call(*tensors)
        except (BackendCompilerFailed, InductorError) as error:
            reason = " ".join(line for line in str(error).splitlines()[:3] if line)
            warn_eager(f"torch.compile failed ({reason or type(error).__name__})")
            self.call, self.compiled = self.eager, False
            return self.call(*tensors)


def warn_eager(problem: str) -> None:
    """Say that training runs uncompiled, why, and what to do about it."""
    logger.warning("Training runs uncompiled, and slower: %s. trainer.compile=false silences this.", problem)


def can_compile(wanted: bool) -> bool:
    """Whether to compile: `wanted`, and a compiler is there. Where it is not, warns once with the fix."""
    problem = compiler_problem() if wanted else ""
    if problem:
        warn_eager(problem)
    return wanted and not problem


def optimise(
    loss: Tensor,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    parameters: list[nn.Parameter],
    clip: float,
) -> Tensor:
    """Backward, unscale, clip to norm `clip` (0: never), step; returns the norm before clipping, 0-d, on the device.

    No host sync: a fused optimiser takes the scaler's verdict as a tensor and skips the step on the device.
    """
    scaler.scale(loss).backward()
    if scaler.is_enabled():
        scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(parameters, clip if clip > 0 else math.inf)
    scaler.step(optimizer)
    scaler.update()
    return norm


def load_ahead(load: Callable[[int], T], steps: Iterable[int], depth: int) -> Iterator[T]:
    """`load(step)` for each step in order, up to `depth` of them ahead of use on one thread; depth 0 loads inline."""
    if depth == 0:
        yield from map(load, steps)
        return
    pending: deque[Any] = deque()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="loader") as pool:
        for step in steps:
            pending.append(pool.submit(load, step))
            if len(pending) > depth:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


class Waiting:
    """Iterates over `items` and adds up in `seconds` how long it waited for them."""

    def __init__(self, items: Iterable[Any]) -> None:
        self._items = iter(items)
        self.seconds = 0.0

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        started = time.perf_counter()
        try:
            return next(self._items)
        finally:
            self.seconds += time.perf_counter() - started


def prepare_ahead(batches: Iterable[T], prepare: Callable[[T], Patches], device: torch.device) -> Iterator[Patches]:
    """`prepare(batch)` of each batch in order: transfer to the device and what is done to the batch there.

    On CUDA one batch ahead of use, on a stream of its own, so that copy engine and idle multiprocessors work beside a
    training step and not between two of them. No host synchronisation.
    """
    if device.type != "cuda":
        yield from map(prepare, batches)
        return
    stream, user = torch.cuda.Stream(device), torch.cuda.current_stream(device)
    pending: deque[tuple[Patches, torch.cuda.Event]] = deque()
    for batch in batches:
        with torch.cuda.stream(stream):
            pending.append((prepare(batch), stream.record_event()))
        if len(pending) > 1:
            yield _handed_over(*pending.popleft(), user)
    while pending:
        yield _handed_over(*pending.popleft(), user)


def _handed_over(patches: Patches, ready: torch.cuda.Event, user: torch.cuda.Stream) -> Patches:
    """Patches of another stream, for use on `user` from now on; their memory is not reused before it is done."""
    user.wait_event(ready)
    for tensor in patches:
        tensor.record_stream(user)
    return patches
