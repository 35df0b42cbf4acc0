"""The pieces of a step: the two compiled graphs, what is summed over an epoch, and loading ahead.

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

from trainables.data.maps import expand_maps
from trainables.hardware import Hardware, compiler_problem
from trainables.losses.terms import Maps
from trainables.tasks import Task

logger = logging.getLogger(__name__)
T = TypeVar("T")
Patches = tuple[Tensor, Tensor]
"""EM and labels on the device."""
MOST_GRAPHS = 64
"""Of one step, in one process."""


def normalise(em: Tensor, intensity: Sequence[float] = ()) -> Tensor:
    """Grey values 0…255 of any dtype to float32 in [0, 1].

    intensity: [low, high] in grey values, see data.intensity; what is darker or brighter becomes 0 or 1. Empty: all.
    """
    if intensity:
        low, high = intensity
        return ((em.float() - low) / (high - low)).clamp(0, 1)
    grey = em.float() / 255
    return grey if em.dtype == torch.uint8 else grey.clamp(0, 1)


class Forward(nn.Module):
    """Packed bytes to logits and targets: the part that the training and the evaluation graph share.

    maps: whether there are maps behind the labels, for the loss.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        classes: Sequence[str],
        hardware: Hardware,
        intensity: Sequence[float] = (),
        *,
        maps: bool = False,
    ) -> None:
        super().__init__()
        self.intensity = tuple(intensity)
        self.mapped = [classes.index(name) for name in task.outputs(classes)] if maps else []
        self.model, self.task, self.classes, self.hardware = model, task, tuple(classes), hardware
        spatial_dims = getattr(model, "spatial_dims", 3)
        self.flat, self.memory_format = spatial_dims == 2, hardware.memory_format(spatial_dims)

    def forward(self, em: Tensor, labels: Tensor) -> Any:
        """em uint8 (N, K, D, H, W), labels uint8 (N, P, D, H, W): logits and target float32 (N, C, *space), and their
        `Maps` where there are any."""
        if em.dim() == 2:  # what a frozen encoder has made of images, (N, E)
            classified: Any = self.model.classified
            with self._autocast():
                return classified(em).float(), self.task.target(labels, self.classes)
        image, target = normalise(em, self.intensity), self.task.target(labels, self.classes)
        if self.flat:
            image, target = image[:, :, 0], target[:, :, 0]
        image = image.contiguous(memory_format=self.memory_format)
        with self._autocast():
            logits = self.model(image)
        if not self.mapped:
            return logits.float(), target
        maps = (of_all[:, self.mapped] for of_all in expand_maps(labels, len(self.classes)))
        return logits.float(), target, Maps(*(x[:, :, 0] if self.flat else x for x in maps))

    def _autocast(self) -> AbstractContextManager[Any]:
        """None at all where precision is off: a graph with an autocast in it cannot be found in the on-disk cache."""
        dtype = self.hardware.autocast
        return nullcontext() if dtype is None else torch.autocast(self.hardware.device.type, dtype=dtype)


class LogitsOf(nn.Module):
    """The logits of a `Forward`, of patches as one argument: what torch's `update_bn` can call."""

    def __init__(self, forward: Forward) -> None:
        super().__init__()
        self.whole = forward

    def forward(self, patches: Patches) -> Tensor:
        """patches: em and labels, as `Forward` takes them."""
        logits: Tensor = self.whole(*patches)[0]
        return logits


class Step:
    """A function compiled on its first call; where no compiler works, the same function run eagerly, said once.

    reduce-overhead on CUDA captures CUDA graphs, which read weights and buffers by address: whoever re-initialises them
    must copy in place. Shapes are static; there is one graph per Step.
    """

    def __init__(self, function: Callable[..., Any], *, compiled: bool, cuda: bool) -> None:
        if compiled:  # graphs are kept by code object, a few of each: a copy of its own is not reckoned with others'
            function.__code__ = function.__code__.replace()
            # Each set of terms of a loss has a graph in it, and a family tries more than the 8 that torch keeps.
            torch._dynamo.config.recompile_limit = max(MOST_GRAPHS, torch._dynamo.config.recompile_limit)
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


def no_reduction(total: Tensor) -> None:
    """What sums a tensor in place over the ranks of a trial that is one process."""


class TrainingSums:
    """Loss, figures of the loss and gradient norm of an epoch, and the share of steps without a finite gradient.

    Adding never waits for the device.
    """

    def __init__(self, num_figures: int, device: torch.device) -> None:
        # loss, batches | figures, batches with them | finite gradient norms, steps with one, steps
        self.loss = torch.zeros(2, dtype=torch.float64, device=device)
        self.figures = torch.zeros(2, num_figures, dtype=torch.float64, device=device)
        self.norm = torch.zeros(3, dtype=torch.float64, device=device)

    def zero_(self) -> None:
        """Start an epoch."""
        for sums in (self.loss, self.figures, self.norm):
            sums.zero_()

    @torch.no_grad()
    def add_(self, loss: Tensor, figures: Tensor, norm: Tensor | None) -> None:
        """Add a batch: loss 0-d, figures (F,) with NaN for one that it does not have.

        norm: that of the gradient, 0-d, where the batch ended a step. One that overflowed (fp16: the scaler skips the
        step) is left out of the mean.
        """
        self.loss += torch.stack([loss.double(), torch.ones_like(loss, dtype=torch.float64)])
        there = ~figures.isnan()
        self.figures += torch.stack([torch.where(there, figures, 0.0).double(), there.double()])
        if norm is not None:
            finite = norm.isfinite()
            values = [torch.where(finite, norm, 0.0).double(), finite.double()]
            self.norm += torch.stack([*values, torch.ones_like(norm, dtype=torch.float64)])

    def read(self, reduce: Callable[[Tensor], object] = no_reduction) -> dict[str, Any]:
        """Means over the epoch, on the host; NaN where nothing was added, e.g. a class annotated in no batch.

        reduce: sums a tensor in place over the ranks.
        """
        for total in (self.loss, self.figures, self.norm):
            reduce(total)
        loss, norm = self.loss.tolist(), self.norm.tolist()
        losses, batches = self.figures.tolist()
        return {
            "loss": _mean(*loss),
            "figures": [_mean(total, count) for total, count in zip(losses, batches)],
            "grad_norm": _mean(*norm[:2]),
            "skipped_share": 1 - norm[1] / norm[2] if norm[2] else math.nan,
        }


def _mean(total: float, count: float) -> float:
    return total / count if count else math.nan


def warn_eager(problem: str) -> None:
    """Say that training runs uncompiled, why, and what to do about it."""
    logger.warning("Training runs uncompiled, and slower: %s. trainer.compile=false silences this.", problem)


def can_compile(wanted: bool) -> bool:
    """Whether to compile: `wanted`, and a compiler is there. Where it is not, warns once with the fix."""
    problem = compiler_problem() if wanted else ""
    if problem:
        warn_eager(problem)
    return wanted and not problem


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
