"""Brings the study of a killed driver up to what its trials had reported, and makes a damaged one anew from them.

A row is logged in result.json after the scheduler has judged it, with `done` where it ended the trial; the study hears
of the end a moment later. A driver killed in that moment leaves a trial that has ended and does not know it.
"""

from __future__ import annotations

import itertools
import math
import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from search_spaces import Sections, Space
from trainables.objective import Objective
from tune_app.errors import InputError
from tune_app.results.sweep import read_study
from tune_app.results.tables import counted
from tune_app.results.trial import is_finite, read_config, read_reported, was_given_up
from tune_app.search.searcher import NAN_EPOCH, TOLD, end, folder_name, report
from tune_app.search.study import JOURNAL, curve, distributions, open_study

LOST = "lost"
"""Label of a trial that nothing is left of but its number."""


def reconcile(study: optuna.Study, folder: Path, objective: Objective, epochs: int) -> None:
    """Report to the study what only result.json knows; tell it of the trials that had ended."""
    for frozen in study.get_trials(deepcopy=False):
        if frozen.state != TrialState.RUNNING or "name" not in frozen.user_attrs:
            continue
        rows = read_reported(folder / "trials" / frozen.user_attrs["name"] / "result.json")
        for row in rows:
            report(study, frozen.number, row, objective)
        if rows and (rows[-1].get("done") or rows[-1]["epoch"] >= epochs):
            end(study, frozen.number, rows[-1], False, objective, epochs)
        elif was_given_up(folder / "trials" / frozen.user_attrs["name"]):
            end(study, frozen.number, {}, True, objective, epochs)


def mend_study(
    folder: Path, space: Space, signature: Callable[[Sections], str], objective: Objective, epochs: int
) -> str:
    """Make a damaged or missing journal anew from its intact beginning and the trial folders; what to say of it.

    "" where nothing is wrong: it can be read to its end, and holds every trial that has a folder. The damaged file is
    kept beside the new one. signature: of a trial's sections. Raises InputError where the two disagree, or where a
    trial that the journal has lost cannot be read from its folder either.
    """
    known, intact = read_study(folder)
    found = {path: re.match(r"(\d+)_", path.name) for path in sorted((folder / "trials").glob("*/"))}
    numbers = {path: int(name[1]) for path, name in found.items() if name}
    if intact and max(numbers.values(), default=-1) < len(known):
        return ""
    trials = {frozen.number: frozen for frozen in known}
    for path, number in numbers.items():
        if number not in trials:
            trials[number] = _recorded_trial(path, space, signature)
        if problem := _disagreement(trials[number], path, objective.metric):
            raise InputError(
                f"{folder.name}: {JOURNAL} is damaged, and does not go together with trials/{path.name}: {problem}. "
                f"Put back from a copy what is wrong, or move it away: without {JOURNAL}, the folders alone count"
            )
    with tempfile.TemporaryDirectory(dir=folder, prefix=f".{JOURNAL}") as scratch:
        study = open_study(Path(scratch), folder.name, objective)
        for number in range(max(trials, default=-1) + 1):
            # What stands for a trial that had no folder yet, so that those after it keep their numbers.
            told: Any = {"name": folder_name(number, LOST), "label": LOST, "loss": {}, "seed": None, "reason": LOST}
            study.add_trial(trials.get(number) or create_trial(state=TrialState.FAIL, user_attrs=told))
        reconcile(study, folder, objective, epochs)
        was = _set_aside(folder / JOURNAL)
        os.replace(Path(scratch) / JOURNAL, folder / JOURNAL)
    lost = [str(number) for number in range(max(trials, default=0)) if number not in trials]
    counts = f"; {', '.join(lost)} had not begun and count as failed" if lost else ""
    return f"{JOURNAL} {was}: made anew from {counted(len(trials), 'trial')} in their folders{counts}"


def _disagreement(frozen: FrozenTrial, path: Path, metric: str) -> str:
    """What the study and the folder of a trial say differently; "" where nothing."""
    name = frozen.user_attrs.get("name")
    if name != path.name:
        return f"trial {frozen.number} is {name}"
    config, _ = read_config(path)
    for key in ("loss", "seed") if config else ():
        if config.get(key) != frozen.user_attrs.get(key):
            return f"its {key} is {frozen.user_attrs.get(key)} in the study, {config.get(key)} in the folder"
    told, ended = frozen.intermediate_values, frozen.state.is_finished()
    for row in read_reported(path / "result.json"):
        epoch, value = row["epoch"], row.get(metric)
        if is_finite(value) and told.get(epoch, None if ended else value) != value:
            return f"{metric} of epoch {epoch} is {told.get(epoch)} in the study, {value} in the folder"
    return ""


def _recorded_trial(path: Path, space: Space, signature: Callable[[Sections], str]) -> FrozenTrial:
    """A trial as it began, from the config in its folder."""
    config, _ = read_config(path)
    try:
        run, loss = config["run"], config["loss"]
        told = {key: run[key] for key in TOLD if key in run and key != "name"}
        return create_trial(
            state=TrialState.RUNNING,
            params=run["params"],
            distributions=distributions(space, run["params"]),
            user_attrs={
                "name": path.name,
                "label": path.name.partition("_")[2],
                "family": loss["name"],
                "loss": loss,
                "seed": config["seed"],
                "signature": signature({"loss": loss, **told.get("sections", {})}),
                **told,
            },
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise InputError(
            f"{path.parents[1].name}: {JOURNAL} is damaged, and trials/{path.name}/config.json does not say what this "
            "trial was. Put one of them back from a copy, or move the folder away: then the trial is lost"
        ) from None


def _set_aside(journal: Path) -> str:
    """Rename a damaged journal; what was wrong with it, and where it is now."""
    if not journal.is_file():
        return "was missing"
    kept = next(path for n in itertools.count(1) if not (path := journal.with_name(f"{JOURNAL}.damaged-{n}")).exists())
    journal.rename(kept)
    return f"was damaged, and is kept as {kept.name}"


def recorded_curves(
    study: optuna.Study, folder: Path, objective: Objective, *, whole: bool = False
) -> dict[str, Sequence[Mapping[str, Any]]]:
    """{trial name: its rows as far as the objective reads them}; the curve of a trial that became NaN ends with a NaN.

    The study knows the metric alone: what bounds are on, and all else where the rows are wanted whole, is read from the
    rows in the folder of the sweep.
    """
    curves: dict[str, Sequence[Mapping[str, Any]]] = {}
    for trial in study.get_trials(deepcopy=False):
        if (name := trial.user_attrs.get("name")) is None:
            continue
        if objective.bounds or whole:
            curves[name] = read_reported(folder / "trials" / name / "result.json")
        else:
            ending = [(trial.user_attrs[NAN_EPOCH], math.nan)] if NAN_EPOCH in trial.user_attrs else []
            curves[name] = [{"epoch": epoch, objective.metric: value} for epoch, value in curve(trial) + ending]
    return curves
