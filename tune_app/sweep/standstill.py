"""Ends a search that cannot go on: no node of Ray lives, its workers die before they start, or its head is gone.

One that waits for places on a cluster says so, and one ends whose folder a new node of the cluster does not see.

Left alone, Ray waits for ever for a node, and a minute after its head is gone it ends this process with a line of C++.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import ray
from ray.tune import Callback
from ray.tune.experiment import Trial

from cluster.ray_node import answers
from cluster.state import REFUSED, WAITING, told_by_slurm
from tune_app.errors import RunFailed
from tune_app.ray_adapters.remote import refuse_local_folder
from tune_app.results.folders import resume_command
from tune_app.settings.terminal import plain
from tune_app.sweep.notify import Notify
from tune_app.sweep.progress import Progress

LOOK_EVERY_S = 5.0
HEAD_GONE_S = 10.0
"""A head that nobody could reach for so long does not come back; Ray gives it 60 s, then ends this process."""
LONG_WAIT_S = 3600.0
"""Of which notify.command is told."""
REFUSED_S = 300.0
"""A refusal of Slurm's is told for so long: the autoscaler asks again meanwhile, and is refused again."""
LOG_LINES = 8
RAYS_OWN = ("/ray/dashboard/", "ray::Dashboard")
"""In the command line of Ray's own drivers, before and after they have named themselves."""
WORKER_DIED = "probably it crashed during start"
"""In what a raylet logs, after "[2026-01-31 23:59:59,", of a worker that ended before it was one; WorkerPool of Ray."""


class Standstill(Callback):
    """Tune callback: raises RunFailed where no trial has run for `patience_s` seconds and none can."""

    def __init__(self, folder: Path, patience_s: float) -> None:
        self._folder, self._patience_s = folder, patience_s
        self._ran = self._looked = time.time()

    def on_step_end(self, iteration: int, trials: list, **info: Any) -> None:
        now = time.time()
        if any(trial.status == Trial.RUNNING for trial in reversed(trials)):
            self._ran = now
        if now - self._ran < self._patience_s or now - self._looked < LOOK_EVERY_S:
            return
        self._looked = now
        if why := why_nothing_runs(self._ran):
            raise RunFailed(_gone(f"no trial has run for {now - self._ran:.0f} s: {why}", self._folder))


def why_nothing_runs(since: float) -> str:
    """Why no trial of the connected Ray can start; "" where one may, sooner or later. since: seconds since 1970."""
    if not any(node["Alive"] for node in ray.nodes()):
        return f"no node of Ray lives{_ended('raylet')}.{_end_of_log('raylet')}"
    deaths = [line for line in _log("raylet") if WORKER_DIED in line]
    if deaths and datetime.fromisoformat(deaths[-1][1:20]).timestamp() > since:
        return f"Ray's workers die before they start.{_end_of_log('raylet')}"
    return ""


