"""The training step on a GPU: the published network (UNet of width 64, 5 classes), patches of 256², batches of 24.

    python -m benchmarks.gpu_step --json gpu.json              5 to 10 minutes, half of it for compiling
    python -m benchmarks.gpu_step --device cpu --quick         the same logic on tiny shapes; its numbers mean nothing

Needs torch, numpy and what `trainables` needs to read data; no Ray, no Hydra. Nothing else should run on the GPU.

1. Two trials on one GPU: two processes, each a whole trial (patches from memory-mapped crops, augmentation, training
   step), for the same seconds; the sum of their patches/s ÷ that of one of them while the other sleeps.
2. Compiled + AMP ÷ eager float32: optimiser steps on one batch that stays on the GPU. Eager is the same engine without
   compiling, autocast and channels_last, with the flags torch starts with: TF32 is allowed in convolutions.
3. Pipeline ÷ resident: an epoch of 100 steps with everything ÷ 100 steps on one batch that stays on the GPU.
4. Roofline ÷ achieved: the least time of a step, layer by layer (benchmarks/roofline.py), from the rate of a large
   matrix product in the type of the step and the bandwidth of a large copy, both measured here; ÷ the time it takes.
5. The loss: its time × the bandwidth of the copy are the bytes it could have moved; ÷ the five passes it must make
   (logits and target read twice, gradient written once). Compiled, float32, tensors of 1 GiB, so that launches do not
   count.
"""

from __future__ import annotations

import argparse
import gc
import math
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.gpu_trial import LOSS, Shapes, TrialProcess, make_engine, synchronize
from benchmarks.harness import Result, interleaved, main, ratios
from benchmarks.roofline import LOSS_PASSES, roofline_seconds, training_work
from trainables import losses
from trainables.engine import Engine
from trainables.hardware import prepare_process

