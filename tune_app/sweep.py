"""From settings to a finished sweep folder: check, prepare, search, and tell how it went.

A sweep is its folder. A run that goes on after a crash, and one that adds trials, read that folder and go on from it;
see docs/decisions/resume-from-the-sweep-folder.md.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
import torch
import yaml

from search_spaces import ClassCounts, Space, effective_signature
from trainables.data import PackedDataset, open_packed
from trainables.data.phantom import is_phantom
from trainables.models import build as build_model
from tune_app.clusters import refuse_local_folder
from tune_app.config import Settings
from tune_app.counts import class_counts, count_window_voxels
from tune_app.errors import RunFailed
from tune_app.interrupt import interrupts
from tune_app.manifest import build_manifest, read_manifest, set_status, write_manifest, write_text
from tune_app.ray_session import RaySession, TrialResources, ray_session, trial_resources
from tune_app.search.arms import Arm, num_trials, planned_arms, read_exported, searched_space, with_baseline
from tune_app.search.study import UNFINISHED, open_study
from tune_app.sweep_folders import locked, resume_command, space_in

if TYPE_CHECKING:
    from tune_app.display import Progress

METRIC = "mean_dice"
FREQUENCIES, TRIAL = "class_frequencies.json", "trial.yaml"
"""What a sweep was started with, kept in its folder: the class counts, and the configuration of trial=."""
DRIVER_RESTARTS = 3
"""Times the search is taken up again within one run when Ray itself breaks."""

SweepListener = Callable[["Prepared", RaySession, TrialResources], None]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Everything about a sweep that is known before Ray starts."""

    settings: Settings
    folder: Path
    dataset: PackedDataset
    counts: ClassCounts
    window_voxels: float
    """Annotated voxels per class in one count window: what decides whether count-based weights have saturated."""
    arms: list[Arm]
    space: Space
    baseline: str = ""
    """Label of the arm that is the untuned baseline; empty where none is planned."""
    resumed: bool = False
    extended: bool = False
    """resumed with more trials than sweep.yaml says."""

    @property
    def phantom(self) -> bool:
        """Whether the volumes were generated, whatever `data=` calls them."""
        return is_phantom(Path(self.dataset.root))

    @property
    def notices(self) -> list[str]:
        """What must be known of the data before any score is read."""
        return [self.dataset.leak] if self.dataset.leak else []

    @property
    def num_trials(self) -> int:
        """Trials of the whole sweep, planned arms included."""
        return num_trials(self.settings, self.arms, self.space, self.counts, self.window_voxels)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended."""

    folder: Path
    complete: bool
    """False where it was interrupted: trials are left to run."""


def prepare(
    settings: Settings,
    folder: Path,
    *,
    resumed: bool = False,
    extended: bool = False,
    chosen: Sequence[Arm] | None = None,
) -> Prepared:
    """Open the data, count the classes, lay out the arms. Writes nothing into the sweep folder.

    chosen: the arms, where the settings do not say which (a confirmation). Raises SettingsError, DataError,
    SearchSpaceError or InputError for anything that a person can mend.
    """
    space = searched_space(settings)
    arms = planned_arms(settings, space) if chosen is None else list(chosen)
    with torch.device("meta"):  # nothing is allocated: is there such a model, and does it take the patch
        build_model(settings.model, in_channels=1, num_classes=len(settings.data.classes), patch=settings.data.patch)
    dataset = open_packed(settings.data)
    kept = folder / FREQUENCIES
    counts = ClassCounts.from_json(kept) if resumed and kept.is_file() else class_counts(settings, dataset)
    window_voxels = count_window_voxels(settings, dataset)
    arms, baseline = with_baseline(settings, arms, space, counts, window_voxels)
    for arm in arms:
        arm.loss_config(counts)  # a preset that does not fit the classes is refused before anything starts
    return Prepared(
        settings=settings, folder=folder, dataset=dataset, counts=counts, arms=arms, space=space,
        window_voxels=window_voxels, baseline=baseline,
        resumed=resumed, extended=extended,
    )  # fmt: skip


def run_sweep(prepared: Prepared, announce: SweepListener | None = None) -> Outcome:
    """Run the search in its folder until it is complete or interrupted.

    Raises InputError before anything is written where the machine cannot hold a trial or the folder is in use, and
    KeyboardInterrupt where it is interrupted before there is anything to resume.
    """
    if prepared.resumed:
        with locked(prepared.folder), space_in(prepared.folder, resume_command(prepared.folder)):
            _mend(prepared)
            if _had_ended(prepared):
                return Outcome(folder=prepared.folder, complete=True)
    with ray_session(prepared.settings) as session, interrupts(), _quiet(prepared.settings.verbose):
        resources = trial_resources(prepared.settings, trials=prepared.num_trials)
        if prepared.settings.cluster.remote:
            refuse_local_folder(prepared.folder)
        with locked(prepared.folder), space_in(prepared.folder, resume_command(prepared.folder)):
            _write_folder(prepared)
            complete = False
            with contextlib.suppress(KeyboardInterrupt):
                if announce:
                    announce(prepared, session, resources)
                complete = _search_until_done(prepared, resources)
            set_status(prepared.folder, "finished" if complete else "interrupted")
    return Outcome(folder=prepared.folder, complete=complete)


def _write_folder(prepared: Prepared) -> None:
    """sweep.yaml and what it refers to, and manifest.json; kept as they are where the sweep goes on and has them."""
    settings, folder = prepared.settings, prepared.folder
    if not prepared.resumed or prepared.extended:
        write_text(folder / "sweep.yaml", yaml.safe_dump(settings.as_dict(), sort_keys=False))
    if prepared.resumed and read_manifest(folder):
        set_status(folder, "running")
        return
    write_text(folder / FREQUENCIES, json.dumps(asdict(prepared.counts), indent=1))
    if settings.trial:
        write_text(folder / TRIAL, yaml.safe_dump(read_exported(Path(settings.trial)), sort_keys=False))
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
        phantom=prepared.phantom,
        class_counts=prepared.counts.source,
        notices=prepared.notices,
    )
    write_manifest(folder, manifest)


@contextlib.contextmanager
def _quiet(verbose: int) -> Iterator[None]:
    """Keep Ray's chatter off the terminal unless it was asked for."""
    if verbose:
        yield
        return
    loggers = [logging.getLogger(name) for name in ("ray", "ray.tune", "ray.train", "ray.data")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)  # the display says which trial failed, its error.txt why
    from ray._private import worker

    printer = worker.print_to_stdstream
    worker.print_to_stdstream = lambda *args, **kwargs: None  # pages of a raylet's state, where one died
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            worker.print_to_stdstream = printer
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
                    f"Nothing recorded is lost: {resume_command(prepared.folder)}"
                ) from error
            cause = str(error).strip().splitlines()[-1:] or [type(error).__name__]
            print(f"warning: the search broke ({cause[0]}); it goes on from its folder", file=sys.stderr)
    raise AssertionError("unreachable")


