"""Ray on one node: its place, its command lines, its start and its end."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
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
SOCKET_PATH_BYTES, RAYS_SHARE = 107, 64
"""How long the path of a socket may be, and what of it Ray adds to its folder: a session's name, a socket's."""
ALWAYS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
    # What gRPC does around a fork aborts the child where other threads are in a call (ray-project/ray#63202): every
    # second ray:// client was refused on a busy head.
    "GRPC_ENABLE_FORK_SUPPORT": "false",
}


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a node runs."""

    folder: Path
    """The cluster's folder, on the shared file system."""
    job_id: str
    ip: str
    ports: Ports
    temp_dir: Path
    """The job's own, on local disk; see `private_folder`."""
    token: Path

    @property
    def ray_dir(self) -> Path:
        return ray_folder(self.temp_dir)

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


def private_folder(prefix: str, base: str) -> Path:
    """A new folder of mode 0700, to hold the folder that Ray opens to everybody: see `ray_folder`.

    It lies in `base`, or in /tmp where the paths of Ray's sockets would become too long there.
    """
    like = Path(base, f"{prefix}{'x' * 8}")
    return Path(tempfile.mkdtemp(prefix=prefix, dir=base if fits_sockets(like) else "/tmp"))


def ray_folder(private: Path) -> Path:
    """Ray's folder in one of ours. Ray gives it, and most of what it puts there, mode 0777."""
    return private / "ray"


def fits_sockets(private: Path) -> bool:
    return len(os.fsencode(ray_folder(private))) <= SOCKET_PATH_BYTES - RAYS_SHARE


def local_folder(job_id: str) -> Path:
    """A job's private folder on the node's disk."""
    base = os.environ.get("TUNE_APP_NODE_TMP") or os.environ.get("SLURM_TMPDIR") or "/tmp"
    return private_folder(f"job{job_id}-", base)


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
        "TMPDIR": str(place.temp_dir),  # Ray's dashboard leaves a pymp-… where it is killed
        **(extra or {}),
    }


def head_command(place: Place, *, cpus: int, gpus: int, autoscaling: Path | None) -> list[str]:
    """`ray start --head` as this project starts it."""
    dashboard = (f"--dashboard-host={place.ip}", "--include-dashboard=true")
    scaled = [f"--autoscaling-config={autoscaling}"] if autoscaling else []
    own = ("--head", *dashboard, *place.ports.head_options(), *scaled)
    return place.ray("start", *own, *_node_options(place, cpus, gpus))


def worker_command(place: Place, address: str, *, cpus: int, gpus: int) -> list[str]:
    """`ray start` of one worker."""
    own = (f"--address={address}", *place.ports.node_options())
    return place.ray("start", *own, *_node_options(place, cpus, gpus))


def _node_options(place: Place, cpus: int, gpus: int) -> list[str]:
    return [
        "--block",
        f"--node-ip-address={place.ip}",
        f"--temp-dir={place.ray_dir}",
        f"--num-cpus={cpus}",
        f"--num-gpus={gpus}",
        f"--object-store-memory={OBJECT_STORE_BYTES}",
        "--disable-usage-stats",
    ]


def head_environment(place: Place, hours: float) -> dict[str, str]:
    """What only the head's processes read."""
    return environment(
        place,
        "head",
        {
            "RAY_enable_autoscaler_v2": "1",
            "AUTOSCALER_METRIC_PORT": str(place.ports.autoscaler_metrics),
            "DASHBOARD_METRIC_PORT": str(place.ports.dashboard_metrics),
            # sbatch answers at once: a job that is not there after a minute has died before it was seen.
            "RAY_AUTOSCALER_RECONCILE_REQUEST_STATUS_TIMEOUT_S": "60",
            # Slurm may hold a job for hours; Ray would give the place in the queue up after one.
            "RAY_AUTOSCALER_RECONCILE_ALLOCATE_STATUS_TIMEOUT_S": str(int(hours * 3600)),
        },
    )


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

    They bear the job id in their environment; a Ray that was killed leaves them behind, to no parent of ours. Returns
    when none is left, so that none writes any more, or after `STOP_S` seconds.
    """
    deadline = time.monotonic() + STOP_S
    while (left := _pids_of(job_id)) and time.monotonic() < deadline:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def _pids_of(job_id: str) -> list[int]:
    mark, found = f"RAY_CLOUD_INSTANCE_ID={job_id}".encode(), []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark in environ.read_bytes().split(b"\0"):
                found.append(int(environ.parent.name))
    return [pid for pid in found if pid != os.getpid()]


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


@contextlib.contextmanager
def place_of_job(folder: Path, token: Path | None = None) -> Iterator[Place]:
    """Where this job runs on this node; when it is left, no process and no folder of the job's Ray is there."""
    job_id, ip = os.environ["SLURM_JOB_ID"], own_ip()
    temp_dir = local_folder(job_id)
    try:
        yield Place(
            folder=folder,
            job_id=job_id,
            ip=ip,
            ports=free_ports(int(job_id), ip),
            temp_dir=temp_dir,
            token=token or folder / "token",
        )
    finally:
        end_rest(job_id)
        shutil.rmtree(temp_dir, ignore_errors=True)
