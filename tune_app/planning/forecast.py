"""The plan of a sweep: what it will train, how long that takes, and the space it needs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tune_app.planning.epochs import Range, Work, expected_work, rung_epochs
from tune_app.planning.pace import Pace
from tune_app.planning.space import batch_flops, cache_gb, disk_gb, memory_gb, packed_cache, validation_crops
from tune_app.ray_adapters.session import TrialResources
from tune_app.results.trial import read_json
from tune_app.search.warm_start import told_of
from tune_app.settings.fitting import described, num_workers, room_gb, shortages, step_gb
from tune_app.settings.schema import Settings, compares_device_seconds

PLAN = "plan.json"
UNKNOWN = "no earlier sweep of this shape, and nothing measured"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Expected values with ranges. device_hours are GPU-hours, or CPU-hours where trials take no GPU. Times are None
    where no pace is known; cache_gb is NaN where nothing has been packed yet."""

    trials: int
    budget: str
    """Epochs, iterations and batch of a trial, see `budget`."""
    share: str
    """CPUs and GPUs of a trial, see `share`."""
    slots: int
    cpus: float
    gpus: float
    epochs: Range
    epochs_per_trial: int
    rungs: tuple[int, ...]
    seconds_per_epoch: Range | None
    device_hours: Range | None
    wall_hours: Range | None
    disk_gb: Range
    cache_gb: float
    memory_gb: Range
    gpu_memory_gb: float
    """Of the trial that needs most, per card; NaN without a GPU."""
    gpu_room_gb: float
    """What a trial has of a card; infinite where nothing is known of the card."""
    shortages: tuple[str, ...]
    """What may not fit, in sentences."""
    batches: str
    """What batch=auto has chosen; empty without it."""
    basis: str
    compares_device_seconds: bool = False
    """Whether early stopping compares different models at what they have spent: then which of them are stopped is not
    known beforehand, and hours and epochs are those of a sweep in which all are stopped alike."""
    promotes: bool = False
    """Whether trials pause at the rungs, and the best of them go on."""
    warm_start: tuple[str, ...] = ()
    """Where the search begins, in sentences; empty where it begins cold."""

    @property
    def device(self) -> str:
        return "GPU" if self.gpus else "CPU"

    def as_dict(self) -> dict[str, Any]:
        """Plain values for plan.json; NaN is null."""
        return {name: _plain(value) for name, value in asdict(self).items()}

    def line(self) -> str:
        """The one-line form that `run` prints."""
        epochs = about(self.epochs)
        parts = [f"{epochs} epoch{'' if epochs == '1' else 's'}"]
        if self.wall_hours and self.device_hours:
            parts += [duration(self.wall_hours), f"{hours(self.device_hours)} {self.device}-hours"]
        else:
            parts.append(f"time unknown: {self.basis} (python -m tune_app.plan measure=true)")
        parts += [f"{size(self.disk_gb.expected)} on disk", f"{size(self.memory_gb.expected)} of memory"]
        return ", ".join(parts)

    def lines(self) -> list[str]:
        """The plan for a terminal."""
        most = self.trials * self.epochs_per_trial
        happens = "pause" if self.promotes else "may be stopped"
        stops = f"; trials {happens} at epoch {', '.join(map(str, self.rungs))}" if self.rungs else ""
        rows = {
            "trials": f"{self.trials}, {self.slots} at once, each {self.share}",
            "epochs": f"{about(self.epochs)} of at most {most}{stops}" if stops else str(most),
        }
        if self.seconds_per_epoch and self.device_hours and self.wall_hours:
            rows["epoch"] = f"{seconds(self.seconds_per_epoch)}   ({self.basis})"
            rows[f"{self.device}-hours"] = f"about {hours(self.device_hours)}"
            rows["clock"] = f"about {duration(self.wall_hours)}"
        else:
            rows["time"] = f"unknown: {self.basis}. Measure a few steps: measure=true"
        if self.compares_device_seconds:
            rows["stopping"] = (
                "models differ in what an epoch costs, and are compared at equal device-seconds; which of them will be "
                "stopped is not known, so epochs and hours are those of all models stopped alike (docs/cost.md)"
            )
        packed = f", packed data {size(self.cache_gb)}" if math.isfinite(self.cache_gb) else ", and the packed data"
        rows["disk"] = f"about {size(self.disk_gb.expected)} in the sweep's folder{packed} in the cache"
        rows["memory"] = f"about {size(self.memory_gb.expected)} ({span(self.memory_gb, '.2g')} GB) of main memory"
        if math.isfinite(self.gpu_memory_gb):
            of = f" of the {size(self.gpu_room_gb)} that it has there" if math.isfinite(self.gpu_room_gb) else ""
            rows["GPU memory"] = f"about {size(self.gpu_memory_gb)} per trial and card{of}"
        if self.batches:
            rows["batches"] = self.batches
        if self.warm_start:
            rows["warm start"] = "; ".join(self.warm_start)
        if self.shortages:
            rows["too large"] = "; ".join(self.shortages)
        return [f"{name:<11}{text}" for name, text in rows.items()]


