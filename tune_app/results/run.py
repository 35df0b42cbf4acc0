"""One trained configuration, named by whoever wants to look at it: a trial of a sweep, or an export."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from trainables.errors import TrainablesError
from trainables.objective import Objective
from trainables.settings import TaskSettings, from_mapping
from trainables.tasks import get_task
from tune_app.errors import InputError
from tune_app.results.folders import find_sweep, is_sweep, results_folder
from tune_app.results.manifest import read_manifest
from tune_app.results.sweep import Sweep
from tune_app.results.tables import counted
from tune_app.results.trial import Trial, read_json
from tune_app.settings.document import to_plain

EXPORT = "tune_app export"
"""What the manifest of an export calls itself."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A trial with the sweep that it is of, where that is still there.

    name: what it is called in a sentence. folder: of the trial or of the export. about: the manifest of the sweep or
    of the export. thresholds: the section of an export's config.yaml, {} of a trial.
    """

    name: str
    kind: str
    """trial or export"""
    folder: Path
    trial: Trial
    sweep: Sweep | None
    about: Mapping[str, Any]
    classes: tuple[str, ...]
    thresholds: Mapping[str, Any]

    @property
    def data(self) -> Mapping[str, Any]:
        """Name, root, fingerprint and phantom, as the manifest has them."""
        return self.about.get("data") or {}


def find_run(given: str, results_dir: str = "", *, key: str) -> Run | None:
    """The run that `given` names: the folder of an export or of a trial, or SWEEP/TRIAL with a name or a number.

    None where it may be a sweep. Raises InputError for a folder of several exports, a trial that a sweep does not have,
    or an export that is damaged. key: what was typed.
    """
    path = Path(given).expanduser()
    if read_manifest(path).get("kind") == EXPORT:
        return _exported(path, results_dir, key)
    if inside := sum(read_manifest(folder).get("kind") == EXPORT for folder in path.glob("[1-9]*")):
        raise InputError(f"{key}={given}: holds {counted(inside, 'export')}: give {key}={path / '1'}")
    if path.parent.name == "trials" and is_sweep(path.parents[1]):
        return _of_sweep(Sweep(path.parents[1]), path.name)
    head, _, tail = given.rstrip("/").rpartition("/")
    if head and (
        head == "latest" or any(is_sweep(folder) for folder in (Path(head), results_folder(results_dir) / head))
    ):
        return _of_sweep(Sweep(find_sweep(head, results_dir, key=key)), tail)
    return None


def _of_sweep(sweep: Sweep, name: str) -> Run:
    trial = sweep.trial(name)
    return Run(
        name=f"{sweep.name}/{trial.name}",
        kind="trial",
        folder=trial.folder,
        trial=trial,
        sweep=sweep,
        about=sweep.manifest,
        classes=sweep.classes,
        thresholds={},
    )


def _exported(folder: Path, results_dir: str, key: str) -> Run:
    """The trial that was exported, with all that it left where its sweep is still there, else as the export tells."""
    manifest = read_manifest(folder)
    if manifest.get("ensemble"):
        raise InputError(
            f"{key}={folder}: is an ensemble of several networks. Give one of them, SWEEP/TRIAL, for example "
            f"{key}={manifest.get('sweep')}/{next(iter(manifest.get('members') or ['0']))}"
        )
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        told = read_json(folder / "metrics.json")
        task = from_mapping(TaskSettings, config.get("task") or {}, "task")
        objective = Objective.from_config(config.get("objective"), get_task(task.name, task.options))
        history = tuple({k: math.nan if v is None else v for k, v in row.items()} for row in told["history"])
        trial = Trial(
            name=str(manifest["trial"]),
            number=0,
            folder=folder,
            status=str(manifest.get("trial_status", "")),
            objective=objective,
            family=str(manifest.get("family") or ""),
            preset=str(manifest.get("preset") or ""),
            seed=manifest.get("seed"),
            loss=config["loss"],
            params=manifest.get("params") or {},
            config=config,
            history=history,
            as_of=int(manifest["best_epoch"]),
        )
    except (OSError, KeyError, TypeError, ValueError, AttributeError, yaml.YAMLError, TrainablesError) as error:
        raise InputError(
            f"{key}={folder}: its config.yaml, metrics.json or manifest.json is missing or damaged ({error}). "
            "Export it again: python -m tune_app.export sweep=NAME"
        ) from None
    source = _source(manifest, results_dir, trial)
    return Run(
        name=str(folder),
        kind="export",
        folder=folder,
        trial=source.trial if source else trial,
        sweep=source.sweep if source else None,
        about=manifest,
        classes=tuple(manifest.get("classes") or ()),
        thresholds=config.get("thresholds") or {},
    )


def _source(manifest: Mapping[str, Any], results_dir: str, exported: Trial) -> Run | None:
    """The trial that an export was made of; None where its sweep is gone, or another one has taken its name."""
    folder = results_folder(results_dir) / str(manifest.get("sweep"))
    if not is_sweep(folder):
        return None
    sweep, rows = Sweep(folder), len(exported.history)
    for trial in sweep.trials:
        if trial.name == exported.name and to_plain(trial.history[:rows]) == to_plain(exported.history):
            return replace(_of_sweep(sweep, trial.name), trial=replace(trial, as_of=exported.as_of))
    return None
