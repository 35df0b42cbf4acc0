"""Start, resume or extend a sweep:  python -m tune_app.run family=seesaw

See python -m tune_app.run --help, docs/settings.md and the README.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from search_spaces import flatten, get_preset
from trainables.errors import SettingsError
from tune_app.baseline import baseline_trials
from tune_app.clusters import found, plain, run_there
from tune_app.command_line import Composed, compose, exit_code
from tune_app.config import ClusterSettings, Settings
from tune_app.errors import InputError
from tune_app.manifest import read_manifest
from tune_app.messages import INTERRUPTED, announce, best_line, next_steps
from tune_app.results import LOCK, Sweep, find_sweep, is_confirmation, lock_is_held, resume_command, spoken
from tune_app.search.arms import read_exported
from tune_app.summary import SummarySettings, summarise
from tune_app.sweep import TRIAL, Outcome, Prepared, in_use, new_folder, prepare, run_sweep

MAY_CHANGE_ON_RESUME = (
    "resume", "extend", "results_dir", "verbose", "wandb_project", "resources", "cluster", "checkpoints",
    "data.root", "data.split_file", "data.cache_dir",
)  # fmt: skip
"""The data may have moved: that they are the same is checked by their fingerprint."""
NUM_SAMPLES, BASELINE = "search.num_samples", "search.baseline"
EXPORTED_SECTIONS = ("data", "model", "trainer", "hardware")


def run(composed: Composed[Settings]) -> int:
    """Act on composed settings; the exit code."""
    settings = composed.settings
    require_wandb(settings.wandb_project)
    cluster = wanted_cluster(composed)
    if cluster.remote and not (connection := found(cluster)).here:
        return run_there(connection, plain(composed.overrides))
    if settings.resume or settings.extend:
        prepared = take_up(composed)
    else:
        settings = located(with_exported(composed) if settings.trial else checked_preset(composed))
        prepared = prepare(settings, new_folder(settings))
    return finish(run_sweep(prepared, announce))


def wanted_cluster(composed: Composed[Settings]) -> ClusterSettings:
    """Where the sweep is to run: as asked, and for one that goes on, else where it ran before."""
    asked = composed.settings
    if not (asked.resume or asked.extend):
        return asked.cluster
    folder = find_sweep(asked.resume or asked.extend, asked.results_dir, key="resume" if asked.resume else "extend")
    return with_allowed(stored_settings(folder), composed).cluster


def located(settings: Settings) -> Settings:
    """The settings with absolute paths: trials run elsewhere, and a sweep may be taken up from elsewhere."""

    def absolute(path: str) -> str:
        return str(Path(path).expanduser().absolute()) if path else ""

    data = dataclasses.replace(
        settings.data,
        root=absolute(settings.data.root),
        split_file=absolute(settings.data.split_file),
        cache_dir=absolute(settings.data.cache_dir),
    )
    counts = settings.frequencies if settings.frequencies in ("data", "published") else absolute(settings.frequencies)
    return dataclasses.replace(settings, data=data, trial=absolute(settings.trial), frequencies=counts)


def checked_preset(composed: Composed[Settings]) -> Settings:
    """The settings with the family that a preset belongs to. Raises InputError where another was asked for."""
    settings = composed.settings
    if not settings.preset:
        return settings
    family = get_preset(settings.preset).family
    if "family" in composed.given_keys and settings.family not in (family, "all"):
        raise InputError(
            f"family={settings.family} preset={settings.preset}: this is a preset of {family}. Leave family= out"
        )
    return dataclasses.replace(settings, family=family)


def with_exported(composed: Composed[Settings]) -> Settings:
    """The settings of trial=: data, model, trainer and hardware as exported, under what the command line gives."""
    exported = read_exported(Path(composed.settings.trial))
    wanted = [name for name in EXPORTED_SECTIONS if name in exported and name not in composed.given_keys]
    sections = {name: exported[name] for name in wanted}
    words = [word.lstrip("+") for word in composed.overrides]
    dotted = [word for word in words if word.split(".")[0] in sections and "." in word.split("=")[0]]
    family = str(exported.get("family") or exported["loss"]["name"])
    base = composed.settings.as_dict() | {"family": family}
    return _merged(base, sections, dotted, source=composed.settings.trial)


def _merged(base: dict[str, Any], sections: dict[str, Any], dotted: Sequence[str], source: str) -> Settings:
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Settings), base, sections, OmegaConf.from_dotlist(list(dotted)))
        settings = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        cause = error.__cause__
        if isinstance(cause, SettingsError):
            raise cause from None
        raise InputError(f"{source}: {str(error).splitlines()[0]}") from None
    assert isinstance(settings, Settings)
    return settings


def take_up(composed: Composed[Settings]) -> Prepared:
    """The sweep of resume= or extend=, with its own settings. Raises InputError where those given contradict them."""
    asked = composed.settings
    folder = find_sweep(asked.resume or asked.extend, asked.results_dir, key="resume" if asked.resume else "extend")
    refuse_confirmation(folder, extend=bool(asked.extend))
    stored = stored_settings(folder)
    refuse_changes(composed, stored, folder)
    if lock_is_held(folder / LOCK):
        raise in_use(folder)
    settings = with_allowed(stored, composed)
    if asked.extend:
        settings = extended(settings, folder, composed)
    prepared = prepare(settings, folder, resumed=True, extended=bool(asked.extend))
    refuse_other_data(prepared, folder)
    return prepared


def refuse_confirmation(folder: Path, *, extend: bool) -> None:
    """Raise InputError for the folder of a confirmation: its runs are planned by `confirm`."""
    if is_confirmation(folder):
        fix = (
            f"A larger one is a new one: python -m tune_app.confirm sweep={spoken(folder.parent)} replicates=…"
            if extend
            else f"Go on with it: {resume_command(folder)}"
        )
        raise InputError(f"{spoken(folder)}: is the confirmation of {folder.parent.name}, not a search. {fix}")


def stored_settings(folder: Path) -> Settings:
    """The settings a sweep was started with, from its sweep.yaml."""
    path = folder / "sweep.yaml"
    if not path.is_file():
        raise InputError(f"{folder}: not a sweep of this program: it has no sweep.yaml")
    try:
        values = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise InputError(f"{path} is damaged ({str(error).splitlines()[0]}); a sweep cannot go on without it") from None
    if not isinstance(values, dict):
        raise InputError(f"{path} is damaged (no settings in it); a sweep cannot go on without it")
    settings = _merged({}, _without_baseline(values), [], source=str(path))
    kept = folder / TRIAL
    return dataclasses.replace(settings, trial=str(kept)) if settings.trial and kept.is_file() else settings


def _without_baseline(values: dict[str, Any]) -> dict[str, Any]:
    """The settings of a sweep.yaml; one that knows no search.baseline was written when none was planned."""
    search = values.get("search")
    return {**values, "search": {"baseline": False, **search}} if isinstance(search, dict) else values


def refuse_changes(composed: Composed[Settings], stored: Settings, folder: Path) -> None:
    """A sweep that goes on keeps its settings: trials trained under others would not be comparable."""
    old, new = flatten(stored.as_dict()), flatten(composed.settings.as_dict())
    for key in given_leaves(composed, old | new):
        was, given = old.get(key), new.get(key)
        if was == given or _may_change(key) or (key == BASELINE and given is None):
            continue
        if key == BASELINE and given and composed.settings.extend:
            continue
        if key == NUM_SAMPLES:
            if composed.settings.extend:
                continue
            raise InputError(
                f"{key}={given}: resume= goes on with the {was} trials planned. To add trials to the finished sweep: "
                f"extend={spoken(folder)} {key}=…"
            )
        raise InputError(
            f"{key}={given}: sweep {folder.name} was started with {key}={was}, and a sweep that goes on keeps its "
            f"settings. Leave {key} out, or start a new sweep"
        )


def given_leaves(composed: Composed[Any], leaves: Iterable[str]) -> list[str]:
    """The single settings that the command line gives, by itself or through a group (model=, experiment=)."""
    given = ["experiment_name" if key == "experiment" else key for key in composed.given_keys]
    return [leaf for leaf in leaves if any(leaf == key or leaf.startswith(f"{key}.") for key in given)]


def _may_change(key: str) -> bool:
    return any(key == allowed or key.startswith(f"{allowed}.") for allowed in MAY_CHANGE_ON_RESUME)


def with_allowed(stored: Settings, composed: Composed[Any]) -> Settings:
    """The stored settings with what may change: where it runs, what is shown and kept."""
    new, values = flatten(composed.settings.as_dict()), stored.as_dict()
    changed = [key for key in given_leaves(composed, new) if _may_change(key)]
    merged = OmegaConf.create(values)
    for key in changed:
        OmegaConf.update(merged, key, new[key])
    plain = OmegaConf.to_container(merged)
    assert isinstance(plain, dict)
    return located(_merged({}, {**plain, "resume": "", "extend": ""}, [], source="the command line"))


def extended(settings: Settings, folder: Path, composed: Composed[Settings]) -> Settings:
    """The settings of a finished sweep with search.num_samples further trials; the baseline, asked for, is one of them.

    The baseline can be added to a fixed list, too; where no number of trials is given, it alone is added.
    """
    asked = composed.settings
    adds_baseline = bool(asked.search.baseline)
    if settings.listed and not adds_baseline:
        raise InputError(
            f"extend={asked.extend}: {folder.name} tried a fixed list of configurations, there is nothing further to "
            "propose. Repeat arms with seeds=3 in a new sweep"
        )
    sweep = Sweep(folder)
    if sweep.status != "finished":
        raise InputError(
            f"extend={asked.extend}: {folder.name} is {sweep.status}, and only a finished sweep can be extended. "
            f"First: python -m tune_app.run resume={spoken(folder)}"
        )
    further = asked.search.num_samples
    if adds_baseline and (settings.listed or NUM_SAMPLES not in composed.given_keys):
        refuse_second_baseline(sweep)
        further = 1
    search = dataclasses.replace(
        settings.search,
        num_samples=len(sweep.trials) + further,
        baseline=True if adds_baseline else settings.search.baseline,
    )
    return dataclasses.replace(settings, search=search)


def refuse_second_baseline(sweep: Sweep) -> None:
    """Raise InputError where there is nothing to add."""
    there = baseline_trials(sweep)
    if there:
        raise InputError(
            f"{BASELINE}=true: {sweep.name} has the untuned baseline already, {there[0].name}. Nothing is to be added"
        )


def refuse_other_data(prepared: Prepared, sweep: Path) -> None:
    """Trials on other volumes or another split would not be comparable with those of the sweep."""
    recorded = (read_manifest(sweep).get("data") or {}).get("fingerprint")
    if recorded and recorded != prepared.dataset.fingerprint:
        raise InputError(
            f"{sweep.name}: the data under {prepared.settings.data.root or 'the cache'} changed since the "
            "sweep began (volumes, split, or cache settings), so new trials would not be comparable. Start a new sweep"
        )


def require_wandb(project: str) -> None:
    """Raise InputError where Weights & Biases is asked for and not installed."""
    if project and importlib.util.find_spec("wandb") is None:
        raise InputError(
            f"wandb_project={project}: the package wandb is not installed. "
            "Install it with: pip install -e .[wandb], or leave wandb_project out"
        )


def finish(outcome: Outcome) -> int:
    """The leaderboard, where everything lies, and what to type next; or how to go on."""
    name = spoken(outcome.folder)
    if not outcome.complete:
        print(f"\ninterrupted; nothing recorded is lost. Go on with: python -m tune_app.run resume={name}")
        return INTERRUPTED
    sweep = Sweep(outcome.folder)
    print()
    print(summarise(SummarySettings(sweep=str(outcome.folder))))
    board = sweep.leaderboard()
    scored = bool(board["rank"].notna().any())
    print("\n" + best_line(sweep, board.iloc[0]["name"]) if scored else "")
    print(f"sweep folder   {outcome.folder}")
    print("next           " + "\n               ".join(next_steps(name, not stored_settings(outcome.folder).listed)))
    if not scored:
        print("error: no trial ended with a score; see the reasons above", file=sys.stderr)
        return 1
    return 0


def main() -> None:
    sys.exit(exit_code(_compose_and_run))


def _compose_and_run() -> int:
    composed = compose("run", Settings, sys.argv[1:])
    return run(composed) if composed else 0


if __name__ == "__main__":
    main()
