"""Ray on one node: its place, its command lines, its start and its end."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import ClusterError
from cluster.ports import Ports, free_ports

START_S = 180.0
"""How long Ray may take to start."""
STOP_S = 8.0
"""How long Ray may take to end: less than any KillWait of Slurm."""
OBJECT_STORE_BYTES = 1_000_000_000
"""A sweep passes only small things through Ray's object store."""
ALWAYS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "RAY_DEDUP_LOGS": "0"}


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a node runs."""

    folder: Path
    """The cluster's folder, on the shared file system."""
    job_id: str
    ip: str
    ports: Ports
    temp_dir: Path
    """Ray's own, on local disk."""
    token: Path

    def ray(self, *options: str) -> list[str]:
        """A command of the Ray that this Python has."""
        return [sys.executable, "-m", "ray.scripts.scripts", *options]


def own_ip() -> str:
    """The address that other nodes reach this one by: that of its host name, else that of the default route."""
    addresses = []
    with contextlib.suppress(OSError):
        addresses = [str(info[4][0]) for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)]
    outside = [address for address in addresses if not address.startswith("127.")]
    if outside:
        return outside[0]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("10.255.255.255", 1))  # sends nothing
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"


def local_folder(job_id: str) -> Path:
    """A new folder on the node's disk, mode 0700, with a path short enough for Ray's sockets (107 characters)."""
    base = os.environ.get("TUNE_APP_NODE_TMP") or os.environ.get("SLURM_TMPDIR") or "/tmp"
    return Path(tempfile.mkdtemp(prefix=f"ray{job_id}-", dir=base if len(base) < 30 else "/tmp"))


def environment(place: Place, node_type: str, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """What Ray's processes of this node see: the token by its path, and which job they are for the autoscaler."""
    kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return {
        **kept,
        **ALWAYS,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(place.token),
        "RAY_CLOUD_INSTANCE_ID": place.job_id,
        "RAY_NODE_TYPE_NAME": node_type,
        "TUNE_APP_NODE_CACHE": str(place.temp_dir / "cache"),
        **(extra or {}),
    }


def head_command(place: Place, *, cpus: int, gpus: int, autoscaling: Path | None) -> list[str]:
    """`ray start --head` as this project starts it."""
    return place.ray(
        "start", "--head", "--block", f"--node-ip-address={place.ip}", f"--dashboard-host={place.ip}",
        "--include-dashboard=true", f"--temp-dir={place.temp_dir}", f"--num-cpus={cpus}", f"--num-gpus={gpus}",
        f"--object-store-memory={OBJECT_STORE_BYTES}", "--disable-usage-stats", *place.ports.head_options(),
        *([f"--autoscaling-config={autoscaling}"] if autoscaling else []),
    )  # fmt: skip


def worker_command(place: Place, address: str, *, cpus: int, gpus: int) -> list[str]:
    """`ray start` of one worker."""
    return place.ray(
        "start", "--block", f"--address={address}", f"--node-ip-address={place.ip}", f"--temp-dir={place.temp_dir}",
        f"--num-cpus={cpus}", f"--num-gpus={gpus}", f"--object-store-memory={OBJECT_STORE_BYTES}",
        "--disable-usage-stats", *place.ports.node_options(),
    )  # fmt: skip


def head_environment(place: Place, hours: float) -> dict[str, str]:
    """What only the head's processes read."""
    return environment(
        place, "head",
        {
            "RAY_enable_autoscaler_v2": "1",
            "AUTOSCALER_METRIC_PORT": str(place.ports.autoscaler_metrics),
            "DASHBOARD_METRIC_PORT": str(place.ports.dashboard_metrics),
            # sbatch answers at once: a job that is not there after a minute has died before it was seen.
            "RAY_AUTOSCALER_RECONCILE_REQUEST_STATUS_TIMEOUT_S": "60",
            # Slurm may hold a job for hours; Ray would give the place in the queue up after one.
            "RAY_AUTOSCALER_RECONCILE_ALLOCATE_STATUS_TIMEOUT_S": str(int(hours * 3600)),
        },
    )  # fmt: skip


def answers(address: str, timeout_s: float = 3.0) -> bool:
    """Whether something listens at host:port."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=timeout_s):
            return True
    except OSError:
        return False


def start(command: Sequence[str], env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Ray in a process group of its own, so that all of it can be ended together."""
    return subprocess.Popen(command, env=dict(env), start_new_session=True)


def end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to `ray start --block`, which ends what it started; then SIGKILL to its whole group."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def end_rest(job_id: str) -> None:
    """SIGKILL to what else this job's Ray started on this node: workers, and drivers of sweeps that hold their folders.

    They bear the job id in their environment; a Ray that was killed leaves them behind, to no parent of ours.
    """
    mark = f"RAY_CLOUD_INSTANCE_ID={job_id}".encode()
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark in environ.read_bytes().split(b"\0") and int(environ.parent.name) != os.getpid():
                os.kill(int(environ.parent.name), signal.SIGKILL)


def until_answering(process: subprocess.Popen[bytes], address: str) -> None:
    """Wait for Ray to listen. Raises ClusterError where it ended or did not come up."""
    deadline = time.monotonic() + START_S
    while not answers(address, 1.0):
        if process.poll() is not None:
            raise ClusterError(f"Ray ended with code {process.returncode} before it listened at {address}")
        if time.monotonic() > deadline:
            raise ClusterError(f"Ray does not listen at {address} after {START_S:.0f} s")
        time.sleep(0.2)


def versions() -> tuple[str, str]:
    """Versions of this Python and of its Ray."""
    from importlib.metadata import version

    return platform.python_version(), version("ray")


def place_of_job(folder: Path, token: Path | None = None) -> Place:
    job_id, ip = os.environ["SLURM_JOB_ID"], own_ip()
    return Place(
        folder=folder, job_id=job_id, ip=ip, ports=free_ports(int(job_id), ip), temp_dir=local_folder(job_id),
        token=token or folder / "token",
    )  # fmt: skip
