"""python -m tune_app.sweeps: what lies on disk, how large, in which state; deletes sweeps and cleans caches.

Nothing is removed without force=true: until then `action=delete` and `action=clean` say what would go. A sweep that
runs and a packed cache that somebody has open are never removed. Splits in the cache folder always stay: they say which
crops a sweep was validated on.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from stat import S_ISREG
from typing import Any

import pandas as pd

from trainables.data.cache import cache_folder
from trainables.data.packed import is_open, remove_packed
from trainables.settings import PATH, DataSettings, require, require_choice, require_in
from tune_app.errors import InputError
from tune_app.planning.forecast import size
from tune_app.results.folders import (
    CONFIRMATIONS,
    LOCK,
    START_ONE,
    find_sweep,
    half_made_folders,
    is_half_made,
    lock_is_held,
    recorded_status,
    results_folder,
    spoken,
    sweep_folders,
)
from tune_app.results.manifest import MANIFEST, read_manifest
from tune_app.results.tables import counted, text_pages
from tune_app.settings.document import FORMATS, Ended
from tune_app.settings.terminal import drawing, screen
from tune_app.settings.user import user_setting
from tune_app.sweep.folder import in_use, locked

ACTIONS = ("list", "delete", "clean")
CLEANED_BY = ("unused_days", "keep_gb")
DAY_S = 86_400.0
VERB = "python -m tune_app.sweeps"


@dataclass(kw_only=True)
class SweepsSettings:
    """What `python -m tune_app.sweeps` takes."""

    action: str = "list"
    """list: sweeps and caches. delete: remove the sweep that sweep= names. clean: remove caches, least recently used
    first."""
    sweep: str = field(default="", metadata=PATH)
    """For delete: the name of a sweep in results_dir, or its folder."""
    results_dir: str = field(default="", metadata=PATH)
    """Folder of the sweeps; empty: $TUNE_APP_RESULTS, the user's setting, or results."""
    cache_dir: str = field(default="", metadata=PATH)
    """Folder of the caches; empty: $TUNE_APP_CACHE, the user's setting, or ~/.cache/tune_app."""
    unused_days: float | None = None
    """For clean: remove what was not used for so many days."""
    keep_gb: float | None = None
    """For clean: remove what was used longest ago until the rest takes at most so many GB; 0 removes all."""
    force: bool = False
    """Remove; without it, delete and clean only say what would go."""
    format: str = "table"
    """table or json (docs/json.md)."""

    def __post_init__(self) -> None:
        require_choice("action", self.action, ACTIONS)
        require_choice("format", self.format, FORMATS)
        require(
            self.action != "delete" or self.sweep not in ("", "latest"),
            "sweep",
            self.sweep,
            "action=delete needs the name of one sweep or its folder (latest may be another one by now)",
            "python -m tune_app.sweeps lists them",
        )
        require_in(self, "", unused_days="[0, inf]", keep_gb="[0, inf]")
        if self.action == "clean" and self.unused_days is None and self.keep_gb is None:
            raise InputError("action=clean: say what may go. Use unused_days=30, keep_gb=20, or both.")


@dataclass(frozen=True)
class Cache:
    """One thing in the cache folder, all of which can be made again. used: Unix seconds of its last use."""

    folder: Path
    what: str
    size_gb: float
    used: float
    in_use: bool


def act(settings: SweepsSettings) -> Ended:
    """List, delete or clean, and say what was done."""
    results = results_folder(settings.results_dir)
    place = cache_folder(DataSettings(cache_dir=settings.cache_dir or user_setting("cache_dir")))
    if settings.action == "delete":
        places = (Path(settings.sweep).expanduser(), results / settings.sweep)
        half_made = next(filter(is_half_made, places), None)
        return delete(half_made or find_sweep(settings.sweep, results), force=settings.force)
    if settings.action == "clean":
        return clean(place, settings)

    rows = [sweep_row(folder) for folder in (*sweep_folders(results), *half_made_folders(results))]
    print_table(f"sweeps in {results}", rows, f"none yet; start one: {START_ONE}")
    print()
    cached = caches(place)
    print_table(f"caches in {place}", [cache_row(place, cache) for cache in cached], "none yet")
    listed = [{**row, "folder": results / row["name"]} for row in rows]
    content = {"results_dir": results, "cache_dir": place, "sweeps": listed, "caches": list(map(asdict, cached))}
    return Ended(lambda: {"action": "list", **content})


