"""Ray for one sweep: started on loopback behind a token, or attached to; resources checked before anything waits."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import secrets
import shutil
import socket
import stat
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from cluster.ray_node import fits_sockets, private_folder, ray_folder
from search_spaces import get_family
from trainables.hardware import require_cpu_precision
from trainables.settings import require
from tune_app.errors import InputError, RunFailed
from tune_app.ray_adapters.patches import patient_start, require_tried_ray
from tune_app.ray_adapters.remote import found, use_token
from tune_app.results.folders import lock_is_held
from tune_app.settings.schema import Settings

PREFIX, OWNER = "tune_app-", "driver.lock"
"""Of the folder of one driver's Ray; the driver holds the lock in it while it lives."""


class NotStarted(RunFailed):
    """Ray's processes did not come up."""


@dataclass(frozen=True)
class TrialResources:
    """What one trial takes, and how many fit at once."""

    cpus: float
    """Of each of its workers."""
    gpus: float
    """Of all of them."""
    slots: int
    promised: bool = False
    """Whether an autoscaler brings nodes when trials wait; slots are then those of all that it may bring."""
    workers: int = 0
    """As the settings say; 0: one per GPU, one at least."""

    def as_dict(self) -> dict[str, float]:
        told = {"workers_per_trial": self.workers} if self.workers else {}
        return {"cpus_per_trial": self.cpus, "gpus_per_trial": self.gpus, **told}


@dataclass(frozen=True)
class RaySession:
    """A connected Ray: the dashboard's address (empty where there is none) and the session's folder."""

    dashboard: str
    temp_dir: str


@contextlib.contextmanager
def ray_session(settings: Settings) -> Iterator[RaySession]:
    """Start Ray on this machine, or attach to the cluster of the settings, for the body of the `with`."""
    require_tried_ray()
    _environment_before_ray(loopback=not settings.cluster.remote)
    if settings.cluster.remote:
        with _attached(settings) as session:
            yield session
    else:
        with _started(settings) as session:
            yield session


