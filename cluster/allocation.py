"""A Ray cluster inside one Slurm allocation: a head on the first node, a worker on each of the others.

For `cluster/slurm/sweep.sbatch`. Nothing scales; all of it ends with the `with`.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from cluster.connect import await_self
from cluster.errors import ClusterError, ClusterInputError
from cluster.grafana import offer
from cluster.node import Stopped, ignore_signals, raise_on_signals
from cluster.ray_node import (
    Place,
    answers,
    end,
    environment,
    head_command,
    place_of_job,
    start,
    until_answering,
    worker_command,
)
from cluster.state import make_token

JOIN_S = 120.0


@contextlib.contextmanager
def ray_in_allocation(folder: Path) -> Iterator[tuple[str, Path]]:
    """Start Ray on all nodes of this job; yields its address (host:port) and the file with its token.

    folder: on the shared file system, for the token. Raises ClusterInputError outside of a Slurm job.
    """
    if "SLURM_JOB_ID" not in os.environ:
        raise ClusterInputError("this is no Slurm job: submit it, as sbatch cluster/slurm/sweep.sbatch family=seesaw")
    with place_of_job(folder, make_token(folder)) as place:
        try:
            with _head_and_workers(place) as address:
                yield address, place.token
        finally:
            place.token.unlink(missing_ok=True)


@contextlib.contextmanager
def _head_and_workers(place: Place) -> Iterator[str]:
    cpus, gpus = share_of_node(os.environ)
    head = start(head_command(place, cpus=cpus, gpus=gpus, autoscaling=None), environment(place, "head"))
    workers: subprocess.Popen[bytes] | None = None
    address = f"{place.ip}:{place.ports.gcs}"
    try:
        until_answering(head, address)
        until_answering(head, f"{place.ip}:{place.ports.dashboard}")
        await_self(address, f"http://{place.ip}:{place.ports.dashboard}", place.token)
        offer(place.ray_dir / "session_latest")
        others = int(os.environ.get("SLURM_JOB_NUM_NODES", "1")) - 1
        if others:
            workers = _start_workers(place.folder, address, others, cpus, gpus)
        yield address
    finally:
        if workers:
            end(workers)
        end(head)


def share_of_node(variables: os._Environ[str] | dict[str, str]) -> tuple[int, int]:
    """CPUs and GPUs that the job has on each node, from Slurm's variables."""
    per_node = variables.get("SLURM_JOB_CPUS_PER_NODE") or variables.get("SLURM_CPUS_ON_NODE") or "1"
    first = re.match(r"\d+", per_node)
    cards = variables.get("SLURM_GPUS_ON_NODE") or ""
    if not cards:
        cards = str(len(list(filter(None, variables.get("CUDA_VISIBLE_DEVICES", "").split(",")))))
    return int(first[0] if first else 1), int(cards)


def _start_workers(folder: Path, address: str, others: int, cpus: int, gpus: int) -> subprocess.Popen[bytes]:
    """One `srun` over the other nodes; each starts Ray and joins."""
    here = os.environ.get("SLURMD_NODENAME", "")
    gres = [f"--gpus-per-node={gpus}"] if gpus else []
    command = [
        "srun",
        f"--nodes={others}",
        f"--ntasks={others}",
        "--ntasks-per-node=1",
        f"--exclude={here}",
        "--exact",
        f"--cpus-per-task={cpus}",
        *gres,
        "--kill-on-bad-exit=0",
        sys.executable,
        "-m",
        "cluster.allocation",
        str(folder),
        address,
        str(cpus),
        str(gpus),
    ]
    return subprocess.Popen(command, start_new_session=True)


def join(folder: Path, address: str, cpus: int, gpus: int) -> int:
    """What each of the other nodes runs: a worker, until Ray or the step ends."""
    deadline = time.monotonic() + JOIN_S
    while not answers(address):
        if time.monotonic() > deadline:
            raise ClusterError(f"the head at {address} did not answer within {JOIN_S:.0f} s")
        time.sleep(0.5)
    with place_of_job(folder) as place:
        process = start(worker_command(place, address, cpus=cpus, gpus=gpus), environment(place, "worker"))
        try:
            return process.wait()
        finally:
            ignore_signals()
            end(process)


if __name__ == "__main__":
    raise_on_signals()
    try:
        sys.exit(join(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
    except Stopped:
        sys.exit(0)
