"""A cluster's life: up, status, down, dashboard."""

from __future__ import annotations

import contextlib
import getpass
import math
import re
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import yaml
from filelock import FileLock, Timeout

from cluster import ray_yaml, slurm_client
from cluster.connect import ask, readable_token
from cluster.errors import ClusterError, ClusterInputError
from cluster.job_scripts import head_options, script, worker_options
from cluster.ray_node import versions
from cluster.state import (
    REFUSED,
    WAITING,
    State,
    cluster_folder,
    gpu_hours,
    job_names,
    make_token,
    read_state,
    running_state,
    told_by_slurm,
    when,
    write_state,
)
from cluster.words import node_range

UNLIMITED = 1000
"""Characters per line where the output is no terminal."""

GONE_S = 90.0
"""How long jobs may take to end after they were cancelled: Slurm's KillWait and the epilogue of the site."""

NEVER = re.compile(r"Partition(TimeLimit|NodeLimit|Config)|AssocMax\w+PerJob|QOSMax\w+Per(Job|Node)")
"""Reasons of Slurm's for which a job waits until somebody changes it."""

ASK_EVERY_S = 2.0
"""Between two questions to Slurm's controller, which all users share."""


@dataclass(kw_only=True)
class UpSettings:
    """What `python -m cluster up` takes."""

    nodes: str = "0..2"
    """Workers: MIN..MAX. The autoscaler submits a Slurm job for each when trials wait, and cancels idle ones."""
    hours: float | None = None
    """Wall limit of the head; no worker outlives it. Empty: as in the cluster YAML."""
    name: str = "longleaf"
    """Name of the cluster, for several at once."""
    gpus_per_node: int = 2
    """Which node type: 2 or 4 cards."""
    config: str = ""
    """Another cluster YAML."""
    partition: str = ""
    account: str = ""
    qos: str = ""
    head_partition: str = ""
    idle_minutes: float | None = None
    """A worker without trials is cancelled after so long."""
    wait_s: float = 300.0
    """How long to wait for the head before returning; Slurm goes on."""


@dataclass(kw_only=True)
class NameSettings:
    """Which cluster."""

    name: str = "longleaf"


@dataclass(kw_only=True)
class DownSettings(NameSettings):
    """What `python -m cluster down` takes."""

    force: bool = False
    """End what runs on it, too."""


def _refuse_times(settings: UpSettings) -> None:
    """Raise ClusterInputError for an invalid time."""
    for key, least, use in (("hours", 1 / 60, "24"), ("idle_minutes", 0.0, "5"), ("wait_s", 0.0, "300")):
        value = getattr(settings, key)
        if value is not None and not (math.isfinite(value) and value >= least):
            raise ClusterInputError(f"{key}={value:g}: a number of at least {least:.2g} is needed. Use {key}={use}")


def up(settings: UpSettings) -> int:
    """Submit the head and wait until it answers. Raises ClusterInputError for what Slurm or Ray would refuse later."""
    folder = cluster_folder(settings.name)
    nodes = node_range(settings.nodes)
    given = {key: getattr(settings, key) for key in ("partition", "account", "qos", "hours") if getattr(settings, key)}
    _refuse_times(settings)
    path = Path(settings.config).expanduser() if settings.config else ray_yaml.DEFAULT
    config = ray_yaml.filled_in(
        ray_yaml.read(path),
        name=settings.name,
        nodes=nodes,
        gpus_per_node=settings.gpus_per_node,
        idle_minutes=settings.idle_minutes,
        provider=given,
        head_partition=settings.head_partition,
    )
    config["provider"] |= {"folder": str(folder), "max_workers": nodes[1]}
    with _alone(folder):
        _refuse_second(settings.name)
        _refuse_what_slurm_refuses(settings.name, folder, config)
        job = _submit_head(settings.name, folder, config)
    print(f"head       Slurm job {job}, up to {config['provider']['hours']:g} h; logs in {folder / 'logs'}", flush=True)
    return _await_head(settings, folder, job)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Two `up` of one name must not both find nothing."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = FileLock(folder / "up.lock")
    try:
        lock.acquire(timeout=2)
    except Timeout:
        raise ClusterInputError(f"name={folder.name}: another process is starting this cluster just now") from None
    try:
        yield
    finally:
        lock.release()


def _live(names: tuple[str, ...]) -> list[slurm_client.Job]:
    return [job for job in slurm_client.jobs(names) if not job.gone]


