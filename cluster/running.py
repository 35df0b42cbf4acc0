"""The cluster that a person has running, or one sentence on how to start one."""

from __future__ import annotations

import time
from datetime import datetime

from cluster.errors import ClusterInputError
from cluster.state import State, cluster_folder, clusters_folder, read_state


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