def _environment_before_ray(*, loopback: bool = True) -> None:
    """What Ray reads when it is imported or started. Set only where the person has not; so nothing on the way here
    imports ray. loopback: every listener there; on a cluster the other nodes must reach this process."""
    defaults = {
        **({"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"} if loopback else {}),
        "RAY_AUTH_MODE": "token",  # on a shared workstation loopback is open to every user
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_DEDUP_LOGS": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AIR_NEW_OUTPUT": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
        "TUNE_MAX_PENDING_TRIALS_PG": "10000",  # the searcher knows how many; Tune would begin them one after another
        "TUNE_GLOBAL_CHECKPOINT_S": "600",  # Ray's own snapshots are not what a restart reads
        # After 1 s it would start a trial again whose process may still run, on a node that is slow to answer.
        "RAY_timeout_ms_task_wait_for_death_info": "60000",
        "RAY_prestart_worker_first_driver": "0",  # ray.init would wait for the first worker, for ever where none starts
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    if "ray" in sys.modules:  # it read its configuration when it was imported
        from ray._raylet import Config  # type: ignore[attr-defined]

        Config.initialize("")


def token_path() -> Path:
    """The file with the Ray token: $RAY_AUTH_TOKEN_PATH, or Ray's own default, made with mode 0600 when absent."""
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
    return path


@contextlib.contextmanager
def _started(settings: Settings) -> Iterator[RaySession]:
    import ray

    if os.environ["RAY_AUTH_MODE"] == "token" and not os.environ.get("RAY_AUTH_TOKEN"):
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(token_path())
    given = settings.cluster.temp_dir
    with contextlib.nullcontext(_given_folder(given)) if given else _own_folder() as folder:
        temp_dir = str(ray_folder(folder))
        port = settings.cluster.dashboard_port or free_port()
        try:
            with _temporary_files_in(folder), patient_start():
                context = ray.init(
                    address="local",
                    num_cpus=settings.resources.num_cpus or usable_cpus(),
                    num_gpus=None if settings.resources.num_gpus < 0 else settings.resources.num_gpus,
                    include_dashboard=settings.cluster.dashboard,
                    dashboard_host="127.0.0.1",
                    dashboard_port=port,
                    log_to_driver=settings.verbose > 1,
                    logging_level=logging.INFO if settings.verbose else logging.ERROR,
                    _temp_dir=temp_dir,
                )
        except Exception as error:  # Ray raises nothing more precise where its processes are slow to answer
            raise NotStarted(
                f"Ray did not start: {str(error).rstrip('.')}. A machine that is busy answers late: try again. Its "
                f"logs are in {temp_dir}{'' if given else ', until the next start'}"
            ) from error
        url = f"http://{context.dashboard_url}" if settings.cluster.dashboard and context.dashboard_url else ""
        try:
            yield RaySession(dashboard=url, temp_dir=temp_dir)
        finally:
            ray.shutdown()


@contextlib.contextmanager
def _own_folder() -> Iterator[Path]:
    """A new private folder, removed at the end; those that killed drivers of this user have left are removed first."""
    base = tempfile.gettempdir()
    for left in {*Path(base).glob(f"{PREFIX}*"), *Path("/tmp").glob(f"{PREFIX}*")}:
        if _is_left_over(left):
            shutil.rmtree(left, ignore_errors=True)
    folder = private_folder(PREFIX, base)
    with FileLock(folder / OWNER), contextlib.ExitStack() as at_the_end:
        at_the_end.callback(shutil.rmtree, folder, ignore_errors=True)
        try:
            yield folder
        except NotStarted:
            at_the_end.pop_all()
            raise


def _is_left_over(folder: Path) -> bool:
    """Whether its driver is dead, and no process of its Ray lives. A folder without Ray's is one that is just made."""
    try:
        status = folder.lstat()
    except OSError:
        return False
    ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
    if not ours or not (folder / OWNER).is_file() or not ray_folder(folder).is_dir() or lock_is_held(folder / OWNER):
        return False
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if os.fsencode(folder) in command.read_bytes():
                return False
    return True


@contextlib.contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    """Within it, what is started has its temporary files there: Ray's dashboard leaves a pymp-… where it is killed."""
    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = str(folder)
    try:
        yield
    finally:
        os.environ.pop("TMPDIR")
        if before is not None:
            os.environ["TMPDIR"] = before


def _given_folder(given: str) -> Path:
    """The folder of cluster.temp_dir, made with mode 0700 when absent. Raises InputError where others can enter it."""
    folder = Path(given).expanduser().absolute()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except OSError as error:
        raise InputError(
            f"cluster.temp_dir={given}: {error.strerror}. Give a folder on local disk that you can write"
        ) from None
    require(
        status.st_uid == os.getuid() and not stat.S_IMODE(status.st_mode) & 0o077,
        "cluster.temp_dir",
        given,
        "other users can enter this folder, and Ray lets everybody write into what it makes there",
        f"Give one that does not exist yet, or one of your own: chmod 700 {folder}",
    )
    require(
        fits_sockets(folder),
        "cluster.temp_dir",
        given,
        "this path is too long for Ray's sockets",
        "Give a shorter one: /tmp/ray-me",
    )
    return folder


@contextlib.contextmanager
def _attached(settings: Settings) -> Iterator[RaySession]:
    connection = found(settings.cluster)
    use_token(connection)
    import ray

    try:
        ray.init(
            address=connection.address,
            log_to_driver=settings.verbose > 1,
            logging_level=logging.INFO if settings.verbose else logging.ERROR,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{connection.address}: attaching to the cluster failed ({first_line})") from None
    try:
        yield RaySession(dashboard=connection.dashboard, temp_dir="")
    finally:
        ray.shutdown()


def free_port() -> int:
    """A TCP port on loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def usable_cpus() -> int:
    """CPUs this process may use: the affinity mask, cut to the cgroup's quota."""
    cpus = len(os.sched_getaffinity(0))
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            cpus = min(cpus, max(1, int(quota) // int(period)))
    return cpus


def trial_resources(
    settings: Settings, nodes: list[dict[str, float]] | None = None, *, trials: int = 0
) -> TrialResources:
    """CPUs and GPUs of one trial on the connected cluster, and how many trials fit at once.

    nodes: machines to reckon with instead of the connected cluster's, as Ray describes them ({"CPU": 32, "GPU": 2}).
    trials: how many there will be, where that is known: few trials get larger shares of the cards.
    Raises InputError where no node, present or promised by the autoscaler, can hold one trial, and SettingsError where
    trials are to train on the CPU in a precision that cannot.
    """
    promised = _autoscaler_nodes() if nodes is None else []
    nodes = _node_resources() if nodes is None else nodes
    cards = max(sum(node.get("GPU", 0) for node in some) for some in (nodes, promised))
    asked = settings.resources
    several = asked.workers_per_trial if asked.workers_per_trial > 1 else 0
    gpus = asked.gpus_per_trial if asked.gpus_per_trial is not None else float(several or 0.5 if cards else 0)
    at_once = min(filter(None, (trials, asked.max_concurrent)), default=0)
    gpus = spread(gpus, at_once, cards) if at_once else gpus
    cpus = asked.cpus_per_trial if asked.cpus_per_trial is not None else _default_cpus(nodes + promised, gpus)
    workers = asked.workers_per_trial or max(1, int(gpus))
    each, batch = f"each of the trial's {workers} workers needs the same share of it", settings.trainer.batch_size
    require(batch % workers == 0, "trainer.batch_size", batch, each, f"Use a multiple of {workers}")
    slots = max(sum(_fitting(node, cpus * workers, gpus) for node in some) for some in (nodes, promised))
    if slots == 0:
        raise InputError(_does_not_fit(settings, cpus, gpus, workers, nodes + promised))
    if settings.hardware.device == "cuda" and not gpus:
        raise InputError(
            f"hardware.device=cuda resources.gpus_per_trial=0: the cluster has {cards:g} GPUs and a trial takes none. "
            "Use hardware=cpu, or give resources.gpus_per_trial=0.5 where there is a GPU"
        )
    if settings.hardware.device == "cpu" or not gpus:
        require_cpu_precision(settings.hardware.precision, settings.data.patch)
    slots = min(filter(None, (slots, asked.max_concurrent)))
    told = asked.workers_per_trial
    return TrialResources(cpus=cpus, gpus=gpus, slots=slots, promised=bool(promised), workers=told)


def this_machine(settings: Settings, gpus: int = -1) -> dict[str, float]:
    """As Ray would describe it. gpus: to reckon with; -1: resources.num_gpus, and where that says nothing those there
    are."""
    asked = settings.resources
    cards = next((n for n in (gpus, asked.num_gpus) if n >= 0), None)
    return {"CPU": float(asked.num_cpus or usable_cpus()), "GPU": float(len(gpu_names()) if cards is None else cards)}


def spread(gpus: float, trials: int, cards: float) -> float:
    """The share of a card per trial that spreads `trials` over `cards`: at least `gpus`, 1 where trials ≤ cards.

    Ray fills a card before it takes the next one, so two trials of half a card would share the first of two.
    """
    if not 0 < gpus < 1 or not cards:
        return gpus
    return max(gpus, 1 / math.ceil(trials / cards))


def _node_resources() -> list[dict[str, float]]:
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _autoscaler_nodes() -> list[dict[str, float]]:
    """Resources of every node that an autoscaler may add; empty without one."""
    from ray._private.state import state

    with contextlib.suppress(Exception):  # an internal of Ray: where it is missing there is nothing to promise
        config = state.get_cluster_config()
        groups = config.node_group_configs if config else []
        return [dict(group.resources) for group in groups for _ in range(group.max_count)]
    return []


def _default_cpus(nodes: list[dict[str, float]], gpus: float) -> float:
    """1 without a GPU; with one, the trial's share of its node's CPUs, at most the published 4."""
    if not gpus:
        return 1.0
    per_card = [node.get("CPU", 1) / node["GPU"] for node in nodes if node.get("GPU")]
    return float(max(1, min(4, int(min(per_card, default=4) * min(1, gpus)))))


def _fitting(node: dict[str, float], cpus: float, gpus: float) -> int:
    """Trials that fit on one node; a fraction of a GPU must fit on one card."""
    by_cpu = int(node.get("CPU", 0) / cpus + 1e-9)
    if not gpus:
        return by_cpu
    by_gpu = int(node.get("GPU", 0)) * int(1 / gpus + 1e-9) if gpus <= 1 else int(node.get("GPU", 0) // gpus)
    return min(by_cpu, by_gpu)


def free_slots(resources: TrialResources) -> tuple[int, int]:
    """How many trials more find room on the connected cluster now, and how many of its nodes are alive."""
    from ray._private.state import available_resources_per_node

    cpus = resources.cpus * (resources.workers or max(1, int(resources.gpus)))
    free = available_resources_per_node()
    return sum(_fitting(node, cpus, resources.gpus) for node in free.values()), len(_node_resources())


def _does_not_fit(settings: Settings, cpus: float, gpus: float, workers: int, nodes: list[dict[str, float]]) -> str:
    largest_gpu = max((node.get("GPU", 0) for node in nodes), default=0)
    largest_cpu = max((node.get("CPU", 0) for node in nodes), default=0)
    several = f" ({workers} workers, all on one node)" if workers > 1 else ""
    fewer = "gpus_per_trial" in get_family(settings.family).optional  # of each trial, by its network
    fixes = ["Ask for less" + (": space.gpus_per_trial=1" if fewer and gpus > 1 and largest_gpu else "")]
    if settings.try_out and not largest_gpu:
        fixes = []
    if settings.try_out:
        fixes.append(f"{settings.try_out} tries the experiment out on generated data and two CPU cores")
    elif settings.hardware.device != "cuda":
        fixes.append("resources.gpus_per_trial=0 uses the CPU")
    return (
        f"resources.gpus_per_trial={gpus:g} resources.cpus_per_trial={cpus:g}{several}: no node can hold such a trial; "
        f"the largest has {largest_gpu:g} GPUs, {largest_cpu:g} CPUs. {'; '.join(fixes)}"
    )


def dashboard_hint(session: RaySession) -> str:
    """How to open the dashboard, in one line."""
    if not session.dashboard:
        return "no dashboard" + (" (cluster.dashboard=false)" if session.temp_dir else " on this cluster")
    where = os.environ.get("RAY_AUTH_TOKEN_PATH", "")
    return f"{session.dashboard}   (token: cat {where})" if where else session.dashboard


def gpu_names() -> list[str]:
    """Names of the CUDA devices of this machine; empty without any."""
    import torch

    if not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
