"""The folders of sweeps: where one is found, what to type for it, and what marks it."""

from __future__ import annotations

import fcntl
import re
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from tune_app.errors import InputError
from tune_app.manifest import MANIFEST, read_manifest
from tune_app.study_reader import JOURNAL
from tune_app.user_settings import user_setting

LOCK = "sweep.lock"
ARMS, CONFIRMATIONS = "arms.json", "confirmation"
"""The arms of a confirmation, and its folder in the sweep's; further ones are confirmation_2, … See
`tune_app.confirming`."""
START_ONE = "python -m tune_app.run family=seesaw"


def find_sweep(sweep: str | Path, results_dir: str | Path = "results", *, key: str = "sweep") -> Path:
    """The folder of a sweep given as a path, as a name under `results_dir`, or as `latest`. key: what was typed."""
    found = sweep_folders(results_dir)
    if str(sweep) == "latest":
        if found:
            return found[0].resolve()
        raise InputError(f"{key}=latest: there is no sweep in {results_dir} yet. Start one: {START_ONE}")
    for folder in (Path(sweep).expanduser(), Path(results_dir) / sweep):
        if is_sweep(folder):
            return folder.resolve()
    missing = "holds no sweep" if Path(sweep).exists() else "does not exist"
    names = ", ".join(folder.name for folder in found)
    choices = f"Sweeps in {results_dir}, newest first: {names}" if names else f"None in {results_dir} yet: {START_ONE}"
    raise InputError(f"{key}={sweep}: {missing} (a sweep folder has {MANIFEST}, {JOURNAL} and trials/). {choices}")


def sweep_folders(results_dir: str | Path = "results") -> list[Path]:
    """The sweeps in a results folder, newest first by the `created` of their manifests."""
    with suppress(OSError):
        return sorted(filter(is_sweep, Path(results_dir).iterdir()), key=_created, reverse=True)
    return []


def _created(folder: Path) -> float:
    """Seconds since 1970; that of the folder where the manifest does not say."""
    with suppress(ValueError, TypeError):
        return datetime.fromisoformat(read_manifest(folder)["created"]).timestamp()
    return folder.stat().st_mtime


def is_sweep(folder: Path) -> bool:
    files = (JOURNAL, "sweep.yaml", LOCK, ARMS)
    return (folder / "trials").is_dir() or any((folder / name).is_file() for name in files)


def is_confirmation(folder: Path) -> bool:
    """Whether a folder is that of a confirmation, also where its list of arms is lost."""
    named = re.fullmatch(rf"{CONFIRMATIONS}(_\d+)?", folder.name) is not None
    return (folder / ARMS).is_file() or (named and is_sweep(folder.parent))


def lock_is_held(path: Path) -> bool:
    """Whether a process holds the file lock, asked with a shared lock that lasts a moment and changes nothing."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def spoken(folder: Path) -> str:
    """What to type as sweep=, resume= or extend=: the name where it is found by that, else the whole path."""
    default = Path(user_setting("results_dir", "results")).expanduser().resolve()
    return folder.name if folder.resolve().parent == default else str(folder)


def resume_command(folder: Path) -> str:
    """What to type to go on with an unfinished sweep."""
    if is_confirmation(folder):
        return f"python -m tune_app.confirm resume={spoken(folder.parent)}"
    return f"python -m tune_app.run resume={spoken(folder)}"
