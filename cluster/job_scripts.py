"""The Slurm jobs of a cluster: their options for sbatch, and the few lines that they run."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.slurm_client import clock, comment_of
from cluster.state import job_names


def script(folder: Path, role: str, setup: Sequence[str] = (), arguments: Sequence[str] = ()) -> str:
    """A batch script that becomes `python -m cluster.node ROLE FOLDER …`: signals of Slurm reach Python itself."""
    python_path = os.environ.get("PYTHONPATH", "")
    lines = ["#!/bin/bash", "umask 077", *setup]
    if python_path:
        lines.append(f"export PYTHONPATH={shlex.quote(python_path)}")
    words = [sys.executable, "-m", "cluster.node", role, str(folder), *arguments]
    return "\n".join([*lines, f"exec {shlex.join(words)}", ""])


def head_options(name: str, folder: Path, provider: Mapping[str, Any]) -> list[str]:
    """Options of sbatch for the head's job."""
    head = provider.get("head") or {}
    return [
        f"--job-name={job_names(name)[0]}",
        f"--cpus-per-task={head.get('cpus', 4)}",
        f"--mem={_megabytes(head.get('memory_gb', 16))}M",
        f"--time={clock(float(provider.get('hours', 24)) * 3600)}",
        *_common(folder, "head", {**provider, **{key: head[key] for key in ("partition", "qos") if key in head}}),
    ]


def worker_options(
    name: str,
    folder: Path,
    provider: Mapping[str, Any],
    node: Mapping[str, Any],
    resources: Mapping[str, float],
    *,
    time_s: float,
    tags: Mapping[str, str],
) -> list[str]:
    """Options of sbatch for a worker's job: a node of this type for so long, remembered by its tags."""
    gres = [f"--gres={node['gres']}"] if node.get("gres") else []
    own = {key: node[key] for key in ("partition", "qos") if key in node}
    return [
        f"--job-name={job_names(name)[1]}",
        f"--comment={comment_of(tags)}",
        f"--cpus-per-task={int(resources.get('CPU', 1))}",
        f"--mem={_megabytes(node.get('memory_gb', 16))}M",
        *gres,
        f"--time={clock(time_s)}",
        *_common(folder, "worker", {**provider, **own}),
        *map(str, node.get("sbatch_options") or ()),
    ]


def _common(folder: Path, role: str, provider: Mapping[str, Any]) -> list[str]:
    """What head and workers have in common. No job is requeued: a node that comes back is a new node to Ray."""
    options = ["--nodes=1", "--ntasks=1", "--no-requeue", f"--output={folder / 'logs' / f'{role}-%j.log'}"]
    options += [f"--{key}={provider[key]}" for key in ("partition", "account", "qos") if provider.get(key)]
    return options + [str(option) for option in provider.get("sbatch_options") or ()]


def _megabytes(gigabytes: float) -> int:
    return int(float(gigabytes) * 1024)