class Shared(Callback):
    """Tune callback: raises InputError where a node has come that does not see the sweep's folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: set[str] = set()
        self._looked = 0.0

    def on_step_end(self, iteration: int, trials: list, **info: Any) -> None:
        if time.time() - self._looked < LOOK_EVERY_S:
            return
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        new = alive - self._seen
        self._looked, self._seen = time.time(), alive
        if new:
            refuse_local_folder(self._folder)


class Waiting(Callback):
    """Tune callback: where no trial runs, the progress says what they wait for. For a cluster that others may use."""

    def __init__(self, progress: Progress, cluster: Path | None = None) -> None:
        """cluster: the folder of one whose nodes Slurm gives."""
        self._progress, self._cluster = progress, cluster
        self._looked = time.time()

    def on_step_end(self, iteration: int, trials: list, **info: Any) -> None:
        if any(trial.status == Trial.RUNNING for trial in reversed(trials)):
            self._progress.waits, self._looked = "", time.time()
        elif time.time() - self._looked > LOOK_EVERY_S:
            waits = what_they_wait_for(trials)
            if waits and self._cluster and (held := what_slurm_says(self._cluster)):
                waits = f"{waits}; {held}"
            self._progress.waits, self._looked = waits, time.time()


class LongWait(Callback):
    """Tune callback: tells once that no trial has run for `patience_s` seconds, and again after one has run."""

    def __init__(self, notify: Notify, folder: Path, progress: Progress, patience_s: float = LONG_WAIT_S) -> None:
        self._notify, self._folder, self._progress, self._patience_s = notify, folder, progress, patience_s
        self._ran, self._told = time.time(), False

    def on_step_end(self, iteration: int, trials: list, **info: Any) -> None:
        if any(trial.status == Trial.RUNNING for trial in reversed(trials)):
            self._ran, self._told = time.time(), False
        elif not self._told and time.time() - self._ran >= self._patience_s:
            self._told = True
            minutes = (time.time() - self._ran) / 60
            self._notify.tell(
                self._folder, "waiting", self._progress.waits or f"no trial has run for {minutes:.0f} minutes"
            )


def what_they_wait_for(trials: list) -> str:
    """What a pending trial takes, what the connected Ray has free, and who else computes there; "" without one.

    What is taken where nobody else computes is held for these trials.
    """
    pending = (trial.placement_group_factory for trial in reversed(trials) if trial.status == Trial.PENDING)
    wanted = next(({**factory.required_resources} for factory in pending), {})
    total, free = ray.cluster_resources(), ray.available_resources()
    takes = [(name, amount) for name, amount in wanted.items() if amount]
    if not takes:
        return ""
    mine = ray.get_runtime_context().get_job_id()
    jobs = [job for job in ray._private.state.state.job_table() if not job["IsDead"] and job["JobID"] != mine]
    others = [_words(job["Entrypoint"]) for job in jobs if not any(name in job["Entrypoint"] for name in RAYS_OWN)]
    taken = any(free.get(name, 0) < amount for name, amount in takes)
    if taken and not others and all(total.get(name, 0) >= amount for name, amount in takes):
        return "the trials have their places, and their processes start"
    return (
        f"waits for {' and '.join(f'{amount:g} {name}' for name, amount in takes)}: "
        f"{' and '.join(f'{free.get(name, 0):g} of {total.get(name, 0):g} {name}' for name, _ in takes)} free, "
        f"{'beside ' + '; '.join(others) if others else 'and nothing else computes here: python -m cluster status'}"
    )


def what_slurm_says(cluster: Path) -> str:
    """Why Slurm gives a cluster no node at present, in its words and ours; "" where it says nothing."""
    held, refused = told_by_slurm(cluster, WAITING), told_by_slurm(cluster, REFUSED, REFUSED_S)
    return f"Slurm holds nodes back since {held}" if held else f"Slurm refused a node {refused}" if refused else ""


def _words(command: str) -> str:
    """What is run by the command line of a driver, in 60 characters, and not where."""
    words = plain(command).rpartition(" -m ")[2].split()
    return textwrap.shorten(" ".join(word for word in words if not word.startswith("cluster")), 60, placeholder=" …")


@contextlib.contextmanager
def head_watched(folder: Path, close: Callable[[str], None]) -> Iterator[None]:
    """Within it, this process ends with one sentence and exit code 1 where Ray's head is gone.

    The main thread may wait for an answer of the head inside of Ray, where no exception reaches it: so the process is
    ended as it would be by a kill. close: takes off the screen what is on it, and is given the reason in a line.
    """
    ended = threading.Event()
    address = ray.get_runtime_context().gcs_address

    def watch() -> None:
        answered = time.monotonic()
        while not ended.wait(1.0):
            if answers(address):
                answered = time.monotonic()
            elif time.monotonic() - answered > HEAD_GONE_S:
                why = _gone(
                    f"Ray's head at {address} is gone{_ended('gcs_server')}.{_end_of_log('gcs_server')}", folder
                )
                close(why.partition("\n")[0])
                print(f"error: {why}", file=sys.stderr, flush=True)
                os._exit(RunFailed.exit_code)

    thread = threading.Thread(target=watch, name="head_watched", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _gone(what: str, folder: Path) -> str:
    return f"{what}\nNothing recorded is lost. Resume with: {resume_command(folder)}"


def _ended(kind: str) -> str:
    """How a process of a Ray that we started ended; "" of any other."""
    with contextlib.suppress(AttributeError, KeyError, IndexError):  # an internal of Ray
        code = ray._private.worker._global_node.all_processes[kind][0].process.poll()
        by = f"by {signal.Signals(-code).name}" if code and code < 0 else f"with exit code {code}"
        return "" if code is None else f": {kind} was ended {by}"
    return ""


def _log(kind: str) -> list[str]:
    """What a process of Ray wrote to its error file on this machine; [] where that is another's."""
    with contextlib.suppress(AttributeError, OSError):  # an internal of Ray
        path = Path(ray._private.worker._global_node.get_logs_dir_path()) / f"{kind}.err"
        return [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
    return []


def _end_of_log(kind: str) -> str:
    """Its last lines, indented, each on a line of its own."""
    lines = _log(kind)[-LOG_LINES:]
    return "".join(f"\n  {line}" for line in [f"{kind}.err ends with:", *lines] if lines)
