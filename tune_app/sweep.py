"""From settings to a finished sweep folder: check, prepare, search, and tell how it went.

A sweep is its folder. A run that goes on after a crash, and one that adds trials, read that folder and go on from it;
see docs/decisions/resume-from-the-sweep-folder.md.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import yaml
from filelock import FileLock, Timeout
from optuna.trial import TrialState

from search_spaces import ClassCounts, Space
from trainables.data import PackedDataset, open_packed
from tune_app.config import Settings
from tune_app.errors import InputError, RunFailed
from tune_app.manifest import build_manifest, set_status, write_manifest, write_text
from tune_app.ray_session import RaySession, TrialResources, ray_session, trial_resources
from tune_app.results import LOCK
from tune_app.search.arms import Arm, planned_arms, searched_space
from tune_app.search.study import UNFINISHED, curve, open_study

if TYPE_CHECKING:
    from tune_app.display import Progress

METRIC = "mean_dice"
DRIVER_RESTARTS = 3
"""Times the search is taken up again within one run when Ray itself breaks (an out-of-memory kill does that)."""

SweepListener = Callable[["Prepared", RaySession, TrialResources], None]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Everything about a sweep that is known before Ray starts."""

    settings: Settings
    folder: Path
    dataset: PackedDataset
    counts: ClassCounts
    arms: list[Arm]
    space: Space
    resumed: bool = False

    @property
    def num_trials(self) -> int:
        """Trials of the whole sweep, planned arms included."""
        if not self.space or self.settings.search.name == "grid":
            return len(self.arms)
        return self.settings.search.num_samples


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended."""

    folder: Path
    complete: bool
    """False where it was interrupted: trials are left to run."""


def prepare(settings: Settings, folder: Path, *, resumed: bool = False) -> Prepared:
    """Open the data, count the classes, lay out the arms. Writes nothing into the sweep folder.

    Raises SettingsError, DataError, SearchSpaceError or InputError for anything that a person can mend.
    """
    space = searched_space(settings)
    arms = planned_arms(settings, space)
    dataset = open_packed(settings.data)
    counts = class_counts(settings, dataset)
    for arm in arms:
        arm.loss_config(counts)  # a preset that does not fit the classes is refused before anything starts
    return Prepared(
        settings=settings, folder=folder, dataset=dataset, counts=counts, arms=arms, space=space, resumed=resumed
    )


def class_counts(settings: Settings, dataset: PackedDataset) -> ClassCounts:
    """The counts behind derived weights: of the training crops, the published ones, or a file."""
    if settings.frequencies == "data":
        return ClassCounts.from_mapping(dataset.counts("train"), source="training crops")
    if settings.frequencies == "published":
        return ClassCounts.published().select(settings.data.classes)
    return ClassCounts.from_json(settings.frequencies).select(settings.data.classes)


def run_sweep(prepared: Prepared, announce: SweepListener | None = None) -> Outcome:
    """Run the search in its folder until it is complete or interrupted.

    Raises InputError before anything is written where the machine cannot hold a trial or the folder is in use.
    """
    with ray_session(prepared.settings) as session, _quiet(prepared.settings.verbose):
        resources = trial_resources(prepared.settings)
        with _locked(prepared.folder):
            _write_folder(prepared)
            if announce:
                announce(prepared, session, resources)
            complete = _search_until_done(prepared, resources)
            set_status(prepared.folder, "finished" if complete else "interrupted")
    return Outcome(folder=prepared.folder, complete=complete)


def new_folder(settings: Settings) -> Path:
    """The folder of a sweep that starts now. Raises InputError where it exists or cannot be written."""
    label = settings.preset or ("trial" if settings.trial else settings.family)
    name = settings.name or f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{label}"
    folder = Path(settings.results_dir).expanduser().resolve() / name
    if folder.exists():
        raise InputError(
            f"name={name}: {folder} exists already, and sweeps do not share a folder. Choose another name "
            f"or go on: python -m tune_app.run resume={name}"
        )
    _require_writable(folder.parent)
    return folder


def _require_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".write-test-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"results_dir={folder}: cannot write there ({error.strerror}). Give a folder of your own: results_dir=PATH"
        ) from None


def _write_folder(prepared: Prepared) -> None:
    """sweep.yaml, class_frequencies.json and manifest.json; kept as they are where the sweep goes on."""
    settings, folder = prepared.settings, prepared.folder
    if prepared.resumed:
        set_status(folder, "running")
        return
    write_text(folder / "sweep.yaml", yaml.safe_dump(settings.as_dict(), sort_keys=False))
    write_text(folder / "class_frequencies.json", json.dumps(asdict(prepared.counts), indent=1))
    manifest = build_manifest(
        sweep=folder.name,
        family=settings.family,
        seed=settings.seed,
        classes=settings.data.classes,
        data=asdict(settings.data),
        fingerprint=prepared.dataset.fingerprint,
        experiment=settings.experiment_name,
        space={name: asdict(parameter) for name, parameter in prepared.space.items()},
        settings=settings.as_dict(),
        metric=METRIC,
    )
    write_manifest(folder, manifest)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=2)  # a reader's probe holds it for a moment
    except Timeout:
        raise InputError(
            f"{folder.name}: another process is running this sweep. Watch it with python -m tune_app.summary "
            f"sweep={folder.name}, or end that process first"
        ) from None
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _quiet(verbose: int) -> Iterator[None]:
    """Keep Ray's chatter off the terminal unless it was asked for."""
    if verbose:
        yield
        return
    loggers = [logging.getLogger(name) for name in ("ray", "ray.tune", "ray.train", "ray.data")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels):
                logger.setLevel(level)