def make_plan(
    settings: Settings,
    resources: TrialResources,
    *,
    trials: int,
    exempt: int,
    pace: Pace | None,
    sizes: Sequence[Settings] = (),
) -> Plan:
    """The plan of a sweep with these settings. exempt: trials that are never stopped early (the baseline).

    sizes: the settings of its trials, or of some that stand for them, where those differ from the sweep's.
    """
    trainer, scheduler = settings.trainer, settings.scheduler
    rungs: tuple[int, ...] = ()
    if settings.early_stopping:
        rungs = rung_epochs(trainer.epochs, settings.grace_period, scheduler.reduction_factor)
    work = expected_work(
        trials,
        trainer.epochs,
        rungs,
        scheduler.reduction_factor,
        improving=settings.search.name == "optuna" and not settings.single_arms,
        exempt=exempt,
        slots=resources.slots,
        recheck=True,
        promote=scheduler.name == "promote",
    )
    folder = packed_cache(settings)
    own = list(sizes) if any(each != settings for each in sizes) else [settings]
    most = max(own, key=step_gb) if len(own) > 1 else own[0]
    epochs = [(epoch_of(each, settings, pace), devices_of(each, settings, resources)) for each in own] if pace else []
    seconds = mean_range([epoch for epoch, _ in epochs])
    device_seconds = mean_range([epoch.times(devices) for epoch, devices in epochs])
    known, in_card = (pace.memory_gb, pace.gpu_memory_gb) if pace else (math.nan, math.nan)
    return Plan(
        trials=trials,
        budget=budget(own, trainer.epochs),
        share=share(own, settings, resources),
        slots=resources.slots,
        cpus=resources.cpus,
        gpus=resources.gpus,
        epochs=work.epochs,
        epochs_per_trial=trainer.epochs,
        rungs=rungs,
        promotes=scheduler.name == "promote",
        seconds_per_epoch=seconds,
        device_hours=work.epochs.times(device_seconds).times(1 / 3600) if device_seconds else None,
        wall_hours=wall_hours(work, seconds, resources, pace) if pace and seconds else None,
        disk_gb=disk_gb(most, trials, work.epochs, resources.slots, validation_crops(folder)),
        cache_gb=cache_gb(folder),
        memory_gb=memory_gb(most, min(resources.slots, trials), gpu=bool(resources.gpus), measured=known),
        gpu_memory_gb=in_card if math.isfinite(in_card) else step_gb(most) if resources.gpus else math.nan,
        gpu_room_gb=room_gb(most) if resources.gpus else math.inf,
        shortages=tuple(shortages(own)),
        batches=batches(own) if settings.batch == "auto" else "",
        basis=pace.source if pace else UNKNOWN,
        compares_device_seconds=compares_device_seconds(settings, own),
        warm_start=tuple(told_of(settings)),
    )


def budget(sizes: Sequence[Settings], epochs: int) -> str:
    """What trials with these settings are given at most: 9 × 20 iterations, batch 16 to 24, 4 to an iteration."""
    trainers = [own.trainer for own in sizes]
    iterations, batch, accumulate = (
        sorted({getattr(trainer, name) for trainer in trainers})
        for name in ("iterations_per_epoch", "batch_size", "accumulate")
    )
    word = "iteration" if iterations == [1] else "iterations"
    each = f", {_from_to(accumulate)} to an iteration" if accumulate[-1] > 1 else ""
    return f"{epochs} × {_from_to(iterations)} {word}, batch {_from_to(batch)}{each}"


def share(sizes: Sequence[Settings], settings: Settings, resources: TrialResources) -> str:
    """What trials take each: 4 to 16 CPU and 1 to 4 GPU."""
    cpus, gpus = (sorted(set(some)) for some in zip(*(taken_by(own, settings, resources) for own in sizes)))
    return f"{_from_to(cpus)} CPU and {_from_to(gpus)} GPU"


