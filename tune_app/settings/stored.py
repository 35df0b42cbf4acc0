"""Settings as files hold them: those of a sweep that exists, and sections that are laid over others."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from trainables.errors import SettingsError
from tune_app.errors import InputError
from tune_app.settings.schema import POPULATIONS, Settings

FREQUENCIES, TRIAL = "class_frequencies.json", "trial.yaml"
"""What a sweep was started with, kept in its folder: the class counts, and the configuration of trial=."""


def stored_settings(folder: Path) -> Settings:
    """The settings a sweep was started with, from its sweep.yaml."""
    path = folder / "sweep.yaml"
    if not path.is_file():
        raise InputError(f"{folder}: not a sweep of this program: it has no sweep.yaml")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({str(error).splitlines()[0]}); a sweep cannot go on without it") from None
    if not isinstance(values, dict):
        raise InputError(f"{path} is damaged (no settings in it); a sweep cannot go on without it")
    if isinstance(search := values.get("search"), dict):  # one without search.baseline is older: none was planned
        values["search"] = {"baseline": False, **search}
    if isinstance(scheduler := values.get("scheduler"), dict):  # an older one compared at epochs, whatever its models,
        values["scheduler"] = {"compare": "epochs", "early": False, **scheduler}  # and had no early rung
    settings = merged({}, values, {}, source=str(path))
    kept = folder / TRIAL
    return dataclasses.replace(settings, trial=str(kept)) if settings.trial and kept.is_file() else settings


def merged(base: dict[str, Any], sections: dict[str, Any], typed: Mapping[str, Any], source: str) -> Settings:
    """The settings `base` under `sections` under `typed` ({"data.root": value}), all of them from `source`."""
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Settings), base, sections)
        for key, value in typed.items():
            OmegaConf.update(merged, key, value)
        settings = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        cause = error.__cause__
        if isinstance(cause, SettingsError):
            raise cause from None
        raise InputError(f"{source}: {str(error).splitlines()[0]}") from None
    assert isinstance(settings, Settings)
    return settings


def located(settings: Settings) -> Settings:
    """The settings with absolute paths: trials run elsewhere, and a sweep may be resumed from elsewhere."""

    def absolute(path: str) -> str:
        return str(Path(path).expanduser().absolute()) if path else ""

    paths: Any = {name: absolute(getattr(settings.data, name)) for name in ("root", "split_file", "cache_dir")}
    data, counts = dataclasses.replace(settings.data, **paths), settings.frequencies
    if counts not in (*POPULATIONS, "published"):
        counts = absolute(counts)
    return dataclasses.replace(settings, data=data, trial=absolute(settings.trial), frequencies=counts)
