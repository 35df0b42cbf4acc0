"""Forward and backward of the per-class Tversky loss: ours, compiled, against MONAI's `TverskyLoss`, eager.

Both get the same logits (24, 5, 256, 256) in float32 and two threads, and make the gradient anew in every call, as a
training step does. Ours has the harder job: a third of its targets is NaN (not annotated), it also counts the voxels
that the weighting rules need, and it applies the factors of every family. MONAI's `TverskyLoss(sigmoid=True,
batch=True)` gets complete targets.

Peak memory is what the kernel says of a process of its own per side (VmHWM in /proc/self/status, reset before every
call), less logits and target: the gradient and everything in between. glibc is told to hand large blocks back at once,
so that nothing freed is counted. Takes one to two minutes, most of it for starting processes.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.harness import Result, interleaved, main, ratios, seconds

if TYPE_CHECKING:
    from torch import Tensor

SHAPE = (24, 5, 256, 256)
CLASSES = ("a", "b", "c", "d", "e")
THREADS = 2
CALLS = 5
"""Per value."""
OURS, MONAI = "ours", "monai"
PROC = Path("/proc/self")
ROOT = Path(__file__).resolve().parents[1]

Step = Callable[[], None]


def inputs(side: str) -> tuple[Tensor, Tensor]:
    """Logits and target, each (24, 5, 256, 256) float32; a third of the target is NaN for ours, none for MONAI."""
    import torch

    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(SHAPE, generator=generator).requires_grad_()
    target = (torch.rand(SHAPE, generator=generator) < 0.2).float()
    if side == OURS:
        target.masked_fill_(torch.rand(SHAPE, generator=generator) < 1 / 3, math.nan)
    return logits, target


def make_step(side: str) -> tuple[Step, Tensor]:
    """A call that runs forward and backward once, warmed up, and the logits whose gradient it makes."""
    import torch

    torch.set_num_threads(THREADS)
    logits, target = inputs(side)
    value = our_loss() if side == OURS else monai_loss()

    def step() -> None:
        logits.grad = None
        value(logits, target).backward()

    for _ in range(3):
        step()
    return step, logits


def our_loss() -> Callable[[Tensor, Tensor], Tensor]:
    """`WeightedTversky.with_counts`, compiled as in the training step."""
    import torch

    from trainables.losses import build

    loss = build("seesaw", {"p": 0.8, "q": 2.0}, CLASSES)
    compiled = torch.compile(loss.with_counts, fullgraph=True, dynamic=False)
    return lambda logits, target: compiled(logits, target)[0]


def monai_loss() -> Callable[[Tensor, Tensor], Tensor]:
    """As its documentation shows it, over the whole batch as ours."""
    from monai.losses import TverskyLoss

    return TverskyLoss(sigmoid=True, batch=True)


def time_result(repetitions: int) -> Result:
    """How many times faster ours is."""
    (monai, _), (ours, _) = make_step(MONAI), make_step(OURS)
    pairs = interleaved(lambda: milliseconds(monai), lambda: milliseconds(ours), repetitions)
    slow, fast = (statistics.median(side) for side in zip(*pairs))
    return Result(
        claim="time, eager MONAI ÷ our compiled loss",
        values=ratios(pairs),
        target=4.0,
        note=f"{'×'.join(map(str, SHAPE))} float32, {THREADS} threads: {slow:.0f} ms ÷ {fast:.0f} ms",
    )


def milliseconds(step: Step) -> float:
    """Mean of `CALLS` calls."""
    return seconds(lambda: [step() for _ in range(CALLS)]) / CALLS * 1e3


def memory_result(repetitions: int) -> Result:
    """How much less ours needs."""
    ours, monai = (peaks_of(side, repetitions) for side in (OURS, MONAI))
    few, many = statistics.median(ours), statistics.median(monai)
    held = inputs_mib()
    return Result(
        claim="peak memory beyond logits and target, our compiled loss ÷ eager MONAI",
        values=ratios(zip(ours, monai)),
        target=0.5,
        at_least=False,
        note=f"{few:.0f} MiB ÷ {many:.0f} MiB; {few + held:.0f} ÷ {many + held:.0f} with them, and less than "
        f"{1.5 * held:.0f} (logits, target, gradient) is impossible",
    )


def inputs_mib() -> float:
    """MiB of logits and target."""
    return 2 * 4 * math.prod(SHAPE) / 2**20


def peaks_of(side: str, repetitions: int) -> list[float]:
    """`print_peaks` in a fresh process."""
    command = f"from benchmarks.loss import print_peaks; print_peaks({side!r}, {repetitions})"
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**20), "OMP_NUM_THREADS": str(THREADS)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", command], env=environment, cwd=ROOT, stdout=subprocess.PIPE, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def print_peaks(side: str, repetitions: int) -> None:
    """Peak of each call without its inputs, MiB, as JSON on stdout."""
    step, logits = make_step(side)
    peaks = []
    for _ in range(repetitions):
        logits.grad = None
        before = status_mib("VmRSS")
        (PROC / "clear_refs").write_text("5")  # from now on VmHWM is the peak of what follows
        step()
        peaks.append(status_mib("VmHWM") - before)
    print(json.dumps(peaks))


def status_mib(name: str) -> float:
    """A line of /proc/self/status: VmRSS, resident now, or VmHWM, its peak."""
    lines = (PROC / "status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


def run(arguments: argparse.Namespace) -> Iterator[Result]:
    yield time_result(arguments.repetitions)
    yield memory_result(arguments.repetitions)


if __name__ == "__main__":
    main(__doc__, run)
