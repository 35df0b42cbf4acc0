"""The folders of sweeps: where one is found, what to type for it, what marks it, and who holds it."""

from __future__ import annotations

import fcntl
import os
import re
import shlex
import sys
from contextlib import suppress
from datetime import datetime
from functools import cache
from pathlib import Path

from trainables.settings import require
from tune_app.errors import InputError
from tune_app.results.manifest import MANIFEST, read_manifest
from tune_app.settings.user import user_setting

JOURNAL, LOCK = "study.journal", "sweep.lock"
ARMS, CONFIRMATIONS = "arms.json", "confirmation"
"""The arms of a confirmation, and its folder in the sweep's; further ones are confirmation_2, … See
`tune_app.confirmation`."""
START_ONE = "python -m tune_app.run family=seesaw"
_KILLED = "its driver was killed before it wrote anything"


def results_folder(given: str | Path = "") -> Path:
    """The folder that holds the sweeps: as given, else $TUNE_APP_RESULTS, the user's setting, or results."""
    return Path(given or user_setting("results_dir", "results")).expanduser()


def find_sweep(sweep: str | Path, results_dir: str | Path = "", *, key: str = "sweep") -> Path:
    """The folder of a sweep given as a path, as a name under `results_dir`, or as `latest`. key: what was typed."""
    results_dir = results_folder(results_dir)
    require(bool(str(sweep)), key, "''", "a sweep is needed", f"Use {key}=latest")
    found = sweep_folders(results_dir)
    if str(sweep) == "latest":
        _note_half_made(results_dir, _created(found[0]) if found else 0.0)
        if found:
            return found[0].resolve()
        raise InputError(f"{key}=latest: there is no sweep in {results_dir} yet. Start one: {START_ONE}")
    for folder in (Path(sweep).expanduser(), results_dir / sweep):
        if is_sweep(folder):
            return folder.resolve()
        if is_half_made(folder):
            remove = f"python -m tune_app.sweeps action=delete sweep={spoken(folder)} force=true"
            raise InputError(f"{key}={sweep}: {_KILLED}. Start it again under this name, or remove it: {remove}")
    missing = "holds no sweep" if os.path.exists(sweep) else "does not exist"
    names = ", ".join(folder.name for folder in found)
    choices = f"Sweeps in {results_dir}, newest first: {names}" if names else f"None in {results_dir} yet: {START_ONE}"
    raise InputError(f"{key}={sweep}: {missing} (a sweep folder has {MANIFEST}, {JOURNAL} and trials/). {choices}")


def sweep_folders(results_dir: str | Path = "results") -> list[Path]:
    """The sweeps in a results folder, newest first by the `created` of their manifests."""
    return sorted(filter(is_sweep, _entries(Path(results_dir))), key=_created, reverse=True)


def half_made_folders(results_dir: str | Path = "results") -> list[Path]:
    """The folders in which a driver was killed before it wrote anything but its lock, newest first."""
    return sorted(filter(is_half_made, _entries(Path(results_dir))), key=_created, reverse=True)


def _entries(folder: Path) -> list[Path]:
    with suppress(OSError):
        return list(folder.iterdir())
    return []


def _created(folder: Path) -> float:
    """Seconds since 1970; that of the folder where the manifest does not say, 0 where it has just been deleted."""
    with suppress(KeyError, ValueError, TypeError):
        return datetime.fromisoformat(read_manifest(folder)["created"]).timestamp()
    with suppress(OSError):
        return folder.stat().st_mtime
    return 0.0


def is_sweep(folder: Path) -> bool:
    """Whether a folder holds a sweep, or a driver is just making one in it. One that cannot be read is none."""
    files = (JOURNAL, "sweep.yaml", ARMS)
    held = os.path.isdir(folder / "trials") or any(os.path.isfile(folder / name) for name in files)
    return held or lock_is_held(folder / LOCK)


def is_half_made(folder: Path) -> bool:
    """Whether a driver was killed before it wrote anything but its lock: there is nothing to read or to resume."""
    return os.path.isfile(folder / LOCK) and not is_sweep(folder)


@cache
def _note_half_made(results_dir: Path, since: float) -> None:
    """Say once which folders, newer than the sweep that is taken, hold only the lock of a killed driver."""
    for folder in half_made_folders(results_dir):
        if _created(folder) > since:
            print(f"note: {folder} is passed over: {_KILLED}", file=sys.stderr)


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


def recorded_status(folder: Path) -> str:
    """finished, interrupted or crashed, by the manifest of a sweep whose lock nobody holds; "" if it does not say."""
    recorded = read_manifest(folder).get("status")
    return str(recorded) if recorded in ("finished", "interrupted") else "crashed" if recorded else ""


def spoken(folder: Path) -> str:
    """What to type in a shell as sweep=, resume= or extend=: a name where it is found by that, else the whole path."""
    default = results_folder().resolve()
    return shlex.quote(folder.name if folder.resolve().parent == default else str(folder))


def resume_command(folder: Path) -> str:
    """What to type to resume an unfinished sweep."""
    if is_confirmation(folder):
        return f"python -m tune_app.confirm resume={spoken(folder.parent)}"
    return f"python -m tune_app.run resume={spoken(folder)}"
