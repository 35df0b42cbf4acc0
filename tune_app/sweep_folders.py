"""The folders of sweeps: where one is found or made, what to type for it, what marks it, and who holds it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout

from tune_app.config import Settings
from tune_app.errors import InputError, RunFailed
from tune_app.manifest import MANIFEST, read_manifest
from tune_app.study_reader import JOURNAL
from tune_app.user_settings import user_setting

LOCK = "sweep.lock"
CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO)
NAME_BYTES = 200
"""Of a sweep's name: a file system takes 255, and adds to it while a folder is written or deleted."""
ARMS, CONFIRMATIONS = "arms.json", "confirmation"
"""The arms of a confirmation, and its folder in the sweep's; further ones are confirmation_2, … See
`tune_app.confirming`."""
START_ONE = "python -m tune_app.run family=seesaw"
_KILLED = "its driver was killed before it wrote anything"


def find_sweep(sweep: str | Path, results_dir: str | Path = "results", *, key: str = "sweep") -> Path:
    """The folder of a sweep given as a path, as a name under `results_dir`, or as `latest`. key: what was typed."""
    found = sweep_folders(results_dir)
    if str(sweep) == "latest":
        _note_half_made(Path(results_dir), _created(found[0]) if found else 0.0)
        if found:
            return found[0].resolve()
        raise InputError(f"{key}=latest: there is no sweep in {results_dir} yet. Start one: {START_ONE}")
    for folder in (Path(sweep).expanduser(), Path(results_dir) / sweep):
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
    default = Path(user_setting("results_dir", "results")).expanduser().resolve()
    return shlex.quote(folder.name if folder.resolve().parent == default else str(folder))


def resume_command(folder: Path) -> str:
    """What to type to go on with an unfinished sweep."""
    if is_confirmation(folder):
        return f"python -m tune_app.confirm resume={spoken(folder.parent)}"
    return f"python -m tune_app.run resume={spoken(folder)}"


def new_folder(settings: Settings) -> Path:
    """The folder of a sweep that starts now, not made yet. Raises InputError where it exists or cannot be written."""
    label = settings.preset or (_of_trial(settings) if settings.trial else settings.family)
    name = settings.name or f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{label}"
    if not re.fullmatch(r"\w[\w.+-]*", name) or name == "latest" or len(name.encode()) > NAME_BYTES:
        raise InputError(
            f"name={name[:60]}{'…' if name[60:] else ''}: up to {NAME_BYTES} bytes of letters, digits and . _ + - are "
            "allowed in the name of a sweep, and not the word latest. Use results_dir= for where it goes"
        )
    folder = Path(settings.results_dir).expanduser().resolve() / name
    if folder.exists() and not is_half_made(folder):
        raise InputError(
            f"name={name}: {folder} exists already, and sweeps do not share a folder. Choose another name "
            f"or go on: python -m tune_app.run resume={spoken(folder)}"
        )
    require_writable(folder.parent)
    return folder


@contextlib.contextmanager
def space_in(folder: Path, go_on: str) -> Iterator[None]:
    """Within it, a folder that cannot be written any more ends the run with one sentence. go_on: what to type then."""
    try:
        yield
    except OSError as error:
        if error.errno not in CANNOT_WRITE:
            raise
        raise RunFailed(
            f"cannot write in {folder}: {error.strerror}. Free some space or mend it; nothing recorded is lost: {go_on}"
        ) from None


def _of_trial(settings: Settings) -> str:
    return "final" if settings.data.train_on == "all" else "trial"


def require_writable(folder: Path) -> None:
    """Raise InputError unless a file can be made in `folder`, or in what exists of it; nothing stays behind."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise InputError(
            f"results_dir={folder}: cannot write there ({existing}: {error.strerror}). Give a folder of your own: "
            "results_dir=PATH"
        ) from None


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a sweep. Raises InputError where another driver holds it, or its folder cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        lock.acquire(timeout=2)  # a reader's probe holds it for a moment
    except Timeout:
        raise in_use(folder) from None
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written ({error.strerror}), and a sweep runs in its folder. Make it writable, or "
            "copy it to a folder of your own; summary and export only read it"
        ) from None
    try:
        yield
    finally:
        lock.release()


def in_use(folder: Path) -> InputError:
    """The error for a sweep that another driver holds."""
    return InputError(
        f"{folder.name}: another process is running this sweep. Watch it with python -m tune_app.summary "
        f"sweep={spoken(folder)}, or end that process first"
    )
