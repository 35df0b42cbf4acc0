"""The folder that a prediction is written to: refused, begun beside its place or gone on with, put there at the end.

`.NAME.partial` beside `out` holds what is done so far and `unfinished.json`, the job that it belongs to. A run that was
stopped leaves it; the same command finds it and goes on.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from trainables.files import write_text
from tune_app.errors import InputError, written
from tune_app.results.trial import read_json

KIND = "tune_app predict"
JOB, RECORD, LOCK = "unfinished.json", "blocks.jsonl", "unfinished.lock"
UNNAMED = ("checkpoint",)
"""Of a job: where things lay, which does not tell one from another."""
FIRST_TOLD = ("model_sha256", "classes", "em", "crop", "voxel_nm", "overlap")


def refuse_to_replace(out: Path, *, overwrite: bool) -> None:
    """InputError where `out` exists and is not to be replaced, or is no prediction."""
    if not out.exists() and not out.is_symlink():
        return
    about = {} if out.is_symlink() else _about(out)
    if about.get("kind") != KIND:
        raise InputError(f"out={out}: exists and is no prediction, so it is not replaced. Choose another folder")
    if not overwrite:
        raise InputError(
            f"out={out}: exists, {_subject(about)}. Choose another folder, or overwrite=true to replace that prediction"
        )


def refuse_place(out: Path, em: Path) -> None:
    """InputError where `out` would change the EM or pass for ground truth."""
    for folder in out.parents:
        if folder == em or (folder / ".zarray").exists():
            raise InputError(f"out={out}: lies inside {folder}, which is never written to. Choose a folder beside it")
        if folder.name == "groundtruth" and folder.parent.name == "labels":
            raise InputError(
                f"out={out}: lies among the ground truth, and would be taken for a crop. "
                f"For example out={folder.with_name('inference') / out.name}"
            )


@contextlib.contextmanager
def unfinished(out: Path, job: Mapping[str, Any], *, overwrite: bool, say: Callable[[str], object]) -> Iterator[Path]:
    """The folder to write into, renamed to `out` at the end; left as it is where the body raises.

    job: plain data that tell one prediction from another; `em` is its volume. It holds what an earlier run of the same
    job left there. InputError where another process writes it, where it belongs to another job, or where `out` is a
    prediction of another volume; overwrite drops the work of another job, and never another volume's.
    """
    job = json.loads(json.dumps(job))
    if out.exists() and (about := _about(out)) and [about.get("em"), about.get("crop")] != [job["em"], job["crop"]]:
        raise InputError(
            f"out={out}: exists, {_subject(about)}, and this would be {_subject(job)}. "
            "Choose another folder, or remove it"
        )
    building = out.with_name(f".{out.name}.partial")
    with written(f"out={out}", "Choose another folder"):
        shutil.rmtree(_old(out), ignore_errors=True)  # of a run that was killed while it put its prediction in place
        building.mkdir(parents=True, exist_ok=True)
        with _locked(building, out):
            begun = read_json(building / JOB)
            if begun and (difference := _difference(begun, job)):
                if not overwrite:
                    raise InputError(
                        f"out={out}: {building.name} beside it holds another prediction, unfinished ({difference}). "
                        "Type its command again to finish that, choose another folder, or overwrite=true to drop it"
                    )
                say(f"dropping an unfinished prediction ({difference})")
                begun = {}
            if not begun:
                _clear(building)
                write_text(building / JOB, json.dumps(job, indent=1))
            yield building
            if out.exists():
                out.rename(_old(out))
            building.rename(out)
            shutil.rmtree(_old(out), ignore_errors=True)
            for name in (JOB, RECORD, LOCK):
                (out / name).unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(building: Path, out: Path) -> Iterator[None]:
    lock = FileLock(building / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise InputError(f"out={out}: another process is writing it. Wait for it, or choose another folder") from None
    with contextlib.closing(contextlib.ExitStack()) as stack:
        stack.callback(lock.release)
        yield


def _clear(building: Path) -> None:
    """Remove all but the lock."""
    for path in building.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()


def _old(out: Path) -> Path:
    return out.with_name(f".{out.name}.old")


def _about(out: Path) -> dict[str, Any]:
    return read_json(out / ".zattrs").get("tune_app") or {}


def _subject(about: Mapping[str, Any]) -> str:
    return f"the prediction of {about.get('crop') or about.get('em')} with checkpoint={about.get('checkpoint')}"


def _difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """The first things that two jobs differ in, each with both values; "" where they are one."""
    said = []
    keys = [*FIRST_TOLD, *sorted({*there, *here} - {*FIRST_TOLD, *UNNAMED})]
    for key in keys:
        first, second = there.get(key), here.get(key)
        if first == second:
            continue
        if key == "model_sha256":
            key, first, second = "checkpoint", there.get("checkpoint"), here.get("checkpoint")
            first, second = (
                f"{first}, model {there.get('model_sha256', '')[:8]}",
                f"{second}, {here['model_sha256'][:8]}",
            )
        said.append(f"{key}: {first} there, {second} here")
    return "; ".join(said[:3])
