"""The peer of a sweep: its configurations trained by a loop and nothing else, in as many processes as slots.

    python -m benchmarks.bare_loop SWEEP_FOLDER PROCESSES        prints one JSON object

No Ray, no search, no scheduler; nothing is written, reported or logged. The processes take the next configuration from
one queue, as slots do, and reset their engine between two of them, so that the peer is as fast as we know how to make
it. Every configuration is trained for all of its epochs: it is the peer of a sweep without early stopping.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from pathlib import Path
from typing import Any


def main() -> None:
    folder, processes = Path(sys.argv[1]), int(sys.argv[2])
    print(json.dumps(train_all(configs_of(folder), processes)))


def configs_of(sweep: Path) -> list[dict[str, Any]]:
    """The configurations of a sweep, in the order of their numbers."""
    return [json.loads(path.read_text()) for path in sorted(sweep.glob("trials/*/config.json"))]


def train_all(configs: list[dict[str, Any]], processes: int) -> dict[str, Any]:
    """{"first_setup", "last_result": Unix seconds, "curves": {trial: mean Dice per epoch}}."""
    context = multiprocessing.get_context("spawn")
    waiting, done = context.Queue(), context.Queue()
    for config in [*configs, *[None] * processes]:
        waiting.put(config)
    workers = [context.Process(target=work, args=(waiting, done)) for _ in range(processes)]
    for worker in workers:
        worker.start()
    found = [done.get() for _ in workers]
    for worker in workers:
        worker.join()
    curves: dict[str, list[float]] = {}
    for one in found:
        curves |= one["curves"]
    times = {key: choose(one[key] for one in found) for key, choose in (("first_setup", min), ("last_result", max))}
    return {**times, "curves": curves}


def work(waiting: Any, done: Any) -> None:
    """Train configurations until none is left."""
    from trainables.engine import Engine  # also what torch needs: the clock starts when it is loaded
    from trainables.settings import trial_settings
    from trainables.tasks.multilabel import TASK

    engine, curves, first_setup = None, {}, time.time()
    while (config := waiting.get()) is not None:
        settings, cpus = trial_settings(config), int(config["resources"]["cpus_per_trial"])
        if engine is None:
            engine = Engine(settings, config["loss"], config["seed"], cpus=cpus)
        else:
            engine.reset(config["loss"], config["seed"], settings.trainer)
        curves[config["run"]["name"]] = [engine.run_epoch()[TASK.metric] for _ in range(settings.trainer.epochs)]
    done.put({"first_setup": first_setup, "last_result": time.time(), "curves": curves})


if __name__ == "__main__":
    main()