def print_table(title: str, rows: Sequence[dict[str, Any]], nothing: str) -> None:
    """A heading with number and size, and the rows; as wide as the terminal, otherwise plain."""
    if not rows:
        print(f"{title}: {nothing}")
        return
    print(f"{title}: {len(rows)}, {size(sum(row['size_gb'] for row in rows))}")
    told = [{HEADERS.get(name, name): SHOWN.get(name, str)(value) for name, value in row.items()} for row in rows]
    frame = pd.DataFrame(told)
    width, color = screen()
    table = text_pages(frame, width, ("started", "trials", "holds"), ("name",), color=color)
    print(table, file=drawing(sys.stdout))


def sweep_row(folder: Path) -> dict[str, Any]:
    """name, status, trials, size (GB), when it was started and last changed (Unix seconds, NaN where not known)."""
    size_gb, changed = disk(folder)
    started = math.nan
    with suppress(KeyError, ValueError, TypeError):
        started = datetime.fromisoformat(read_manifest(folder)["created"]).timestamp()
    return {
        "name": folder.name,
        "status": status(folder),
        "trials": num_trials(folder),
        "size_gb": size_gb,
        "started": started,
        "changed": changed,
    }


def status(folder: Path) -> str:
    """running (also where a confirmation of it runs), finished, interrupted, crashed; damaged where the manifest is
    lost, half-made where the driver was killed before it had written one."""
    if any(map(lock_is_held, locks(folder))):
        return "running"
    return recorded_status(folder) or ("damaged" if num_trials(folder) else "half-made")


def locks(folder: Path) -> list[Path]:
    """The locks of a sweep and of its confirmations."""
    return [folder / LOCK, *sorted(folder.glob(f"{CONFIRMATIONS}*/{LOCK}"))]


def num_trials(folder: Path) -> int:
    return sum(path.is_dir() for path in folder.glob("trials/*"))


def delete(folder: Path, *, force: bool) -> Ended:
    """Remove a sweep's folder, or say what would go. Raises InputError while the sweep or a confirmation runs."""
    found = status(folder)
    if found == "running":
        raise in_use(folder)
    size_gb, _ = disk(folder)
    about = {"folder": folder, "status": found, "trials": num_trials(folder), "size_gb": size_gb, "removed": force}
    print(f"{folder}: {found}, {counted(num_trials(folder), 'trial')}, {size(size_gb)}")
    for path in sorted(folder.iterdir()):
        print(f"  {size(disk(path)[0]):>8}  {path.name}{'/' * path.is_dir()}")
    if not force:
        print(f"Nothing was removed. This removes it: {VERB} action=delete sweep={spoken(folder)} force=true")
        return Ended(lambda: {"action": "delete", **about})
    with ExitStack() as held:
        for lock in locks(folder):
            held.enter_context(locked(lock.parent))
        try:
            (folder / MANIFEST).unlink(missing_ok=True)  # first: what is left by an interruption looks half-made
            shutil.rmtree(folder)
        except OSError as error:
            raise cannot_remove(folder, error) from None
    print("removed")
    return Ended(lambda: {"action": "delete", **about})


def caches(place: Path) -> list[Cache]:
    """What lies in the cache folder, least recently used first."""
    packed = [packed_entry(folder) for folder in place.glob("packed/*") if folder.is_dir()]
    busy = any(cache.in_use for cache in packed) or any(map(lock_is_held, place.glob("*phantom-v*.lock")))
    others = {"generated data": place.glob("*phantom-v*"), "compiled graphs": place.glob("inductor")}
    found = [
        Cache(folder, what, *disk(folder), in_use=busy)
        for what, folders in others.items()
        for folder in folders
        if folder.is_dir()
    ]
    return sorted([*packed, *found], key=lambda cache: cache.used)