def _search(prepared: Prepared, resources: TrialResources) -> bool:
    from ray import tune

    from tune_app.display import Display
    from tune_app.driver_memory import nothing_read_back
    from tune_app.search.recovery import reconcile
    from tune_app.search.watch import Watch
    from tune_app.standstill import head_watched
    from tune_app.trial_failures import failures_counted_fairly
    from tune_app.tuner import build_tuner

    study = open_study(prepared.folder, prepared.folder.name)
    reconcile(study, prepared.folder, METRIC, prepared.settings.trainer.epochs)
    watch = Watch(prepared.settings.diagnosis, prepared.folder / "trials")
    display = Display(_progress(prepared, resources, study), watch=watch)
    tuner: tune.Tuner = build_tuner(prepared, resources, study, display)
    with (
        interrupts(),
        nothing_read_back(),
        failures_counted_fairly(),
        head_watched(prepared.folder, display.close),
    ):
        try:
            tuner.fit()
        finally:
            display.close()
    return _is_done(prepared, study)


def _mend(prepared: Prepared) -> None:
    """Make a damaged study anew and say so."""
    from tune_app.search.recovery import mend_study

    counts, window_voxels = prepared.counts, prepared.window_voxels
    signature = functools.partial(effective_signature, counts=counts, window_voxels=window_voxels)
    epochs = prepared.settings.trainer.epochs
    if told := mend_study(prepared.folder, prepared.space, signature, METRIC, epochs):
        print(f"note: {told}", file=sys.stderr)


def _had_ended(prepared: Prepared) -> bool:
    """Whether nothing is left to do in a sweep that goes on, so that no Ray is needed; noted in its folder."""
    done = _is_done(prepared)
    if done:
        set_status(prepared.folder, "finished")  # it may have crashed before it said so
    return done


def _is_done(prepared: Prepared, study: optuna.Study | None = None) -> bool:
    """Whether every trial of the sweep has ended."""
    study = study or open_study(prepared.folder, prepared.folder.name)
    states = [trial.state for trial in study.get_trials(deepcopy=False)]
    return len(states) >= prepared.num_trials and not any(state in UNFINISHED for state in states)


def _progress(prepared: Prepared, resources: TrialResources, study: optuna.Study) -> Progress:
    from tune_app.display import Progress
    from tune_app.planning.forecast import planned_epochs

    ended = sum(trial.state not in UNFINISHED for trial in study.get_trials(deepcopy=False))
    return Progress(
        num_trials=max(prepared.num_trials, ended),
        epochs=prepared.settings.trainer.epochs,
        classes=prepared.settings.data.classes,
        slots=resources.slots,
        earlier=ended,
        planned=planned_epochs(prepared.folder),
    )
