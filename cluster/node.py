"""What a Slurm job of a cluster runs: Ray's head, or one worker.  python -m cluster.node ROLE FOLDER key=value …

Started by the job script, it owns its Ray: ports from the job id, a temporary folder on the node's own disk, the token
by its path. It ends when Ray ends, when Slurm says so (SIGTERM), and a worker also when its head is gone.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cluster import slurm_client
from cluster.connect import await_self
from cluster.errors import ClusterError
from cluster.grafana import offer
from cluster.ray_node import (
    START_S,
    Place,
    answers,
    end,
    environment,
    head_command,
    head_environment,
    place_of_job,
    start,
    until_answering,
    versions,
    worker_command,
)
from cluster.state import State, job_names, read_state, record_usage, write_state

HEAD_GONE_S = 120.0
"""A worker ends when the head has not answered for so long."""
TICK_S, USAGE_EVERY_S = 1.0, 60.0


class Stopped(Exception):
    """Slurm, or a person, ends the job."""


def raise_on_signals() -> None:
    """SIGTERM and SIGINT end the job in order."""

    def stop(number: int, frame: object) -> None:
        ignore_signals()
        raise Stopped(signal.Signals(number).name)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)


def ignore_signals() -> None:
    """Slurm signals more than once; a second one must not break off the clearing up after the first."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def run_head(folder: Path) -> int:
    """Start the head, tell where it is, stay until it ends; then nothing of the cluster is left."""
    with place_of_job(folder) as place:
        return _head_at(place)


def _head_at(place: Place) -> int:
    folder = place.folder
    state = read_state(folder)
    if state is None or state.head_job != place.job_id:
        raise ClusterError(f"{folder} is not the cluster of job {place.job_id}: it was started anew in the meantime")
    workers = job_names(state.name)[1:]
    slurm_client.cancel([job.id for job in slurm_client.jobs(workers) if not job.gone])  # of a head that was killed
    command = head_command(place, cpus=0, gpus=0, autoscaling=folder / "autoscaling.yaml")
    limit_s, began = state.ends - state.started, time.time()
    process = start(command, head_environment(place, limit_s / 3600))
    address, dashboard = f"{place.ip}:{place.ports.gcs}", f"{place.ip}:{place.ports.dashboard}"
    try:
        until_answering(process, address)
        until_answering(process, dashboard)
        await_self(address, f"http://{dashboard}", place.token)
        promise = [sys.executable, "-m", "cluster.promise", address, str(folder / "autoscaling.yaml")]
        subprocess.run(promise, env=environment(place, "head"), check=True, timeout=60)
        python, ray = versions()
        up = replace(
            state,
            address=address,
            dashboard=f"http://{dashboard}",
            client=f"ray://{place.ip}:{place.ports.client}",
            node=socket.gethostname(),
            python=python,
            ray=ray,
            started=began,
            ends=began + limit_s,
            temp_dir=str(place.ray_dir),
        )
        write_state(folder, up)
        offer(place.ray_dir / "session_latest")
        return _watch(process, place, kind="head", gpus=0, began=began)
    finally:
        ignore_signals()
        slurm_client.cancel([job.id for job in slurm_client.jobs(workers) if not job.gone])
        end(process)


def started_head(folder: Path) -> State | None:
    """The state of a head that has said where it is; None where there is none, or it does not say so in time.

    The autoscaler submits the least number of workers before the head has written its state.
    """
    deadline = time.monotonic() + START_S
    while (state := read_state(folder)) and not state.address and time.monotonic() < deadline:
        time.sleep(TICK_S)
    return state if state and state.address else None


def run_worker(folder: Path, *, node_type: str, cpus: int, gpus: int) -> int:
    """Join the head as a node of this type; end with Ray, or when the head is gone."""
    state = started_head(folder)
    if state is None or not answers(state.address):
        raise ClusterError(f"the head of {folder.name} is gone: this worker has nothing to join")
    with place_of_job(folder) as place:
        began = time.time()
        process = start(worker_command(place, state.address, cpus=cpus, gpus=gpus), environment(place, node_type))
        try:
            return _watch(process, place, kind="worker", gpus=gpus, began=began, head=state.address)
        finally:
            ignore_signals()
            end(process)
            record_usage(folder, place.job_id, gpus, began=began, kind="worker")


def _watch(
    process: subprocess.Popen[bytes], place: Place, *, kind: str, gpus: float, began: float, head: str = ""
) -> int:
    """Stay while Ray runs (and, for a worker, while its head answers); Ray's exit code."""
    noted, heard = 0.0, time.monotonic()
    while process.poll() is None:
        if time.time() - noted > USAGE_EVERY_S:
            record_usage(place.folder, place.job_id, gpus, began=began, kind=kind)
            noted = time.time()
        if head and time.monotonic() - heard > HEAD_GONE_S / 6 and answers(head):
            heard = time.monotonic()
        if head and time.monotonic() - heard > HEAD_GONE_S:
            print(f"the head at {head} has not answered for {HEAD_GONE_S:.0f} s: this worker ends", flush=True)
            return 1
        time.sleep(TICK_S)
    return int(process.returncode or 0)


def main(words: Sequence[str]) -> int:
    """Run the role; 0 when Slurm ended it, else Ray's exit code."""
    role, folder, *rest = words
    given = dict(word.split("=", 1) for word in rest)
    raise_on_signals()
    try:
        if role == "head":
            return run_head(Path(folder))
        return run_worker(Path(folder), node_type=given["type"], cpus=int(given["cpus"]), gpus=int(given["gpus"]))
    except Stopped as stopped:
        print(f"{role} ended by {stopped}", flush=True)
        return 0
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
