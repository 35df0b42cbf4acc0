"""What a person's clusters are: one folder each on the shared file system, ~/.tune_app/clusters/NAME.

    state.json        where the head is, who started it, until when; written whole or not at all
    token             what Ray asks every client for; mode 0600
    autoscaling.yaml  the cluster YAML as this cluster uses it
    refused.json      when and why Slurm last refused a worker
    waiting.json      why it lets submitted ones wait
    usage/            one file per job: when it ran, on how many cards
    logs/             what the jobs print

$TUNE_APP_CLUSTERS is another place for the folder of all clusters.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import secrets
import tempfile
import time
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from cluster.errors import ClusterInputError

FOLDER_VARIABLE = "TUNE_APP_CLUSTERS"
TIMES = ("started", "ends")
REFUSED, WAITING = "refused.json", "waiting.json"


@dataclass(frozen=True, kw_only=True)
class State:
    """A cluster as its head describes it. Times are seconds since 1970; empty address: the head has not started yet."""

    name: str
    head_job: str
    python: str
    """Version of the Python that runs it, as 3.11.2."""
    ray: str
    started: float
    ends: float
    """When the head's allocation ends."""
    address: str = ""
    """host:port of Ray's GCS."""
    dashboard: str = ""
    """http://host:port of the dashboard and the jobs API."""
    client: str = ""
    """ray://host:port."""
    node: str = ""
    """Host name of the head."""
    temp_dir: str = ""
    """Ray's folder on the head's own disk; session_latest/metrics in it is for Prometheus and Grafana."""
    login_host: str = ""
    """Where a person enters by ssh."""


def clusters_folder() -> Path:
    """The folder of all clusters of this person."""
    given = os.environ.get(FOLDER_VARIABLE)
    return Path(given).expanduser().absolute() if given else Path.home() / ".tune_app" / "clusters"


def cluster_folder(name: str) -> Path:
    """The folder of one cluster. Raises ClusterInputError for an invalid name."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,39}", name):
        raise ClusterInputError(
            f"name={name}: letters, digits and . _ - are allowed in the name of a cluster, 40 at most"
        )
    return clusters_folder() / name


def job_names(name: str) -> tuple[str, str]:
    """The Slurm job names of a cluster's head and of its workers."""
    return f"tune_app-{name}-head", f"tune_app-{name}-worker"


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write whole or not at all, readable by its owner alone."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_whole(path, json.dumps(content, indent=1), mode=0o600)


def write_whole(path: Path, text: str, *, mode: int) -> None:
    """Write a file that is there in full or not at all, with the permissions `mode`."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    os.chmod(temporary, mode)
    os.replace(temporary, path)


def write_state(folder: Path, state: State) -> None:
    write_json(folder / "state.json", asdict(state))


def read_state(folder: Path) -> State | None:
    """The state of a cluster; None where there is none. Raises ClusterInputError for a damaged file."""
    path = folder / "state.json"
    try:
        content = json.loads(path.read_text())
        known = {field.name: content[field.name] for field in fields(State) if field.name in content}
        wrong = [name for name, value in known.items() if not isinstance(value, (int, float) if name in TIMES else str)]
        if wrong:
            raise ValueError(f"{wrong[0]}: {known[wrong[0]]!r}")
        return State(**known)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise ClusterInputError(
            f"{path} is damaged ({error}). python -m cluster down name={folder.name} ends what runs and removes it"
        ) from None


def make_token(folder: Path) -> Path:
    """A new token, mode 0600 from its first byte on; an older one is replaced."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / "token"
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))
    return path


def record_usage(folder: Path, job_id: str, gpus: float, *, began: float, kind: str) -> None:
    """Note that a job still runs: called when it starts, every minute, and at its end."""
    content = {"job": job_id, "kind": kind, "gpus": gpus, "began": began, "seen": time.time()}
    write_json(folder / "usage" / f"{job_id}.json", content)


def gpu_hours(folder: Path) -> float:
    """GPU-hours that the jobs of a cluster have held so far, to the last minute seen."""
    total = 0.0
    for path in sorted((folder / "usage").glob("*.json")):
        with contextlib.suppress(ValueError, TypeError, KeyError, OSError):  # damaged: its hours are not known
            use = json.loads(path.read_text())
            total += use["gpus"] * max(0.0, use["seen"] - use["began"]) / 3600
    return total


def told_by_slurm(folder: Path, name: str, within_s: float = math.inf) -> str:
    """What one of the files REFUSED and WAITING tells, with its time; "" for nothing, or nothing within `within_s`."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):  # none, or damaged
        told = json.loads((folder / name).read_text())
        if told["message"] and time.time() - told["time"] < within_s:
            return f"{when(told['time'])}: {told['message']}"
    return ""


def running_state(name: str) -> State:
    """The state of a cluster that runs and has said where. Raises ClusterInputError saying how to start one."""
    state = read_state(cluster_folder(name))
    begin = "python -m cluster up nodes=0..2 hours=24" + ("" if name == "longleaf" else f" name={name}")
    if state is None:
        others = sorted(path.parent.name for path in clusters_folder().glob("*/state.json"))
        there = f" Running or recent: {', '.join(others)}." if others else ""
        raise ClusterInputError(f"cluster={name}: no such cluster of yours runs.{there} Start one: {begin}")
    if time.time() > state.ends:
        raise ClusterInputError(
            f"cluster={name}: its allocation (Slurm job {state.head_job}) ended {when(state.ends)}. "
            f"Start a new one: {begin}"
        )
    if not state.address:
        raise ClusterInputError(
            f"cluster={name}: its head (Slurm job {state.head_job}) has not started yet. "
            "python -m cluster status says why"
        )
    return state


def when(time_s: float) -> str:
    """A time, local and to the minute."""
    return datetime.fromtimestamp(time_s).strftime("%Y-%m-%d %H:%M")
