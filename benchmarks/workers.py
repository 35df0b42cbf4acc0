"""What several processes of a trial cost, what accumulation costs, and networks in turn: python -m benchmarks.workers

1. Two workers ÷ one process, seconds for the same optimiser steps on the same patches: two processes of one thread with
   half of each batch, which sum losses and gradients over gloo, against one process of two threads. Where there is
   nothing to gain, on the cores of one machine, the ratio is what they cost.
2. Accumulation ÷ one batch, seconds of a step on as many patches: four batches with the mean of their losses, and with
   the loss of the whole step, which takes the network forward twice for all but the last.
3. Two networks in turn in one process: graphs compiled when the first comes again, which are kept.

A UNet of width 16 and depth 3 on patches of 96², 5 classes, instance norm, on the CPU; uncompiled but for 3.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.gpu_trial import ROOT, make_dataset
from benchmarks.harness import Result, interleaved, main, ratios
from trainables.engine import Engine
from trainables.settings import TrialSettings, trial_settings

LOSS = {"name": "seesaw", "params": {"p": 0.8, "q": 2.0}}
STEPS = 8


def settings_of(*, width: int = 16, batch: int = 8, patch: int = 96, **trainer: Any) -> TrialSettings:
    given = {"batch_size": batch, "validation_batches": 1, "iterations_per_epoch": 10**6, "compile": False, **trainer}
    return trial_settings(
        {
            "data": {"patch": [1, patch, patch], "rotate_degrees": 0.0},
            "model": {"width": width, "depth": 3, "options": {"norm": "instance"}},
            "trainer": given,
            "hardware": {"device": "cpu"},
        }
    )


def steps_of(engine: Engine, number: int) -> float:
    """Seconds of so many optimiser steps, from packed patches to new weights."""
    parts = engine.settings.trainer.accumulate
    engine.model.train()
    started = time.perf_counter()
    for batch in range(number * parts):
        engine.train_on(*engine._patches(engine.sampler.batch(batch)), batch)
    return time.perf_counter() - started


class Side:
    """The processes of one trial, warm, which train when told to."""

    def __init__(self, world: int, meeting: Path) -> None:
        words = [sys.executable, "-m", "benchmarks.workers", "--world", str(world), "--meeting", str(meeting)]
        self._processes = [
            subprocess.Popen([*words, "--rank", str(rank)], cwd=ROOT, stdin=-1, stdout=-1, text=True)
            for rank in range(world)
        ]
        self._answers()

    def train(self) -> float:
        """Seconds of the slowest of them."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        return max(self._answers())

    def _answers(self) -> list[float]:
        return [float(process.stdout.readline()) for process in self._processes if process.stdout is not None]

    def close(self) -> None:
        for process in self._processes:
            process.communicate()


def serve(rank: int, world: int, meeting: str) -> None:
    """Be one process of a trial: train for every line of stdin, print the seconds; ends with it."""
    from trainables.workers import Worker

    worker = Worker(rank, world)
    if world > 1:
        worker.join(meeting, "gloo")
    settings = settings_of()
    with tempfile.TemporaryDirectory() as folder:
        dataset = make_dataset(settings.data, Path(folder))
        ranks: dict[str, Any] = {"rank": rank, "world": world, "reduce": worker.reduce}
        engine = Engine(settings, LOSS, 0, dataset=dataset, cpus=2 // world, **ranks)
        print(steps_of(engine, 1), flush=True)
        for _ in sys.stdin:
            print(steps_of(engine, STEPS), flush=True)


def two_workers(repetitions: int) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        one, two = Side(1, Path(folder) / "one"), Side(2, Path(folder) / "two")
        pairs = interleaved(two.train, one.train, repetitions)
        one.close()
        two.close()
    return Result(
        claim="seconds of the same steps on two cores: two workers of one thread ÷ one process of two",
        values=ratios(pairs),
        target=1.25,
        at_least=False,
        note=f"{STEPS} steps of 8 × 96² patches, gloo; last pair {pairs[-1][0]:.2f} s and {pairs[-1][1]:.2f} s",
        details={"seconds": pairs},
    )


def accumulation(repetitions: int) -> Iterator[Result]:
    with tempfile.TemporaryDirectory() as folder:
        dataset = make_dataset(settings_of().data, Path(folder))

        def engine(**trainer: Any) -> Engine:
            made = Engine(settings_of(**trainer), LOSS, 0, dataset=dataset, cpus=2)
            steps_of(made, 1)
            return made

        whole = engine()
        for pooled, target, what in (
            (False, 1.2, "the mean of four losses"),
            (True, 1.6, "the loss of the whole step"),
        ):
            parts = engine(batch=2, accumulate=4, pool_accumulated=pooled)
            pairs = interleaved(lambda: steps_of(parts, STEPS), lambda: steps_of(whole, STEPS), repetitions)  # noqa: B023
            yield Result(
                claim=f"seconds of a step on 8 patches: four batches of 2, {what} ÷ one batch of 8",
                values=ratios(pairs),
                target=target,
                at_least=False,
                note=f"last pair {pairs[-1][0] / STEPS * 1000:.0f} ms and {pairs[-1][1] / STEPS * 1000:.0f} ms",
                details={"seconds": pairs},
            )


def in_turn() -> Iterator[Result]:
    """Two networks in turn through the worker of a trial's actor, compiled."""

    from trainables.workers import Worker

    networks = [settings_of(width=width, batch=2, patch=32, compile=True, epochs=1) for width in (4, 6)]
    for network in networks:
        network.trainer.iterations_per_epoch = 2
    with tempfile.TemporaryDirectory() as folder:
        dataset = make_dataset(networks[0].data, Path(folder))
        worker, rounds = Worker(), list[list[tuple[int, float]]]()
        with mock.patch("trainables.engine.open_packed", return_value=dataset):
            for _ in range(3):
                rounds.append([])
                for network in networks:
                    started = time.perf_counter()
                    worker.prepare(network, LOSS, 0, 1.0, 2)
                    graphs = worker.run_epoch()["compiled_graphs"]
                    rounds[-1].append((graphs, time.perf_counter() - started))
        worker.drop()
    first, later = rounds[0], rounds[1:]
    at_first = max(graphs for graphs, _ in first)
    again = max(graphs for one in later for graphs, _ in one) - at_first
    yield Result(
        claim="graphs compiled when a network comes again to a slot that has trained another",
        values=(float(again),),
        target=0.0,
        at_least=False,
        unit="",
        note=f"{at_first} of both at first",
        details={"rounds": rounds},
    )
    yield Result(
        claim="seconds to begin and train an epoch: a network that comes again ÷ its first time",
        values=tuple(one[i][1] / first[i][1] for one in later for i in range(len(networks))),
        target=0.1,
        at_least=False,
        note=f"{first[-1][1]:.1f} s and {later[-1][-1][1]:.2f} s; compiled graphs of other runs were on disk",
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    for name in ("--rank", "--world"):
        parser.add_argument(name, type=int, help=argparse.SUPPRESS)
    parser.add_argument("--meeting", default="", help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> Iterator[Result]:
    if arguments.world:
        serve(arguments.rank, arguments.world, arguments.meeting)
        sys.exit(0)
    yield two_workers(arguments.repetitions)
    yield from accumulation(arguments.repetitions)
    yield from in_turn()


if __name__ == "__main__":
    main(__doc__, run, add_arguments)
