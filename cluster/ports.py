"""Every port that Ray listens on, derived from the Slurm job id, so that two jobs on one machine do not meet."""

from __future__ import annotations

import socket
from dataclasses import dataclass

FIRST, PER_JOB, NUM_BLOCKS = 11000, 100, 200
"""Blocks of 100 ports from 11000 to 30999: above the well-known ones, below the kernel's ephemeral range (32768)."""


@dataclass(frozen=True)
class Ports:
    """The ports of one Ray node. Those of the head only: gcs, dashboard, client, autoscaler and dashboard metrics."""

    base: int

    gcs = property(lambda self: self.base)
    dashboard = property(lambda self: self.base + 1)
    client = property(lambda self: self.base + 2)
    node_manager = property(lambda self: self.base + 3)
    object_manager = property(lambda self: self.base + 4)
    agent = property(lambda self: self.base + 5)
    agent_grpc = property(lambda self: self.base + 6)
    metrics = property(lambda self: self.base + 7)
    runtime_env = property(lambda self: self.base + 8)
    autoscaler_metrics = property(lambda self: self.base + 9)
    dashboard_metrics = property(lambda self: self.base + 10)
    first_worker = property(lambda self: self.base + 11)
    last_worker = property(lambda self: self.base + PER_JOB - 1)

    def node_options(self) -> list[str]:
        """The options of `ray start` for any node."""
        return [
            f"--node-manager-port={self.node_manager}",
            f"--object-manager-port={self.object_manager}",
            f"--dashboard-agent-listen-port={self.agent}",
            f"--dashboard-agent-grpc-port={self.agent_grpc}",
            f"--metrics-export-port={self.metrics}",
            f"--runtime-env-agent-port={self.runtime_env}",
            f"--min-worker-port={self.first_worker}",
            f"--max-worker-port={self.last_worker}",
        ]

    def head_options(self) -> list[str]:
        """The options of `ray start --head`."""
        return [
            f"--port={self.gcs}",
            f"--dashboard-port={self.dashboard}",
            f"--ray-client-server-port={self.client}",
            *self.node_options(),
        ]


def ports_of_job(job_id: int, attempt: int = 0) -> Ports:
    """The block of a job; with attempt > 0, the next ones, for when a stranger sits in it."""
    return Ports(FIRST + PER_JOB * ((job_id + attempt) % NUM_BLOCKS))


def free_ports(job_id: int, host: str = "") -> Ports:
    """The first block from the job's own on in which nobody listens on this machine. Raises OSError where all are
    taken."""
    for attempt in range(NUM_BLOCKS):
        ports = ports_of_job(job_id, attempt)
        if all(_is_free(host, port) for port in range(ports.base, ports.base + PER_JOB)):
            return ports
    raise OSError(f"no block of {PER_JOB} free ports between {FIRST} and {FIRST + PER_JOB * NUM_BLOCKS - 1}")


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
