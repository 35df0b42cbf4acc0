"""The folder that a sweep writes: made, held against other drivers, and told of where it cannot be written."""

from __future__ import annotations

import contextlib
import errno
import re
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from tune_app.errors import InputError, RunFailed
from tune_app.results.folders import LOCK, is_half_made, spoken
from tune_app.settings.schema import Settings

CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO)
NAME_BYTES = 200
"""Of a sweep's name: a file system takes 255, and adds to it while a folder is written or deleted."""


def new_folder(settings: Settings) -> Path:
    """The folder of a sweep that starts now, not made yet. Raises InputError where it exists or cannot be written."""
    label = settings.preset or settings.family
    if settings.trial and not settings.preset:
        label = "final" if settings.data.train_on == "all" else "trial"
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
