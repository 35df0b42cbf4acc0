"""The settings of a sweep that begins: searched, of a preset, of an exported trial, or of a final training."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import statistics
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from omegaconf import OmegaConf

from search_spaces import ClassCounts, get_family, get_preset
from tune_app.errors import InputError
from tune_app.ray_adapters.remote import refuse_in_memory
from tune_app.ray_adapters.session import this_machine, trial_resources
from tune_app.results.manifest import read_manifest
from tune_app.search.arms import planned_arms, read_exported, searched_space, sizes
from tune_app.search.warm_start import warmed
from tune_app.settings.command_line import Composed
from tune_app.settings.fitting import device_gb, refuse_too_large
from tune_app.settings.schema import ClusterSettings, Settings
from tune_app.settings.stored import located, merged, stored_settings
from tune_app.sweep.folder import new_folder
from tune_app.sweep.resume import earlier_folder, going_on, with_allowed

EXPORTED_SECTIONS = ("data", "task", "model", "trainer", "hardware", "objective")


def refuse_elsewhere(composed: Composed[Settings]) -> None:
    """Raise, before a job is sent, what the job would be refused for: all that is known without data and cards."""
    if composed.settings.resume or composed.settings.extend:
        going_on(composed)
        return
    settings = planned(composed)
    planned_arms(settings, searched_space(settings))
    refuse_in_memory(new_folder(settings))


def refuse_on_this_machine(settings: Settings, gpus: int = -1) -> None:
    """Raise, before the data are packed, what Ray would be started for in vain: a trial that this machine cannot
    hold. gpus: see `this_machine`."""
    machine, space = [this_machine(settings, gpus)], searched_space(settings)
    trial_resources(settings, nodes=machine)  # first: for batch=auto the sizes of its trials take a minute to reckon
    counts = ClassCounts.made_up(settings.outputs)
    for own in [settings, *sizes(settings, planned_arms(settings, space), space, counts)]:
        trial_resources(own, nodes=machine)
        refuse_too_large(own)


def wanted_cluster(composed: Composed[Settings]) -> ClusterSettings:
    """Where the sweep is to run: as asked, and for one that goes on, else where it ran before."""
    asked = composed.settings
    if not (asked.resume or asked.extend):
        return asked.cluster
    return with_allowed(stored_settings(earlier_folder(asked)), composed).cluster


def planned(composed: Composed[Settings]) -> Settings:
    """The settings of a sweep that begins. Raises InputError."""
    if composed.settings.final:
        return settled(of_final(composed))
    if composed.settings.trial:
        return settled(with_exported(composed))
    return settled(warmed(with_choices(checked_preset(composed), composed)))


def settled(settings: Settings) -> Settings:
    """The settings, with the paths that are meant and, for batch=auto, the memory of the card it was chosen for: the
    sweep may go on elsewhere."""
    if settings.batch == "auto" and math.isfinite(memory := device_gb(settings)):
        settings = dataclasses.replace(
            settings, hardware=dataclasses.replace(settings.hardware, device_memory_gb=memory)
        )
    return located(settings)


def with_choices(settings: Settings, composed: Composed[Settings]) -> Settings:
    """The settings with the axes of the family that a choice on the command line means: model=unet_2d is that network
    where the family compares networks."""
    if settings.single_arms or settings.family == "all":
        return settings
    given = dict(word.lstrip("+").partition("=")[::2] for word in composed.overrides)
    meant = {axis: given[group] for axis, group in get_family(settings.family).choices.items() if group in given}
    return dataclasses.replace(settings, space=settings.space | meant) if meant else settings


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


def with_exported(composed: Composed[Settings], fixed: Mapping[str, Any] = MappingProxyType({})) -> Settings:
    """The settings of trial=: data, model, trainer, hardware and seed as exported, under what the command line gives,
    under what is `fixed` ({"data.train_on": "all"})."""
    exported = read_exported(Path(composed.settings.trial))
    wanted = [name for name in EXPORTED_SECTIONS if name in exported and name not in composed.given_keys]
    sections = {name: exported[name] for name in wanted}
    typed = OmegaConf.create(composed.settings.as_dict())
    keys = [key for key in composed.given_keys if "." in key and key.split(".")[0] in sections]
    family = str(exported.get("family") or exported["loss"]["name"])
    base = composed.settings.as_dict() | {"family": family}
    if "seed" not in composed.given_keys:
        base["seed"] = exported.get("seed") or 0
    over = {key: OmegaConf.select(typed, key) for key in keys} | dict(fixed)
    return merged(base, sections, over, source=composed.settings.trial)


def of_final(composed: Composed[Settings]) -> Settings:
    """The settings of final=: those of trial=, trained on the validation crops, too.

    Kept is the epoch that validation had chosen: the median over the runs of a confirmation, or that of the one run
    there was.
    """
    given = composed.settings.final
    folder = Path(given).expanduser()
    path = folder / "config.yaml" if folder.is_dir() else folder
    if not path.is_file():
        raise InputError(
            f"final={given}: is not the folder of an export. Make one: python -m tune_app.export sweep=latest top=1 "
            "out=best, and give final=best/1"
        )
    exported, manifest = read_exported(path), read_manifest(path.parent)
    if exported.get("validated") is False:
        raise InputError(f"final={given}: was itself trained on the validation crops. Give the export it was made from")
    epochs = (manifest.get("confirmation") or {}).get("best_epochs") or [
        manifest.get("best_epoch") or (exported.get("thresholds") or {}).get("epoch")
    ]
    if None in epochs:
        raise InputError(f"final={given}: does not say which epoch was the best. Export it again")
    kept = round(statistics.median(epochs))
    fixed = {"data.train_on": "all", "trainer.keep_epoch": kept, "trainer.patience": 0}
    settings = dataclasses.replace(composed.settings, trial=str(path), final="")
    return with_exported(dataclasses.replace(composed, settings=settings), fixed)


def require_wandb(project: str) -> None:
    """Raise InputError where Weights & Biases is asked for and not installed."""
    if project and importlib.util.find_spec("wandb") is None:
        raise InputError(
            f"wandb_project={project}: the package wandb is not installed. "
            "Install it with: pip install -e .[wandb], or leave wandb_project out"
        )