def _search_until_done(prepared: Prepared, resources: TrialResources) -> bool:
    """Run the search; take it up again from the folder where Ray itself breaks. True when every trial has ended."""
    from ray.exceptions import RayError
    from ray.tune import TuneError

    for attempt in range(DRIVER_RESTARTS + 1):
        try:
            return _search(prepared, resources)
        except (RayError, TuneError) as error:
            if attempt == DRIVER_RESTARTS:
                raise RunFailed(
                    f"the search broke {attempt + 1} times, last with {type(error).__name__}: {error}. "
                    f"Nothing recorded is lost: python -m tune_app.run resume={prepared.folder.name}"
                ) from error
            logging.getLogger(__name__).warning("the search broke (%s); it goes on from its folder", error)
    raise AssertionError("unreachable")


def _search(prepared: Prepared, resources: TrialResources) -> bool:
    from ray import tune

    from tune_app.display import Display
    from tune_app.tuner import build_tuner

    study = open_study(prepared.folder, prepared.folder.name)
    reconcile(study, prepared.folder, prepared.settings.trainer.epochs)
    display = Display(_progress(prepared, resources, study))
    tuner: tune.Tuner = build_tuner(prepared, resources, study, display)
    with _sigterm_as_interrupt():
        try:
            tuner.fit()
        finally:
            display.close()
    states = [trial.state for trial in study.get_trials(deepcopy=False)]
    return len(states) >= prepared.num_trials and not any(state in UNFINISHED for state in states)


def _progress(prepared: Prepared, resources: TrialResources, study: optuna.Study) -> Progress:
    from tune_app.display import Progress

    ended = sum(trial.state not in UNFINISHED for trial in study.get_trials(deepcopy=False))
    return Progress(
        num_trials=max(prepared.num_trials, ended),
        epochs=prepared.settings.trainer.epochs,
        classes=prepared.settings.data.classes,
        slots=resources.slots,
        earlier=ended,
    )


@contextlib.contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Ray ends a search in order on SIGUSR1; let SIGTERM, which schedulers send, do the same."""

    def interrupt(number: int, frame: object) -> None:
        os.kill(os.getpid(), signal.SIGUSR1)

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def reconcile(study: optuna.Study, folder: Path, epochs: int) -> None:
    """Bring the study up to what the trial folders recorded before the driver was killed.

    A trial whose last epoch is on disk is told so; one that was running gets the values the study missed.
    """
    from tune_app.search.searcher import tell, verdict

    for frozen in study.get_trials(deepcopy=False):
        if frozen.state != TrialState.RUNNING or "name" not in frozen.user_attrs:
            continue
        rows = read_reported(folder / "trials" / frozen.user_attrs["name"] / "result.json")
        trial = optuna.Trial(study, frozen._trial_id)
        for row in rows:
            value = row.get(METRIC)
            if value is not None and value == value and row["epoch"] not in frozen.intermediate_values:
                trial.report(value, step=row["epoch"])
        state, value, reason = verdict(rows[-1] if rows else None, False, METRIC, epochs)
        if rows and state != TrialState.PRUNED:
            tell(study, trial, state, value, reason)


def read_reported(path: Path) -> list[Mapping[str, Any]]:
    """The rows of a result.json; a last line cut short by a crash is left out."""
    rows: list[Mapping[str, Any]] = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                row = json.loads(line)
                if isinstance(row, dict) and "epoch" in row:
                    rows.append(row)
    return rows


def recorded_curves(study: optuna.Study) -> dict[str, list[tuple[int, float]]]:
    """{trial name: curve} of every trial in the study."""
    return {t.user_attrs["name"]: curve(t) for t in study.get_trials(deepcopy=False) if "name" in t.user_attrs}
