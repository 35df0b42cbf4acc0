"""A sweep that goes on: resumed, or extended by further trials. What may change then, and what is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from search_spaces import flatten
from tune_app.errors import InputError
from tune_app.results.baseline import baseline_trials
from tune_app.results.folders import LOCK, find_sweep, is_confirmation, lock_is_held, resume_command, spoken
from tune_app.results.manifest import read_manifest
from tune_app.results.sweep import Sweep
from tune_app.settings.command_line import Composed
from tune_app.settings.schema import Settings
from tune_app.settings.stored import located, merged, stored_settings
from tune_app.sweep.folder import in_use
from tune_app.sweep.prepare import Prepared, prepare

MAY_CHANGE_ON_RESUME = (
    "resume",
    "extend",
    "results_dir",
    "verbose",
    "wandb_project",
    "resources",
    "cluster",
    "checkpoints",
    "data.root",
    "data.split_file",
    "data.cache_dir",
)
"""The data may have moved: that they are the same is checked by their fingerprint."""
NUM_SAMPLES, BASELINE = "search.num_samples", "search.baseline"


def take_up(composed: Composed[Settings]) -> Prepared:
    """The sweep of resume= or extend=, with its own settings. Raises InputError where those given contradict them."""
    settings, folder = going_on(composed)
    prepared = prepare(settings, folder, resumed=True, extended=bool(composed.settings.extend))
    refuse_other_data(prepared, folder)
    if composed.settings.extend and prepared.num_trials <= (there := len(Sweep(folder).trials)):
        raise InputError(
            f"extend={composed.settings.extend}: {folder.name} has tried all {there} configurations of its space. "
            f"Repeat the best with other seeds: python -m tune_app.confirm sweep={spoken(folder)}"
        )
    return prepared


def earlier_folder(asked: Settings) -> Path:
    """The folder of the sweep that resume= or extend= names. Raises InputError."""
    return find_sweep(asked.resume or asked.extend, asked.results_dir, key="resume" if asked.resume else "extend")


def going_on(composed: Composed[Settings]) -> tuple[Settings, Path]:
    """The settings and the folder of a sweep that goes on; the data are not looked at. Raises InputError."""
    asked = composed.settings
    folder = earlier_folder(asked)
    refuse_confirmation(folder, extend=bool(asked.extend))
    stored = stored_settings(folder)
    refuse_changes(composed, stored, folder)
    if lock_is_held(folder / LOCK):
        raise in_use(folder)
    settings = with_allowed(stored, composed)
    if asked.extend:
        settings = extended(settings, folder, composed)
    return settings, folder


def refuse_confirmation(folder: Path, *, extend: bool) -> None:
    """Raise InputError for the folder of a confirmation: its runs are planned by `confirm`."""
    if is_confirmation(folder):
        fix = (
            f"A larger one is a new one: python -m tune_app.confirm sweep={spoken(folder.parent)} replicates=…"
            if extend
            else f"Resume it: {resume_command(folder)}"
        )
        raise InputError(f"{spoken(folder)}: is the confirmation of {folder.parent.name}, not a search. {fix}")


def refuse_changes(composed: Composed[Settings], stored: Settings, folder: Path) -> None:
    """A sweep that goes on keeps its settings: trials trained under others would not be comparable."""
    old, new = flatten(stored.as_dict()), flatten(composed.settings.as_dict())
    for key in given_leaves(composed, old | new):
        was, given = old.get(key), new.get(key)
        if was == given or may_change(key) or (key == BASELINE and given is None):
            continue
        if key == BASELINE and given and composed.settings.extend:
            continue
        if key == NUM_SAMPLES:
            if composed.settings.extend:
                continue
            raise InputError(
                f"{key}={given}: resume= continues the {was} trials planned. To add trials to the finished sweep: "
                f"extend={spoken(folder)} {key}=…"
            )
        before = f"without {key}" if was in (None, "") else f"with {key}={was}"
        raise InputError(
            f"{key}={given}: sweep {folder.name} was started {before}, and a sweep that goes on keeps its "
            f"settings. Leave {key} out, or start a new sweep"
        )


def given_leaves(composed: Composed[Any], leaves: Iterable[str]) -> list[str]:
    """The single settings that the command line gives, by itself or through a group (model=, experiment=)."""
    given = ["experiment_name" if key == "experiment" else key for key in composed.given_keys]
    return [leaf for leaf in leaves if any(leaf == key or leaf.startswith(f"{key}.") for key in given)]


def may_change(key: str) -> bool:
    """Whether a setting may be another when a sweep goes on."""
    return any(key == allowed or key.startswith(f"{allowed}.") for allowed in MAY_CHANGE_ON_RESUME)


def with_allowed(stored: Settings, composed: Composed[Any]) -> Settings:
    """The stored settings with what may change: where it runs, what is shown and kept."""
    new, values = flatten(composed.settings.as_dict()), stored.as_dict()
    changed = [key for key in given_leaves(composed, new) if may_change(key)]
    overlaid = OmegaConf.create(values)
    for key in changed:
        OmegaConf.update(overlaid, key, new[key])
    plain = OmegaConf.to_container(overlaid)
    assert isinstance(plain, dict)
    return located(merged({}, {**plain, "resume": "", "extend": ""}, {}, source="the command line"))


def extended(settings: Settings, folder: Path, composed: Composed[Settings]) -> Settings:
    """The settings of a finished sweep with search.num_samples further trials; the baseline, asked for, is one of them.

    The baseline can be added to a fixed list, too; where no number of trials is given, it alone is added.
    """
    asked = composed.settings
    adds_baseline = bool(asked.search.baseline)
    if settings.listed and not adds_baseline:
        repeat = f"Give another seed, seed={settings.seed + 1}, to"  # a search takes no seeds=
        repeat = "Repeat arms with seeds=3 in" if settings.single_arms else repeat
        raise InputError(
            f"extend={asked.extend}: {folder.name} tried a fixed list of configurations, there is nothing further to "
            f"propose. {repeat} a new sweep"
        )
    sweep = Sweep(folder)
    if sweep.status != "finished":
        raise InputError(
            f"extend={asked.extend}: {folder.name} is {sweep.status}, and only a finished sweep can be extended. "
            f"First: python -m tune_app.run resume={spoken(folder)}"
        )
    further = asked.search.num_samples
    if adds_baseline and (settings.listed or NUM_SAMPLES not in composed.given_keys):
        if there := baseline_trials(sweep):
            raise InputError(
                f"{BASELINE}=true: {sweep.name} has the untuned baseline already, {there[0].name}: nothing is added"
            )
        further = 1
    search = dataclasses.replace(
        settings.search,
        num_samples=len(sweep.trials) + further,
        baseline=True if adds_baseline else settings.search.baseline,
    )
    return dataclasses.replace(settings, search=search)


def refuse_other_data(prepared: Prepared, sweep: Path) -> None:
    """Trials on other volumes or another split would not be comparable with those of the sweep."""
    recorded = (read_manifest(sweep).get("data") or {}).get("fingerprint")
    if recorded and recorded != prepared.dataset.fingerprint:
        raise InputError(
            f"{sweep.name}: the data under {prepared.settings.data.root or 'the cache'} changed since the "
            "sweep began (volumes, split, or cache settings), so new trials would not be comparable. Start a new sweep"
        )