NO_GPU = (
    "benchmarks.gpu_step needs a CUDA device and torch sees none here. Run it on a machine with an NVIDIA GPU and a "
    "CUDA build of torch, or try its logic with --device cpu --quick."
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured, how long."""

    shapes: Shapes
    repetitions: int
    seconds_together: float = 8.0
    """Of two trials on one GPU, per value."""
    steps: int = 20
    epoch: int = 100
    """Steps per value; `epoch` where the pipeline is in it, the published length of one."""
    matrix: int = 8192
    large_bytes: int = 2**30
    """Sides of the matrix product; size of the tensors that are copied, and of the loss's."""


def plan_of(arguments: argparse.Namespace) -> Plan:
    """The measurement that the command line asks for."""
    if arguments.quick:
        shapes = Shapes(device=arguments.device, width=2, depth=1, patch=16, batch=2, compile=False, cpus=1)
        return Plan(shapes=shapes, repetitions=2, seconds_together=0.2, steps=2, epoch=3, matrix=32, large_bytes=2**12)
    shapes = Shapes(device=arguments.device, width=arguments.width, patch=arguments.patch, batch=arguments.batch)
    return Plan(shapes=shapes, repetitions=arguments.repetitions)


def run(arguments: argparse.Namespace) -> Iterator[Result]:
    """Every claim; one that breaks is told on stderr and does not keep the others from being measured."""
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print(NO_GPU, file=sys.stderr)
        sys.exit(2)
    plan, broken = plan_of(arguments), 0
    print(machine(plan.shapes.device), flush=True)
    parts: tuple[Callable[[Plan], Iterator[Result]], ...] = (two_trials, one_trial, loss_bytes)
    for part in parts:
        try:
            yield from part(plan)
        except Exception:
            broken += 1
            traceback.print_exc()
        finally:
            free_memory(plan.shapes.device)
    if broken:
        yield Result(claim="parts that broke, see above", values=(broken,), target=0, at_least=False, unit="")


def machine(device: str) -> str:
    """What the numbers are of."""
    if device != "cuda":
        return f"torch {torch.__version__} on the CPU"
    facts = torch.cuda.get_device_properties(0)
    return f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB, torch {torch.__version__}, CUDA {torch.version.cuda}"


def free_memory(device: str) -> None:
    """Give back what the last part held: engines, graphs and their memory pools."""
    torch._dynamo.reset()
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def two_trials(plan: Plan) -> Iterator[Result]:
    """Combined patches/s of two processes ÷ one."""
    with ExitStack() as stack:
        trials = [stack.enter_context(TrialProcess(plan.shapes)) for _ in range(2)]
        for trial in trials:
            trial.wait_until_warm()

        def rate_of(chosen: list[TrialProcess]) -> float:
            for trial in chosen:
                trial.start(plan.seconds_together)
            return sum(trial.finish() for trial in chosen)

        pairs = interleaved(lambda: rate_of(trials), lambda: rate_of(trials[:1]), plan.repetitions)
    both, alone = (statistics.median(side) for side in zip(*pairs))
    yield Result(
        claim="two trials on one GPU ÷ one",
        values=ratios(pairs),
        target=1.0,
        note=f"{both:.0f} ÷ {alone:.0f} patches/s",
    )


def one_trial(plan: Plan) -> Iterator[Result]:
    """The claims about one engine: pipeline against step, step against roofline, step against eager float32."""
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        fast = make_engine(plan.shapes, Path(first), fast=True)
        yield from pipeline(plan, fast)
        yield from roofline(plan, fast)
        yield from speed_up(plan, fast, make_engine(plan.shapes, Path(second), fast=False))


def pipeline(plan: Plan, engine: Engine) -> Iterator[Result]:
    """Patches/s of an epoch with everything ÷ of as many steps on a resident batch."""
    engine.settings.trainer.iterations_per_epoch = plan.epoch
    batch = resident_batch(engine)
    step_seconds(engine, batch, plan.steps)  # compiles
    pairs = interleaved(
        lambda: step_seconds(engine, batch, plan.epoch), lambda: epoch_seconds(engine, plan.epoch), plan.repetitions
    )
    still, moving = (statistics.median(side) for side in zip(*pairs))
    yield Result(
        claim="whole pipeline ÷ resident batch",
        values=ratios(pairs),
        target=0.97,
        note=f"{plan.shapes.batch / moving:.0f} ÷ {plan.shapes.batch / still:.0f} patches/s",
    )


def resident_batch(engine: Engine) -> tuple[Tensor, Tensor]:
    """EM and labels of one batch, augmented, on the device."""
    return engine._patches(engine.sampler.batch(0))


def step_seconds(engine: Engine, batch: tuple[Tensor, Tensor], steps: int) -> float:
    """Seconds per optimiser step on a resident batch."""
    engine.model.train()
    prepare_process(engine.hardware, engine.settings.data)
    return seconds_of(lambda: [engine.train_on(*batch, step) for step in range(steps)], engine.hardware.device) / steps


def epoch_seconds(engine: Engine, steps: int) -> float:
    """Seconds per step of a training epoch: patches cut, transferred, augmented, and trained on."""
    return seconds_of(engine._train_epoch, engine.hardware.device) / steps


def seconds_of(function: Callable[[], object], device: torch.device) -> float:
    """Wall-clock seconds until the device has done what `function` gave it."""
    synchronize(device)
    started = time.perf_counter()
    function()
    synchronize(device)
    return time.perf_counter() - started


def roofline(plan: Plan, engine: Engine) -> Iterator[Result]:
    """Least time of a step ÷ its time."""
    shapes, device, dtype = plan.shapes, engine.hardware.device, engine.hardware.autocast or torch.float32
    image = (shapes.batch, 1, shapes.patch, shapes.patch)
    work = training_work(engine.model, image, num_classes=len(engine.classes), value_bytes=dtype.itemsize)
    batch, values = resident_batch(engine), []
    for _ in range(plan.repetitions):
        rate, bandwidth = matrix_rate(plan.matrix, dtype, device), copy_bandwidth(plan.large_bytes, device)
        values.append((roofline_seconds(work, rate, bandwidth), step_seconds(engine, batch, plan.steps)))
    least, taken = (statistics.median(side) for side in zip(*values))
    yield Result(
        claim="roofline ÷ achieved time of a step",
        values=ratios(values),
        target=0.6,
        note=f"{least * 1e3:.1f} ÷ {taken * 1e3:.1f} ms; {rate / 1e12:.0f} TFLOP/s in {str(dtype).split('.')[1]}, "
        f"{bandwidth / 1e9:.0f} GB/s, {sum(w.flops for w in work) / shapes.batch / 1e9:.0f} GFLOP per patch",
    )


def matrix_rate(side: int, dtype: torch.dtype, device: torch.device) -> float:
    """FLOP/s of a product of two square matrices of random numbers, the median of ten."""
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / median_seconds(lambda: a @ b, device)


def copy_bandwidth(num_bytes: int, device: torch.device) -> float:
    """Bytes/s read and written by a copy, the median of ten."""
    source = torch.rand(num_bytes // 4, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / median_seconds(lambda: target.copy_(source), device)


def median_seconds(function: Callable[[], object], device: torch.device) -> float:
    """Median of ten values after three more; each of ten calls, so that the device does not wait for the host."""
    values = [seconds_of(lambda: [function() for _ in range(10)], device) / 10 for _ in range(13)]
    return statistics.median(values[3:])


def speed_up(plan: Plan, fast: Engine, eager: Engine) -> Iterator[Result]:
    """Eager float32's time per step ÷ ours, with torch's own flags and with TF32 off."""
    fast_batch, eager_batch = resident_batch(fast), resident_batch(eager)

    def eager_seconds(tf32: bool) -> float:
        flags_of_torch(tf32=tf32)
        eager.model.train()
        function = lambda: [eager.train_on(*eager_batch, step) for step in range(plan.steps)]  # noqa: E731
        return seconds_of(function, eager.hardware.device) / plan.steps

    for tf32, name in ((True, "torch's default flags"), (False, "TF32 off")):
        eager_seconds(tf32)
        pairs = interleaved(
            lambda tf32=tf32: eager_seconds(tf32), lambda: step_seconds(fast, fast_batch, plan.steps), plan.repetitions
        )
        slow, quick = (statistics.median(side) for side in zip(*pairs))
        yield Result(
            claim=f"compiled + AMP ÷ eager float32, {name}",
            values=ratios(pairs),
            target=2.5,
            note=f"{plan.shapes.batch / quick:.0f} ÷ {plan.shapes.batch / slow:.0f} patches/s",
        )


def flags_of_torch(*, tf32: bool) -> None:
    """What a process starts with; tf32=False forbids TF32 in convolutions too."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = False


def loss_bytes(plan: Plan) -> Iterator[Result]:
    """The loss's time in bytes of a copy ÷ its five passes."""
    device = torch.device(plan.shapes.device)
    logits, target = loss_inputs(plan, device)
    loss = losses.build(LOSS["name"], LOSS["params"], [str(c) for c in range(logits.shape[1])]).to(device)
    function = (
        torch.compile(loss.with_counts, fullgraph=True, dynamic=False) if plan.shapes.compile else loss.with_counts
    )

    def forward_and_backward() -> None:
        torch.autograd.grad(function(logits, target)[0], logits)

    forward_and_backward()
    passes, values = LOSS_PASSES * logits.nbytes, []
    for _ in range(plan.repetitions):
        bandwidth = copy_bandwidth(plan.large_bytes, device)
        values.append((median_seconds(forward_and_backward, device) * bandwidth, passes))
    moved = statistics.median(first for first, _ in values)
    yield Result(
        claim="loss: bytes ÷ five passes",
        values=ratios(values),
        target=1.5,
        at_least=False,
        note=f"{moved / 2**30:.2f} ÷ {passes / 2**30:.2f} GiB, {'×'.join(map(str, logits.shape))} float32",
    )


def loss_inputs(plan: Plan, device: torch.device) -> tuple[Tensor, Tensor]:
    """Logits and target of `large_bytes` each, a third of the target NaN."""
    patch, classes = plan.shapes.patch, 5
    shape = (max(1, plan.large_bytes // (4 * classes * patch**2)), classes, patch, patch)
    logits = torch.randn(shape, device=device)
    target = (torch.rand(shape, device=device) < 0.2).float()
    return logits.requires_grad_(), target.masked_fill_(torch.rand(shape, device=device) < 1 / 3, math.nan)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    defaults = Shapes()
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny shapes, uncompiled: a test of this script")
    for name, unit in (("width", "channels of the first level"), ("patch", "voxels"), ("batch", "patches")):
        parser.add_argument(f"--{name}", type=int, default=getattr(defaults, name), help=unit)


if __name__ == "__main__":
    main(__doc__, run, add_arguments)
