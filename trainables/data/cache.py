"""The cache folder: what is made once per machine from the data, packed crops, generated data and embeddings."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from trainables.errors import DataError
from trainables.settings import DataSettings

CACHE_VARIABLE = "TUNE_APP_CACHE"


def cache_folder(settings: DataSettings) -> Path:
    """data.cache_dir, else $TUNE_APP_CACHE, else ~/.cache/tune_app; absolute."""
    chosen = settings.cache_dir or os.environ.get(CACHE_VARIABLE, "") or "~/.cache/tune_app"
    return Path(chosen).expanduser().absolute()


@contextmanager
def cache_written(folder: Path) -> Iterator[None]:
    """Within it, a folder in the cache that cannot be written, or is full, is a DataError."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"The cache folder {folder} cannot be written ({error.strerror or error}). Free space there, or give "
            "data.cache_dir=PATH on a local disk."
        ) from error


def mark_used(folder: Path) -> None:
    """Let the time of a folder in the cache say when it was last used; nothing where it cannot be written."""
    with suppress(OSError):
        os.utime(folder)
