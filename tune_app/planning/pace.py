"""How fast trials are: seconds per training and per validation batch, and what lies between; from earlier sweeps, or as
`plan measure=true` has measured and left in the cache."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np

from trainables.data.cache import cache_folder
from trainables.files import write_text
from trainables.settings import TrainerSettings
from tune_app.errors import InputError
from tune_app.planning.epochs import Range
from tune_app.planning.space import has_batch_norm
from tune_app.ray_adapters.session import TrialResources
from tune_app.results.folders import sweep_folders
from tune_app.results.manifest import now, read_manifest
from tune_app.results.sweep import Sweep, read_settings
from tune_app.results.tables import counted
from tune_app.results.trial import Trial, is_finite
from tune_app.settings.schema import Settings

SAME = {
    "data": ("patch", "voxel_nm", "mirror", "transpose", "rotate_degrees", "sampling"),
    "model": (),
    "trainer": ("batch_size", "compile"),
    "hardware": (),
}
"""Settings that two sweeps of one shape share; () stands for all of a section. Classes must be as many."""
LOOKED_AT = 40
"""Sweeps, newest first, that are looked at for one of the same shape."""
ENOUGH_EPOCHS = 4
DEFAULT_START_S, DEFAULT_BETWEEN_S = 12.0, 1.0
"""Seconds from a sweep's beginning to its first step, and between two trials of a slot, where no row tells them: what
two CPU cores took for the default sweep."""


@dataclass(frozen=True)
class Pace:
    """Seconds per training batch and per validation batch, with as many trials at once as planned.

    training_batch: a pass forward and back, with its share of the step; trainer.accumulate of them make a step.
    start: seconds from the sweep's beginning to its first step. between: seconds between two trials in a slot.
    per_epoch: seconds between two epochs of a trial (checkpoint, report). memory_gb, gpu_memory_gb: of one trial, NaN
    where unknown. source: where it comes from.
    """

    training_batch: Range
    validation_batch: Range
    source: str
    start: float = DEFAULT_START_S
    between: float = DEFAULT_BETWEEN_S
    per_epoch: float = 0.0
    memory_gb: float = float("nan")
    gpu_memory_gb: float = float("nan")

    def epoch(self, settings: Settings) -> Range:
        """Seconds of one epoch, its checkpoint included; the mean over those of a whole trial.

        Once weights are averaged (trainer.swa_from), batch norm needs a pass forward over the epoch's batches, which
        takes about as long as validating as many.
        """
        trainer = settings.trainer
        batches = trainer.iterations_per_epoch * trainer.accumulate
        swa_from = trainer.epochs_here(trainer.swa_from)
        averaged = (trainer.epochs - swa_from + 1) / trainer.epochs if swa_from else 0.0
        again = averaged * batches if averaged and has_batch_norm(settings) else 0.0
        train = self.training_batch.times(batches)
        validate = self.validation_batch.times(trainer.validation_batches + again)
        return Range(train.expected + validate.expected, train.low + validate.low, train.high + validate.high).plus(
            self.per_epoch
        )


def earlier_pace(settings: Settings, resources: TrialResources) -> Pace | None:
    """The pace of the newest earlier sweep of this shape in results_dir, or a measurement that is newer; None where
    there is neither."""
    measured, when = recalled(settings, resources)
    for folder in sweep_folders(Path(settings.results_dir).expanduser())[:LOOKED_AT]:
        if same_shape(read_settings(folder), settings) and same_place(folder, settings):
            with suppress(InputError, OSError, KeyError, TypeError, ValueError):  # one that is damaged is none
                sweep = Sweep(folder)
                found = pace_of(sweep, settings, resources)
                if found is not None:
                    newer = measured and when > datetime.fromisoformat(sweep.manifest["created"])
                    return measured if newer else found
    return measured


def remember(pace: Pace, settings: Settings, resources: TrialResources) -> None:
    """Keep a measurement in the cache, in the place of an earlier one; a cache that cannot be written keeps none."""
    values = {name: value for name, value in asdict(pace).items() if not (isinstance(value, float) and isnan(value))}
    path = _measurement(settings, resources)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps({"measured": now(), **values}, indent=1) + "\n")


def recalled(settings: Settings, resources: TrialResources) -> tuple[Pace | None, datetime]:
    """The measurement of this shape on this machine, and when it was made; None and the beginning of time without."""
    with suppress(OSError, ValueError, KeyError, TypeError):  # missing, or damaged
        values = json.loads(_measurement(settings, resources).read_text(encoding="utf-8"))
        when = datetime.fromisoformat(values.pop("measured"))
        values["source"] = values["source"].replace("now", f"on {when:%Y-%m-%d at %H:%M}")
        ranges = {name: Range(**values[name]) for name in ("training_batch", "validation_batch")}
        return Pace(**{**values, **ranges}), when
    return None, datetime.min.replace(tzinfo=UTC)


def _measurement(settings: Settings, resources: TrialResources) -> Path:
    """The file for all sweeps that share what decides how long a step takes."""
    sections = {section: asdict(getattr(settings, section)) for section in SAME}
    shape = {section: {name: found[name] for name in SAME[section] or found} for section, found in sections.items()}
    place = {**resources.as_dict(), "slots": resources.slots, "host": platform.node()}
    words = json.dumps([shape, len(settings.data.classes), place], sort_keys=True)
    return cache_folder(settings.data) / "paces" / f"{hashlib.sha256(words.encode()).hexdigest()[:16]}.json"


def same_shape(stored: Mapping[str, Any], settings: Settings) -> bool:
    """Whether an epoch of the stored settings is the same work as one of these."""
    for section, names in SAME.items():
        old, new = stored.get(section), asdict(getattr(settings, section))
        if not isinstance(old, Mapping) or any(old.get(name) != new[name] for name in (names or new)):
            return False
    return len(stored["data"].get("classes") or ()) == len(settings.data.classes)


def same_place(folder: Path, settings: Settings) -> bool:
    """Whether a sweep ran on this machine, or the hardware was named and is the same (a cluster's nodes differ)."""
    recorded = read_manifest(folder).get("hardware") or {}
    return settings.hardware.name not in ("auto", "cpu") or recorded.get("host") == platform.node()


def same_work(trial: Trial, settings: Settings) -> bool:
    """Whether a step of the trial is one of these settings: a point of its family may have changed model and batch."""
    model, trainer = asdict(settings.model), {name: getattr(settings.trainer, name) for name in SAME["trainer"]}
    sections = (("model", model), ("trainer", trainer))
    return all(
        trial.config.get(section, {}).get(name, value) == value
        for section, own in sections
        for name, value in own.items()
    )


def pace_of(sweep: Sweep, settings: Settings, resources: TrialResources) -> Pace | None:
    """The pace of the trials of a sweep that are of this shape, had these resources each and were as many at once; None
    of too few epochs."""
    trials = [trial for trial in sweep.trials if same_resources(trial, resources) and same_work(trial, settings)]
    rows = [row for trial in trials for row in trial.history if is_finite(row.get("seconds_compute"))]
    if len(rows) < ENOUGH_EPOCHS or most_at_once(trials) not in (0, min(resources.slots, len(trials))):
        return None
    trainer = trials[0].config["trainer"]
    batches = trainer["iterations_per_epoch"] * trainer.get("accumulate", 1)
    meant = {name: trainer[name] for name in ("epochs", "published_epochs", "swa_from") if name in trainer}
    before = TrainerSettings(**meant).epochs_here(meant.get("swa_from", 0))
    memory = max((row["gpu_memory_mb"] for row in rows if is_finite(row.get("gpu_memory_mb"))), default=float("nan"))
    return Pace(
        training_batch=spread(trials, ("seconds_load", "seconds_compute"), batches, before),
        validation_batch=spread(trials, ("seconds_validate",), trainer["validation_batches"]),
        source=f"sweep {sweep.name}, {counted(len(rows), 'epoch')}",
        start=start_of(sweep, trials),
        between=mean(gaps_between_trials(trials, resources.slots), DEFAULT_BETWEEN_S),
        per_epoch=float(np.median(gaps_between_epochs(trials) or 0.0)),  # a few of them may be waits for a place
        gpu_memory_gb=memory / 1024,
    )


def same_resources(trial: Trial, resources: TrialResources) -> bool:
    return all(trial.config.get("resources", {}).get(name) == value for name, value in resources.as_dict().items())


def spread(trials: Iterable[Trial], names: Sequence[str], per_epoch: int, before: int = 0) -> Range:
    """Seconds per batch: the mean of all epochs; the range is that of the trials' own means, outer tenths left out.

    before: only epochs before this one count, where there are such.
    """
    timed = [[row for row in trial.history if all(is_finite(row.get(n)) for n in names)] for trial in trials]
    earlier = [[row for row in rows if row["epoch"] < before] for rows in timed]
    timed = earlier if any(earlier) else timed
    per_trial = [[sum(row[n] for n in names) / per_epoch for row in rows] for rows in timed if rows]
    low, high = np.quantile([np.mean(values) for values in per_trial], [0.1, 0.9])
    return Range(float(np.mean(np.concatenate(per_trial))), float(low), float(high))


def spans(trial: Trial) -> list[tuple[float, float]]:
    """When each epoch began and ended, seconds since 1970; [] where the rows do not say."""
    known = [row for row in trial.history if is_finite(row.get("time_started")) and is_finite(row.get("time_ended"))]
    return [(float(row["time_started"]), float(row["time_ended"])) for row in known]


def most_at_once(trials: Iterable[Trial]) -> int:
    """The most trials that were in an epoch at one time; 0 where the rows do not say."""
    events = sorted(
        (t, step) for trial in trials for began, ended in spans(trial) for t, step in ((began, 1), (ended, -1))
    )
    return int(max(np.cumsum([step for _, step in events]), default=0))


def start_of(sweep: Sweep, trials: Iterable[Trial]) -> float:
    first = min((began for trial in trials for began, _ in spans(trial)), default=None)
    with suppress(ValueError, KeyError, TypeError):
        found = (first or 0.0) - datetime.fromisoformat(sweep.manifest["created"]).timestamp()
        return found if 0 < found < 600 else DEFAULT_START_S
    return DEFAULT_START_S


def gaps_between_epochs(trials: Iterable[Trial]) -> list[float]:
    """Seconds between an epoch and the next one of the same trial; of pauses those under a minute are among them."""
    return [
        later[0] - earlier[1]
        for trial in trials
        for earlier, later in zip(spans(trial), spans(trial)[1:])
        if later[0] - earlier[1] < 60
    ]


def gaps_between_trials(trials: Iterable[Trial], slots: int) -> list[float]:
    """Seconds from the end of a trial to the first epoch of the one that took its slot, guessed from the order."""
    whole = [(found[0][0], found[-1][1]) for trial in trials if (found := spans(trial))]
    begins = sorted(began for began, _ in whole)[slots:]
    ends = sorted(ended for _, ended in whole)
    return [began - ended for began, ended in zip(begins, ends) if 0 <= began - ended < 60]


def mean(values: Sequence[float], default: float) -> float:
    return float(np.mean(values)) if values else default