def _refuse_second(name: str) -> None:
    heads = _live(job_names(name)[:1])
    if heads:
        raise ClusterInputError(
            f"name={name}: this cluster has a head already (Slurm job {heads[0].id}, {heads[0].state.lower()}). "
            f"python -m cluster status shows it, python -m cluster down name={name} ends it, name=OTHER starts a second"
        )


def _refuse_what_slurm_refuses(name: str, folder: Path, config: dict) -> None:
    """Ask Slurm about one worker before the head starts: its refusal would otherwise come when trials wait already."""
    for kind, node in config["available_node_types"].items():
        if node.get("max_workers"):
            options = worker_options(
                name,
                folder,
                config["provider"],
                node["node_config"],
                node["resources"],
                time_s=float(config["provider"]["hours"]) * 3600,
                tags={"type": kind},
            )
            slurm_client.test_only(script(folder, "worker"), options)
    slurm_client.test_only(script(folder, "head"), head_options(name, folder, config["provider"]))


def _submit_head(name: str, folder: Path, config: dict) -> str:
    """Submit the head's job, held until its state file is written; the job id."""
    provider = config["provider"]
    (folder / "logs").mkdir(exist_ok=True, mode=0o700)
    shutil.rmtree(folder / "usage", ignore_errors=True)
    for old in (REFUSED, WAITING):
        (folder / old).unlink(missing_ok=True)
    make_token(folder)
    (folder / "autoscaling.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    text = script(folder, "head", provider.get("setup") or ())
    job = slurm_client.submit(text, ["--hold", *head_options(name, folder, provider)])
    python, ray = versions()
    now = time.time()
    state = State(
        name=name,
        head_job=job,
        python=python,
        ray=ray,
        started=now,
        ends=now + float(provider["hours"]) * 3600,
        login_host=provider.get("login_host") or "",
    )
    write_state(folder, state)
    slurm_client.release(job)
    return job


def _await_head(settings: UpSettings, folder: Path, job: str) -> int:
    """Until the head answers, or wait_s has passed. Raises ClusterError where it ended."""
    deadline, asked = time.monotonic() + settings.wait_s, time.monotonic()
    while time.monotonic() < deadline:
        time.sleep(0.5)
        state = read_state(folder)
        if state and state.address:
            print(f"address    {state.address}")
            print(f"token      {folder / 'token'}  (mode 0600: whoever reads it runs code as you)")
            print(f"until      {when(state.ends)}")
            chosen = "" if settings.name == "longleaf" else f" cluster.name={settings.name}"
            print(f"next       python -m tune_app.run family=seesaw cluster=longleaf{chosen}")
            return 0
        if time.monotonic() - asked < ASK_EVERY_S:
            continue
        asked = time.monotonic()
        heads = _live(job_names(settings.name)[:1])
        if heads and NEVER.search(heads[0].reason):
            slurm_client.cancel([job])
            _forget(folder)
            raise ClusterError(
                f"the head (Slurm job {job}) would wait for ever ({heads[0].reason}), so it was cancelled. Ask for "
                "less: hours=, partition=, qos=; `sinfo -o '%P %l'` shows the limits"
            )
        if not heads:
            log = folder / "logs" / f"head-{job}.log"
            last = log.read_text().strip().splitlines()[-1:] if log.is_file() else []
            raise ClusterError(f"the head (Slurm job {job}) ended before it answered: {''.join(last)} See {log}")
    waiting = _live(job_names(settings.name)[:1])
    why = f"{waiting[0].state.lower()}, {waiting[0].waits_for}" if waiting else "gone"
    named = "" if settings.name == "longleaf" else f" name={settings.name}"
    print(f"not up yet after {settings.wait_s:.0f} s ({why}); it goes on by itself: python -m cluster status{named}")
    return 0


def status(settings: NameSettings) -> int:
    """Print what runs, where, until when, and what it has cost."""
    folder = cluster_folder(settings.name)
    state = read_state(folder)
    jobs = _live(job_names(settings.name))
    if not jobs:
        ended = f" Its last head was Slurm job {state.head_job}." if state else ""
        print(f"no cluster {settings.name} runs.{ended} Start one: python -m cluster up nodes=0..2 hours=24")
        return 0
    rows, facts = [], []
    for job in jobs:
        role = "head" if job.name == job_names(settings.name)[0] else "worker"
        left = f"{_duration(job.limit_s - job.elapsed_s)} left" if job.limit_s else "no limit"
        kind, times = job.tags().get("type", ""), f"{_duration(job.elapsed_s)}, {left}"
        rows.append((role, f"job {job.id}", job.state.lower(), job.node, kind, times))
        if not job.node:
            facts.append(("waiting", f"job {job.id}: {job.waits_for}"))
    if state:
        facts += [("address", state.address or "not yet"), ("until", when(state.ends))]
        facts.append(("cost", f"{gpu_hours(folder):.2f} GPU-hours so far, idle ones included"))
    if last := told_by_slurm(folder, REFUSED):
        facts.append(("refused", last))

    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        print("  ".join(word.ljust(width) for word, width in zip(row, widths)))
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else UNLIMITED
    wrap = partial(textwrap.fill, width=width, subsequent_indent=" " * 9, break_long_words=False)
    for name, text in facts:
        print(wrap(f"{name:<9}{text}", break_on_hyphens=False))
    return 0


def down(settings: DownSettings) -> int:
    """Cancel the head, then every worker, and wait until Slurm has ended them, else raise ClusterError.

    Raises ClusterInputError where a sweep still runs there, unless forced.
    """
    names = job_names(settings.name)
    heads = _live(names[:1])
    running = _running_there(settings.name) if heads and not settings.force else []
    if running:
        raise ClusterInputError(
            f"name={settings.name}: this cluster still runs {'; '.join(running)}. End it in order with python -m "
            f"tune_app.submit stop id=ID (Ctrl-C where it has no id), or where it is: python -m cluster down"
            f"{'' if settings.name == 'longleaf' else f' name={settings.name}'} force=true"
        )
    slurm_client.cancel([job.id for job in heads])
    deadline, cancelled = time.monotonic() + GONE_S, len(heads)
    while jobs := [job for job in slurm_client.jobs(names) if not job.gone or job.state == "COMPLETING"]:
        workers = [job for job in jobs if job.name == names[1] and not job.gone]
        slurm_client.cancel([job.id for job in workers])  # again and again: the head submits until it is dead
        cancelled += len(workers)
        if time.monotonic() > deadline:
            listed = ", ".join(f"{job.id} ({job.state.lower()})" for job in jobs)
            raise ClusterError(
                f"cancelled, and still there after {GONE_S:.0f} s: jobs {listed}. Look again with squeue --me"
            )
        time.sleep(ASK_EVERY_S)
    folder = cluster_folder(settings.name)
    _forget(folder)
    spent = gpu_hours(folder)
    if not cancelled:
        print(f"no cluster {settings.name} was running")
        return 0
    print(f"cluster {settings.name} is down; {spent:.2f} GPU-hours. Its logs stay in {folder / 'logs'}")
    return 0


def _forget(folder: Path) -> None:
    """Where a cluster was and what it was asked for is worth nothing after its end."""
    for name in ("token", "state.json", WAITING):
        (folder / name).unlink(missing_ok=True)


def _running_there(name: str) -> list[str]:
    """What the head of a cluster says that it runs: id (or address) and words of each; [] where it says nothing."""
    with contextlib.suppress(ClusterError):  # a head that is not up yet, or broken, must be ended all the same
        state, token = running_state(name), readable_token(str(cluster_folder(name) / "token"))
        jobs = ask(state.dashboard, "/api/jobs/", token, name)
        return [
            f"{job['submission_id'] or 'one attached on ' + str((job['driver_info'] or {}).get('node_ip_address'))} "
            f"({(job['metadata'] or {}).get('words') or job['entrypoint']})"
            for job in jobs
            if job["status"] in ("PENDING", "RUNNING")
        ]
    return []


def dashboard(settings: NameSettings) -> int:
    """Print how to open the dashboard: it listens inside the cluster only."""
    state = running_state(settings.name)
    host, port = state.dashboard.removeprefix("http://").split(":")
    login = state.login_host or "LOGIN_NODE"
    print("on your own machine:")
    print(f"  ssh -N -L {port}:{host}:{port} {getpass.getuser()}@{login}")
    print(f"then open  http://127.0.0.1:{port}")
    print(f"it asks for the token: ssh {getpass.getuser()}@{login} cat {cluster_folder(settings.name) / 'token'}")
    return 0


def _duration(total_s: float) -> str:
    minutes = max(0, int(total_s // 60))
    return f"{minutes // 60}:{minutes % 60:02d} h"
