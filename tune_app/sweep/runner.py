"""From settings to a finished sweep folder: check, prepare, search, and tell how it went.

A sweep is its folder. A run that goes on after a crash, and one that adds trials, read that folder and go on from it;
see docs/decisions/resume-from-the-sweep-folder.md.
"""

from __future__ import annotations

import contextlib
import functools
import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
import yaml

from search_spaces import trial_signature, untuned
from trainables.files import write_text
from tune_app.errors import RunFailed
from tune_app.ray_adapters.patches import failures_counted_fairly, nothing_read_back, own_staging, quiet
from tune_app.ray_adapters.remote import refuse_local_folder
from tune_app.ray_adapters.session import TrialResources, ray_session, trial_resources
from tune_app.results.folders import resume_command
from tune_app.results.manifest import build_manifest, read_manifest, set_status, write_manifest
from tune_app.results.trial import is_paused
from tune_app.search.arms import read_exported
from tune_app.search.study import UNFINISHED, open_study
from tune_app.settings.stored import FREQUENCIES, TRIAL
from tune_app.sweep.folder import locked, space_in
from tune_app.sweep.interrupt import interrupts
from tune_app.sweep.prepare import Prepared, SweepListener

if TYPE_CHECKING:
    from tune_app.sweep.progress import Progress

DRIVER_RESTARTS = 3
"""Times the search is resumed within one run when Ray itself breaks."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended."""

    folder: Path
    complete: bool
    """False where it was interrupted: trials are left to run."""


def run_sweep(prepared: Prepared, announce: SweepListener | None = None) -> Outcome:
    """Run the search in its folder until it is complete or interrupted.

    Raises InputError before anything is written where the machine cannot hold a trial or the folder is in use, and
    KeyboardInterrupt where it is interrupted before there is anything to resume.
    """
    if prepared.resumed:
        with locked(prepared.folder), space_in(prepared.folder, resume_command(prepared.folder)):
            _mend(prepared)
            if _is_done(prepared):  # no Ray is needed
                set_status(prepared.folder, "finished")  # it may have crashed before it said so
                return Outcome(folder=prepared.folder, complete=True)
    with ray_session(prepared.settings) as session, interrupts(), quiet(prepared.settings.verbose):
        resources = trial_resources(prepared.settings, trials=prepared.num_trials)
        for own in prepared.sizes():  # InputError where one of them fits nowhere
            if (own.resources, own.trainer) != (prepared.settings.resources, prepared.settings.trainer):
                smaller = trial_resources(own, trials=prepared.num_trials)
                resources = replace(resources, slots=max(resources.slots, smaller.slots))
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
        classes=settings.outputs,
        data=asdict(settings.data),
        fingerprint=prepared.dataset.fingerprint,
        experiment=settings.experiment_name,
        space={name: asdict(parameter) for name, parameter in prepared.space.items()},
        baseline={
            "preset": prepared.untuned.preset or untuned(settings.family, settings.families).name,
            "signature": prepared.untuned.signature(prepared.counts, prepared.window_voxels),
        },
        settings=settings.as_dict(),
        objective=settings.order,
        phantom=prepared.phantom,
        class_counts=prepared.counts.source,
        notices=prepared.notices,
    )
    write_manifest(folder, manifest)


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

    from tune_app.search.early_failure import Watch
    from tune_app.search.recovery import reconcile
    from tune_app.sweep.progress import Display
    from tune_app.sweep.standstill import head_watched
    from tune_app.sweep.tuner import build_tuner

    study = open_study(prepared.folder, prepared.folder.name, prepared.settings.order)
    reconcile(study, prepared.folder, prepared.settings.order, prepared.settings.trainer.epochs)
    watch = Watch(prepared.settings.diagnosis, prepared.folder / "trials")
    display = Display(_progress(prepared, resources, study), watch=watch)
    tuner: tune.Tuner = build_tuner(prepared, resources, study, display)

    def head_gone(why: str) -> None:
        display.close()
        prepared.notify.tell(prepared.folder, "failed", why)

    watched = head_watched(prepared.folder, head_gone)
    with interrupts(), own_staging(), nothing_read_back(), failures_counted_fairly(), watched:
        try:
            tuner.fit()
        finally:
            display.close()
    return _is_done(prepared, study)


def _mend(prepared: Prepared) -> None:
    """Make a damaged study anew and say so."""
    from tune_app.search.recovery import mend_study

    counts, window_voxels = prepared.counts, prepared.window_voxels
    signature = functools.partial(trial_signature, counts=counts, window_voxels=window_voxels)
    epochs = prepared.settings.trainer.epochs
    if told := mend_study(prepared.folder, prepared.space, signature, prepared.settings.order, epochs):
        print(f"note: {told}", file=sys.stderr)


def _is_done(prepared: Prepared, study: optuna.Study | None = None) -> bool:
    """Whether every trial of the sweep has ended."""
    study = study or open_study(prepared.folder, prepared.folder.name, prepared.settings.order)
    states = [trial.state for trial in study.get_trials(deepcopy=False)]
    return len(states) >= prepared.num_trials and not any(state in UNFINISHED for state in states)


def _progress(prepared: Prepared, resources: TrialResources, study: optuna.Study) -> Progress:
    from tune_app.planning.forecast import planned_epochs
    from tune_app.sweep.progress import Progress, TrialView

    trials = study.get_trials(deepcopy=False)
    ended = sum(trial.state not in UNFINISHED for trial in trials)
    waiting = {t.user_attrs["name"]: t for t in trials if t.state in UNFINISHED and is_paused(t.user_attrs)}
    return Progress(
        num_trials=max(prepared.num_trials, ended),
        epochs=prepared.settings.trainer.epochs,
        classes=prepared.settings.outputs,
        objective=prepared.settings.order,
        slots=resources.slots,
        earlier=ended,
        paused={
            name: TrialView(name, epoch=max(t.intermediate_values, default=0), state="paused")
            for name, t in waiting.items()
        },
        planned=planned_epochs(prepared.folder),
    )
