"""Measures how long a step takes: as many processes as trials would run at once here, a few steps each.

Alone on the machine a trial is faster than beside others; what a sweep will see is the latter.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trainables.data import open_packed
from tune_app.errors import InputError, RunFailed
from tune_app.planning.epochs import Range
from tune_app.planning.pace import DEFAULT_BETWEEN_S, Pace
from tune_app.ray_adapters.session import TrialResources, gpu_names, usable_cpus
from tune_app.settings.schema import Settings

SECONDS, MOST_STEPS = 6.0, 30
"""How long the timed steps of a process should take, and how many there are at most."""
VALIDATION_BATCHES = 4
PATIENCE_S = 900.0
SHORT = (0.85, 1.3)
"""What a short measurement may be off by: a sweep warms the machine up, and shares it."""


def measured_pace(settings: Settings, resources: TrialResources) -> Pace:
    """The pace on this machine. Raises InputError where it lacks the GPU asked for, RunFailed where a step fails."""
    gpus = len(gpu_names())
    if resources.gpus and not gpus:
        raise InputError(
            "measure=true: this machine has no GPU to measure on. Measure on the machine that is to train, or leave "
            "measure=true out to plan from earlier sweeps"
        )
    open_packed(settings.data)  # once, before every process would
    processes = processes_here(resources, gpus)
    began = time.time()
    found = run_together([worker_config(settings, resources, number, gpus) for number in range(processes)])
    steps, validations = [one["step"] for one in found], [one["validation_batch"] for one in found]
    return Pace(
        training_batch=Range(sum(steps) / len(steps), min(steps) * SHORT[0], max(steps) * SHORT[1]),
        validation_batch=Range(
            sum(validations) / len(validations), min(validations) * SHORT[0], max(validations) * SHORT[1]
        ),
        source=f"measured now, {processes} trials at once" if processes > 1 else "measured now, one trial alone",
        start=max(one["ready"] for one in found) - began,
        between=DEFAULT_BETWEEN_S,
        memory_gb=max(one["memory_gb"] for one in found),
        gpu_memory_gb=max(one["gpu_memory_gb"] for one in found),
    )


def processes_here(resources: TrialResources, gpus: int) -> int:
    """Trials that would run at once on this machine, at least one."""
    by_cpu = int(usable_cpus() / resources.cpus + 1e-9)
    by_gpu = int(gpus / resources.gpus + 1e-9) if resources.gpus else resources.slots
    return max(1, min(resources.slots, by_cpu, by_gpu))


def worker_config(settings: Settings, resources: TrialResources, number: int, gpus: int) -> dict[str, Any]:
    """What one process is told: a trial's config with a shorter epoch, and the card to use."""
    sections = {name: asdict(getattr(settings, name)) for name in ("data", "task", "model", "trainer", "hardware")}
    sections["trainer"] |= {
        "epochs": 3,
        "iterations_per_epoch": 1,
        "accumulate": 1,
        **dict.fromkeys(("swa_from", "warmup_steps", "restarts", "keep_epoch"), 0),
        "validation_batches": min(VALIDATION_BATCHES, settings.trainer.validation_batches),
    }
    if not resources.gpus:
        sections["hardware"]["device"] = "cpu"
    return sections | {
        "loss": {"name": "static", "params": {"weights": [1.0] * len(settings.outputs)}},
        "share": min(1.0, resources.gpus) or 1.0,
        "cpus": max(1, int(resources.cpus)),
        "card": str(number % gpus) if resources.gpus else "",
    }


def run_together(configs: list[dict[str, Any]]) -> list[dict[str, float]]:
    """One process per config, all timed at the same time; what each found. Raises RunFailed where one fails."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(len(configs)), context.Queue()
    processes = [context.Process(target=work, args=(c, barrier, results), daemon=True) for c in configs]
    for process in processes:
        process.start()
    found: list[dict[str, float]] = []
    try:
        deadline = time.monotonic() + PATIENCE_S
        while len(found) < len(configs):
            with suppress(queue.Empty):
                one = results.get(timeout=1.0)
                if isinstance(one, str):
                    raise RunFailed(f"measure=true: a step could not be measured: {one}")
                found.append(one)
                continue
            died = any(process.exitcode not in (None, 0) for process in processes)
            if died or time.monotonic() > deadline:
                raise RunFailed("measure=true: a measuring process ended without a result; is there enough memory?")
    finally:
        for process in processes:
            process.terminate()
            process.join()
    return found


def work(config: dict[str, Any], barrier: Any, results: Any) -> None:
    """In a process of its own: build an engine, warm it up, wait for the others, time some steps."""
    if config["card"]:
        os.environ["CUDA_VISIBLE_DEVICES"] = config["card"]
    try:
        results.put(timed(config, barrier))
    except Exception as error:  # whatever it is, the parent says so
        barrier.abort()
        results.put(f"{type(error).__name__}: {error}")


def timed(config: dict[str, Any], barrier: Any) -> dict[str, float]:
    """Seconds per step and validation batch, memory, and when it was ready (seconds since 1970)."""
    from dataclasses import replace

    from trainables.engine import Engine
    from trainables.settings import trial_settings

    settings = trial_settings(config)
    engine = Engine(settings, config["loss"], 0, share=config["share"], cpus=config["cpus"])
    ready = time.time()
    engine.run_epoch()  # compiles
    second = engine.run_epoch()
    one_step = second["seconds_load"] + second["seconds_compute"]
    steps = max(2, min(MOST_STEPS, int(SECONDS / max(one_step, 1e-6))))
    engine.reset(config["loss"], 0, replace(settings.trainer, iterations_per_epoch=steps))
    barrier.wait(PATIENCE_S)
    row = engine.run_epoch()
    return {
        "step": (row["seconds_load"] + row["seconds_compute"]) / steps,
        "validation_batch": row["seconds_validate"] / settings.trainer.validation_batches,
        "memory_gb": own_memory_gb(),
        "gpu_memory_gb": row.get("gpu_memory_mb", float("nan")) / 1024,
        "ready": ready,
    }


def own_memory_gb() -> float:
    """This process's share of main memory (proportional set size); NaN where the kernel does not tell."""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("Pss:")).split()[1]) * 1024 / 1e9
    return float("nan")
