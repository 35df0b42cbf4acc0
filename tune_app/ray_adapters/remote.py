"""The sweep's side of a Ray cluster that was there before it: found, attached to, or handed the sweep as a job."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from cluster.connect import Connection, connect
from cluster.errors import ClusterError, ClusterInputError
from trainables.settings import require
from tune_app.errors import InputError, RunFailed
from tune_app.settings.schema import ClusterSettings

IN_MEMORY = ("tmpfs", "ramfs", "devtmpfs")
LOOK_S = 30.0


@contextlib.contextmanager
def as_ours() -> Iterator[None]:
    """Within it, what `cluster` raises becomes an InputError or a RunFailed, with its exit code."""
    try:
        yield
    except ClusterInputError as error:
        raise InputError(str(error)) from None
    except ClusterError as error:
        raise RunFailed(str(error)) from None


def found(settings: ClusterSettings) -> Connection:
    """The cluster of `cluster=` or `cluster.address=`, checked. Raises InputError within ten seconds."""
    with as_ours():
        return connect(settings.name, settings.address, settings.token_path)


def use_token(connection: Connection) -> None:
    """Make this process, and what it starts, a client of the cluster."""
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(connection.token)
    os.environ.pop("RAY_AUTH_TOKEN", None)


def run_there(connection: Connection, module: str, words: Sequence[str]) -> int:
    """Submit `python -m MODULE WORDS` as a job and follow it; its exit code. Ctrl-C detaches."""
    from cluster import jobs

    with as_ours():
        id_ = jobs.submit(connection, module, words)
        print(
            f"this machine is no node of the cluster, so the sweep runs there as job {id_}; Ctrl-C detaches", flush=True
        )
        return jobs.follow(connection, id_)


def refuse_document(form: str) -> None:
    """InputError for format=json where the work is handed over as a job: what comes back is its log."""
    require(
        form != "json",
        "format",
        form,
        "this machine is no node of the cluster, and a job sends back its log, no document",
        "Leave it out, and read the sweep afterwards: python -m tune_app.summary sweep=latest format=json",
    )


def plain(words: Sequence[str]) -> list[str]:
    """Overrides as a person types them: Hydra keeps `space.p=…` with a ++ before it."""
    return [word.removeprefix("++") for word in words]


def refuse_local_folder(folder: Path) -> None:
    """Raise InputError unless all nodes of the connected cluster see `folder`: trials write their checkpoints there.

    A folder in memory is refused whoever is there; else every other node that is there now looks for a file.
    """
    existing = refuse_in_memory(folder)
    with tempfile.NamedTemporaryFile(dir=existing, prefix=".seen-by-all-nodes-") as marker:
        blind = _nodes_without(Path(marker.name))
    if blind:
        raise InputError(_local(folder, f"node {blind[0]} does not see {existing}"))


def refuse_in_memory(folder: Path) -> Path:
    """What exists of a folder's path. Raises InputError where that is in the memory of this machine."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if _file_system(existing) in IN_MEMORY:
        raise InputError(_local(folder, "it lies in this node's memory"))
    return existing


def _nodes_without(path: Path) -> list[str]:
    """Host names of live nodes, other than this one, where `path` is not there; one that goes meanwhile is none."""
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = ray.get_runtime_context().get_node_id()
    nodes = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] != here]
    look = ray.remote(num_cpus=0)(os.path.exists)
    strategies = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in nodes]
    answers = [look.options(scheduling_strategy=strategy).remote(str(path)) for strategy in strategies]
    answered = ray.wait(answers, num_returns=len(answers), timeout=LOOK_S)[0] if answers else []
    blind = []
    for node, answer in zip(nodes, answers):
        with contextlib.suppress(RayError):
            if answer in answered and not ray.get(answer):
                blind.append(node["NodeManagerHostname"])
    return blind


def _file_system(path: Path) -> str:
    """Type of the file system that holds `path`, as /proc/mounts names it."""
    mounts = [line.split()[1:3] for line in Path("/proc/self/mounts").read_text().splitlines()]
    real = path.resolve()
    above = [(len(point), kind) for point, kind in mounts if real.is_relative_to(point)]
    return max(above, default=(0, ""))[1]


def _local(folder: Path, why: str) -> str:
    return (
        f"results_dir={folder.parent}: {why}, but the trials of a cluster run on all its nodes and write there. Give a "
        "folder on the shared file system: results_dir=PATH"
    )