def packed_entry(folder: Path) -> Cache:
    """A packed cache, or what a build that did not end has left."""
    what, in_use = "left by a build", lock_is_held(folder.with_name(f"{folder.name.partition('.')[0]}.lock"))
    with suppress(OSError, ValueError, KeyError, TypeError):
        index = json.loads((folder / "index.json").read_text())
        what = f"{counted(len(index['crops']), 'crop')}, {', '.join(index['classes'])}"
    return Cache(folder, what, disk(folder)[0], folder.stat().st_mtime, in_use or is_open(folder))


def cache_row(place: Path, cache: Cache) -> dict[str, Any]:
    """name, size (GB), last use (Unix seconds, infinite while it is in use), holds."""
    used = math.inf if cache.in_use else cache.used
    return {"name": str(cache.folder.relative_to(place)), "size_gb": cache.size_gb, "used": used, "holds": cache.what}


def clean(place: Path, settings: SweepsSettings) -> Ended:
    """Remove caches that were not used for long, then the least recently used until the rest is small enough."""
    found = caches(place)
    left = sum(cache.size_gb for cache in found)
    oldest = math.inf if settings.unused_days is None else settings.unused_days * DAY_S
    most = math.inf if settings.keep_gb is None else settings.keep_gb
    going = []
    for cache in found:
        if not cache.in_use and (time.time() - cache.used >= oldest or left > most):
            going.append(cache)
            left -= cache.size_gb

    print_table(f"to remove from {place}", [cache_row(place, cache) for cache in going], "nothing")
    content: dict[str, Any] = {"action": "clean", "cache_dir": place, "caches": list(map(asdict, going))}
    if not going:
        return Ended(lambda: content | {"removed": []})
    if not settings.force:
        words = [f"{name}={value:g}" for name in CLEANED_BY if (value := getattr(settings, name)) is not None]
        words += [f"cache_dir={settings.cache_dir}"] * bool(settings.cache_dir)
        print(f"Nothing was removed. This removes it: {VERB} action=clean {' '.join(words)} force=true")
        return Ended(lambda: content | {"removed": []})
    removed = []
    for cache in going:
        if remove(cache):
            removed.append(cache.folder)
        else:
            print(f"stays, it is in use now: {cache.folder}")
    print(f"{size(sum(cache.size_gb for cache in caches(place)))} left")
    return Ended(lambda: content | {"removed": removed})


def remove(cache: Cache) -> bool:
    """Whether it is gone; it stays where somebody has begun to use it. Raises InputError where it cannot be removed."""
    try:
        if cache.folder.parent.name == "packed":
            return remove_packed(cache.folder)
        shutil.rmtree(cache.folder)
    except OSError as error:
        raise cannot_remove(cache.folder, error) from None
    return True


def cannot_remove(folder: Path, error: OSError) -> InputError:
    return InputError(
        f"{folder}: cannot be removed ({error.filename or folder}: {error.strerror}). It may be another user's; give "
        f"yourself the right to write there (chmod -R u+w {folder}) and type the command again."
    )


def disk(path: Path) -> tuple[float, float]:
    """Size in GB of a file or of all in a folder, and when the newest of them was changed (Unix seconds)."""
    taken, changed = 0, 0.0
    for one in [path, *path.rglob("*")]:
        with suppress(OSError):  # of a running sweep, files come and go
            found = one.lstat()
            taken += found.st_size if S_ISREG(found.st_mode) else 0
            changed = max(changed, found.st_mtime)
    return taken / 1e9, changed


def when(seconds: float) -> str:
    """Local time; nothing where it is not known, and "now" of what is in use."""
    if not math.isfinite(seconds):
        return "now" if seconds > 0 else ""
    return f"{datetime.fromtimestamp(seconds):%Y-%m-%d %H:%M}"


SHOWN: dict[str, Callable[[Any], str]] = {"size_gb": size, "started": when, "changed": when, "used": when}
HEADERS = {"size_gb": "size", "changed": "last change", "used": "last used"}
"""How the columns of the tables are written, and headed."""