def _from_to(values: Sequence[float]) -> str:
    return f"{values[0]:g} to {values[-1]:g}" if len(values) > 1 else f"{values[0]:g}"


def batches(sizes: Sequence[Settings]) -> str:
    """Patches to a batch × batches to a step, network by network: what batch=auto has chosen."""
    chosen = {(described(own), f"{own.trainer.batch_size} × {own.trainer.accumulate}") for own in sizes}
    return ", ".join(f"{name} {batch}" for name, batch in sorted(chosen))


def epoch_of(own: Settings, settings: Settings, pace: Pace) -> Range:
    """Seconds of an epoch with settings of a trial's own: the pace of the sweep's, times how much more is computed."""
    same = (own.model, own.trainer.batch_size) == (settings.model, settings.trainer.batch_size)
    return pace.epoch(own) if same else pace.epoch(own).times(batch_flops(own) / batch_flops(settings))


def devices_of(own: Settings, settings: Settings, resources: TrialResources) -> float:
    """GPUs of a trial, or its CPUs where it takes no GPU. resources: those of a trial with the sweep's settings."""
    cpus, gpus = taken_by(own, settings, resources)
    return gpus or cpus


def taken_by(own: Settings, settings: Settings, resources: TrialResources) -> tuple[float, float]:
    """CPUs and GPUs of a trial with settings of its own, all its workers together. resources: as in `devices_of`."""
    asked, usual = own.resources, settings.resources
    gpus = resources.gpus if asked.gpus_per_trial == usual.gpus_per_trial else asked.gpus_per_trial
    cpus = resources.cpus if asked.cpus_per_trial == usual.cpus_per_trial else asked.cpus_per_trial
    return (cpus or 0.0) * num_workers(own), gpus or 0.0


def mean_range(ranges: Sequence[Range]) -> Range | None:
    """None of none."""
    if len(ranges) < 2:
        return ranges[0] if ranges else None
    return Range(*(statistics.fmean(getattr(one, name) for one in ranges) for name in Range.__annotations__))


def wall_hours(work: Work, epoch: Range, resources: TrialResources, pace: Pace) -> Range:
    """Hours from the first worker's start to the last epoch."""
    rounds = work.rounds(resources.slots).times(epoch)
    waits = pace.start + pace.between * max(0, math.ceil(work.trials / resources.slots) - 1)
    return rounds.plus(waits).times(1 / 3600)


def planned_epochs(folder: Path) -> float:
    """Epochs per trial that a sweep's plan.json expects; NaN without one."""
    plan = read_json(folder / PLAN)
    epochs, trials = from_dict(plan, "epochs"), plan.get("trials")
    return epochs.expected / trials if epochs and isinstance(trials, int) and trials > 0 else math.nan


def from_dict(values: Mapping[str, Any], name: str) -> Range | None:
    """A range of plan.json; None where it is missing or something else."""
    found = values.get(name)
    if not isinstance(found, Mapping) or not all(isinstance(found.get(k), int | float) for k in Range.__annotations__):
        return None
    return Range(**{key: float(found[key]) for key in Range.__annotations__})


def span(value: Range, form: str) -> str:
    low, high = format(value.low, form), format(value.high, form)
    return f"{low} to {high}" if low != high else low


def about(value: Range) -> str:
    """about 76 (54 to 96), or the number where it is known."""
    certain = value.low == value.high
    return f"{value.expected:.0f}" if certain else f"about {value.expected:.0f} ({span(value, '.0f')})"


def hours(value: Range) -> str:
    return f"{value.expected:.2g} ({span(value, '.2g')})"


def seconds(value: Range) -> str:
    return f"{value.expected:.3g} s ({span(value, '.3g')})"


def duration(value: Range) -> str:
    """Minutes up to two hours, else hours, else days."""
    for unit, per_hour, limit in (("minutes", 60, 2.0), ("hours", 1, 72.0), ("days", 1 / 24, math.inf)):
        if value.expected < limit:
            scaled = value.times(per_hour)
            return f"{scaled.expected:.2g} {unit} ({span(scaled, '.2g')})"
    raise AssertionError("unreachable")


def size(gigabytes: float) -> str:
    return f"{gigabytes * 1000:.0f} MB" if gigabytes < 1 else f"{gigabytes:.1f} GB"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, tuple):
        return list(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value
