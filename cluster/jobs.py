"""Sweeps as Ray jobs: submitted, listed, followed and stopped. The stock `ray job` client sees the same jobs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from cluster.connect import Connection
from cluster.errors import ClusterError, ClusterInputError

STOP_WAIT_S = 45
"""A stopped sweep may take so long to end in order; then Ray kills it."""
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
STOPPED_CODE = 130
DETACHED = "detached; the job goes on"


def client(connection: Connection) -> Any:
    """Ray's own job client, behind the token."""
    if not connection.dashboard:
        raise ClusterInputError(f"{connection.address}: this cluster has no dashboard, and jobs go through it")
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(connection.token)
    os.environ.pop("RAY_AUTH_TOKEN", None)
    from ray.job_submission import JobSubmissionClient

    logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)
    return JobSubmissionClient(connection.dashboard)


def submit(connection: Connection, module: str, words: Sequence[str]) -> str:
    """Submit `python -m MODULE WORDS`, to run on the head in this folder; the id of the job."""
    entrypoint = f"cd {shlex.quote(str(Path.cwd()))} && exec {shlex.join([sys.executable, '-m', module, *words])}"
    name = next(
        (word.partition("=")[2] for word in words if word.startswith(("name=", "family=", "preset="))),
        module.split(".")[-1],
    )
    id_ = f"{name}-{datetime.now():%m%d-%H%M%S}-{secrets.token_hex(2)}"
    environment = {
        name: value
        for name, value in os.environ.items()
        if (name.startswith("TUNE_APP_") and name != "TUNE_APP_NODE_CACHE") or name in ("PYTHONPATH", "OMP_NUM_THREADS")
    }
    graceful = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S), "PYTHONUNBUFFERED": "1"}
    return str(
        client(connection).submit_job(
            entrypoint=entrypoint,
            submission_id=id_,
            runtime_env={"env_vars": {**environment, **graceful}},
            metadata={"words": shlex.join(words)},
        )
    )


def follow(connection: Connection, id_: str) -> int:
    """Print the log of a job until it ends; its exit code. Ctrl-C only stops looking."""
    jobs = client(connection)
    try:
        asyncio.run(_print_log(jobs, id_))
        while (info := jobs.get_job_info(id_)).status not in ENDED:
            time.sleep(0.5)
    except (RuntimeError, OSError):  # what Ray's client raises where the head goes away
        raise ClusterError(
            f"the connection to the cluster was lost while job {id_} ran. python -m cluster status says whether the "
            "cluster still runs; after its end: python -m cluster up, and python -m tune_app.run resume=latest"
        ) from None
    except KeyboardInterrupt:
        print(
            f"\n{DETACHED}: python -m tune_app.submit logs id={id_} · python -m tune_app.submit stop id={id_}",
            file=sys.stderr,
        )
        return 0
    if info.status == "STOPPED":
        return STOPPED_CODE
    return int(info.driver_exit_code if info.driver_exit_code is not None else info.status != "SUCCEEDED")


async def _print_log(jobs: Any, id_: str) -> None:
    async for lines in jobs.tail_job_logs(id_):
        print(lines, end="", flush=True)


def submitted(connection: Connection) -> list[dict[str, Any]]:
    """The jobs, the latest first: id, status, started (Unix seconds), words."""
    found = sorted(client(connection).list_jobs(), key=lambda job: job.start_time or 0, reverse=True)
    return [
        {
            "id": job.submission_id,
            "status": job.status.value,
            "started": (job.start_time or 0) / 1000,
            "words": " ".join((job.metadata or {}).get("words", "").split()),
        }
        for job in found
        if job.submission_id
    ]


def listing(jobs: Sequence[Mapping[str, Any]], width: int | None = None) -> list[str]:
    """A table of `submitted` jobs; [] without any. width: characters a line may have, where there is a limit.

    The words of a job are cut to what is left of its line; an id that leaves nothing has a line of its own.
    """
    rows = [("JOB", "STATUS", "STARTED", "WORDS")]
    for job in jobs:
        start = datetime.fromtimestamp(job["started"])
        rows.append((job["id"], job["status"], f"{start:%Y-%m-%d %H:%M}", job["words"]))

    room = (width or 10_000) - 49  # status, date, the gaps, and 20 characters of the words
    longest = max(len(id_) for id_, *_ in rows if len(id_) <= room)
    lines = []
    for id_, status, began, words in rows:
        lines += [id_] if len(id_) > room else []
        line = f"{'' if len(id_) > room else id_:<{longest}} {status:<9} {began:<16} {words}"
        lines.append(line if width is None or len(line) <= width else f"{line[: width - 1]}…")
    return lines if len(rows) > 1 else []


def log_of(connection: Connection, id_: str) -> str:
    """What a job has printed so far."""
    jobs = client(connection)
    _require(jobs, id_)
    return str(jobs.get_job_logs(id_))


def stop(connection: Connection, id_: str) -> str:
    """Ask a job to end in order and wait until it has; its last status. A sweep stopped so can be resumed."""
    jobs = client(connection)
    info = _require(jobs, id_)
    if info.status in ENDED:
        raise ClusterInputError(f"id={id_}: this job has ended already ({info.status.value.lower()})")
    jobs.stop_job(id_)
    deadline = time.monotonic() + STOP_WAIT_S + 15
    while (info := jobs.get_job_info(id_)).status not in ENDED:
        if time.monotonic() > deadline:
            raise ClusterError(
                f"id={id_}: asked to stop, and still {info.status.value.lower()} after {STOP_WAIT_S + 15} s"
            )
        time.sleep(0.5)
    return str(info.status.value)


def _require(jobs: Any, id_: str) -> Any:
    """A job's details. Raises ClusterInputError listing those that exist."""
    with contextlib.suppress(RuntimeError):  # what Ray's client raises for a 404
        return jobs.get_job_info(id_)
    known = ", ".join(job.submission_id for job in jobs.list_jobs() if job.submission_id) or "none"
    raise ClusterInputError(f"id={id_}: there is no such job on this cluster. Jobs: {known}")
