"""manifest.json: where a result came from. Gathering never fails; what cannot be found out is null.

{"sweep": name, "created": iso, "status": "running"|"interrupted"|"finished", "family", "experiment", "seed",
 "metric", "mode", "at_least", "at_most", "validated", "classes", "space", "git", "packages",
 "data": {"name", "root", "fingerprint", "phantom"}, "hardware", "settings_hash", "class_counts": sentence,
 "notices": [sentence]}
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from importlib import metadata
from pathlib import Path
from types import NoneType
from typing import Any

import yaml

from trainables.files import write_text
from trainables.objective import Objective
from tune_app.errors import written

MANIFEST = "manifest.json"
STATUSES = ("running", "interrupted", "finished")
KINDS = {
    "sweep": str,
    "created": str,
    "status": str,
    "family": str,
    "experiment": str,
    "seed": int,
    "metric": str,
    "mode": str,
    "at_least": dict,
    "at_most": dict,
    "validated": bool,
    "classes": list,
    "space": dict,
    "baseline": {"preset": str, "signature": str},
    "git": (dict, NoneType),
    "packages": dict,
    "data": {"name": str, "root": str, "fingerprint": str, "phantom": bool},
    "hardware": dict,
    "settings_hash": str,
    "class_counts": str,
    "notices": list,
    "sha256": dict,
    "confirmation": (dict, NoneType),
}
"""Of the values in a manifest, those of an export included; see `of_kind`."""
PACKAGES = (
    "tune-app",
    "torch",
    "triton",
    "ray",
    "optuna",
    "hydra-core",
    "numpy",
    "pandas",
    "zarr",
    "safetensors",
    "tensorboardX",
    "monai",
)


def build_manifest(
    *,
    sweep: str,
    family: str,
    seed: int,
    objective: Objective,
    classes: Sequence[str],
    data: Mapping[str, Any],
    fingerprint: str = "",
    experiment: str = "",
    space: Mapping[str, Any] | None = None,
    baseline: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
    phantom: bool | None = None,
    notices: Sequence[str] = (),
    class_counts: str = "",
) -> dict[str, Any]:
    """The manifest of a sweep that starts now.

    data: the data section of the settings (name, root). fingerprint: PackedDataset.fingerprint. settings: the resolved
    settings, of which the hash is kept, so that a resume with other settings is noticed.
    phantom: whether the volumes were generated; None goes by the name. notices: said wherever the scores are.
    class_counts: what the counts behind derived weights are of. baseline: {"preset", "signature"} of the untuned one.
    """
    name = str(data.get("name", ""))
    return {
        "sweep": sweep,
        "created": now(),
        "status": "running",
        "family": family,
        "experiment": experiment,
        "seed": seed,
        **asdict(objective),
        "validated": data.get("train_on") != "all",
        "classes": list(classes),
        "space": dict(space or {}),
        "baseline": dict(baseline or {}),
        "git": git_revision(),
        "packages": package_versions(),
        "data": {
            "name": name,
            "root": str(data.get("root", "")),
            "fingerprint": fingerprint,
            "phantom": name == "phantom" if phantom is None else phantom,
        },
        "hardware": hardware(),
        "settings_hash": settings_hash(settings or {}),
        "class_counts": class_counts,
        "notices": list(notices),
    }


def write_manifest(folder: str | Path, manifest: Mapping[str, Any]) -> Path:
    """Write manifest.json atomically; InputError where the folder cannot be written."""
    path = Path(folder) / MANIFEST
    with written(str(path.parent), "Choose another folder, for example results_dir=$HOME/results."):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(manifest, indent=2, default=str) + "\n")
    return path


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The manifest of a folder, without values of a wrong kind; {} where it is missing or cut short."""
    return read_known(Path(folder) / MANIFEST, KINDS)[0]


def read_known(path: Path, kinds: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """(what a JSON or a .yaml file says, as `of_kind` leaves it; whether that is all, and the file is there and whole).

    A missing or damaged file says {}.
    """
    with suppress(OSError, ValueError, RecursionError, yaml.YAMLError):
        text = path.read_text(encoding="utf-8")
        found = yaml.safe_load(text) if path.suffix == ".yaml" else json.loads(text)
        known = of_kind(found, kinds)
        return known, known == found
    return {}, False


def of_kind(values: Any, kinds: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a mapping whose values are of the kind that is wanted; {} of anything else.

    What people edit by hand may hold anything: what is left out counts as unknown. kinds: by key, a type, several, or,
    of a mapping, its own kinds; a key that is not named may have any value.
    """
    kept: dict[str, Any] = {}
    for key, value in values.items() if isinstance(values, dict) else ():
        kind = kinds.get(key, object)
        if isinstance(kind, Mapping):
            if isinstance(value, dict):
                kept[key] = of_kind(value, kind)
        elif isinstance(value, kind):
            kept[key] = value
    return kept


def set_status(folder: str | Path, status: str) -> None:
    """Record how the driver stands: running at its start (also on resume), interrupted or finished at its end.

    A folder that says running while nobody holds its lock is a crashed sweep.
    """
    assert status in STATUSES, status
    write_manifest(folder, {**read_manifest(folder), "status": status})


def now() -> str:
    """The local time with its offset, ISO 8601, in microseconds: two sweeps of one second keep their order."""
    return datetime.now().astimezone().isoformat()


def settings_hash(settings: Mapping[str, Any]) -> str:
    """sha256 of the settings as sorted JSON, 16 hex digits."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:16]


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def package_versions() -> dict[str, str | None]:
    """The installed version of Python and of each package that a result may depend on; None where it is absent."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        versions[name] = None
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def git_revision() -> dict[str, Any] | None:
    """Commit and dirtiness of the checkout this package runs from; None for an installed copy or without git.

    The file must be tracked: a virtual environment inside somebody's own repository is not our checkout.
    """
    source = Path(__file__).resolve()
    if _output("git", "-C", str(source.parent), "ls-files", "--error-unmatch", source.name) is None:
        return None
    commit = _output("git", "-C", str(source.parent), "rev-parse", "HEAD")
    changes = _output("git", "-C", str(source.parent), "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": bool(changes)} if commit else None


def hardware() -> dict[str, Any]:
    """Host, processor and GPUs. nvidia-smi is asked, not torch: CUDA in the driver would occupy GPU memory."""
    query = ("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
    return {
        "host": platform.node(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpus": _attempt(lambda: len(os.sched_getaffinity(0))) or os.cpu_count(),
        "memory_gib": _attempt(lambda: round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)),
        "gpus": (_output(*query) or "").splitlines(),
        "python": sys.executable,
    }


def _attempt(probe: Callable[[], Any]) -> Any:
    with suppress(Exception):
        return probe()
    return None


def _output(*command: str) -> str | None:
    """What a command prints, None where it is missing, fails or takes more than five seconds."""
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
        return done.stdout.strip()
    return None
