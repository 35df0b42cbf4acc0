"""Ray's autoscaler (v2) asks for nodes; every one of them is a Slurm job.

    provider:
      type: external
      module: cluster.slurm_provider.SlurmNodeProvider

It remembers nothing: what there is, squeue says, and what a job is for, its comment says. So an autoscaler that is
started again knows all its nodes. A job counts from its submission on, however long Slurm holds it, and no longer when
Slurm has ended it. Where the controller does not answer, ClusterError is raised: Ray changes nothing and asks again.
"""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import Any

from ray.autoscaler.node_provider import NodeProvider
from ray.autoscaler.tags import (
    NODE_KIND_HEAD,
    NODE_KIND_WORKER,
    STATUS_UP_TO_DATE,
    TAG_RAY_LAUNCH_REQUEST,
    TAG_RAY_NODE_KIND,
    TAG_RAY_NODE_NAME,
    TAG_RAY_NODE_STATUS,
    TAG_RAY_USER_NODE_TYPE,
)

from cluster import slurm_client
from cluster.errors import ClusterError, SlurmRefused
from cluster.job_scripts import script, worker_options
from cluster.state import REFUSED, WAITING, job_names, read_state, write_json

HEAD_TYPE = "head"
STILL_WORTH_S = 120.0
"""No worker is submitted for less than this: it would hardly start before the head's allocation ends."""

logger = logging.getLogger(__name__)


class SlurmNodeProvider(NodeProvider):
    """One Slurm job per worker; a node's id is its job id.

    Of provider_config it reads, beside the settings of the cluster YAML, `folder` (the cluster's) and `max_workers`.
    """

    def __init__(self, provider_config: dict[str, Any], cluster_name: str) -> None:
        super().__init__(provider_config, cluster_name)
        self._folder = Path(provider_config["folder"])
        self._max_workers = int(provider_config["max_workers"])
        self._launching = threading.Lock()
        self._known: dict[str, slurm_client.Job] = {}
        self._noted = ""

    def non_terminated_nodes(self, tag_filters: dict[str, str]) -> list[str]:
        """Ids of the head's job and of all workers' jobs that wait or run."""
        self._known = {job.id: job for job in slurm_client.jobs(job_names(self.cluster_name)) if not job.gone}
        self._note_waiting()
        wanted = tag_filters.items()
        return [id_ for id_, job in self._known.items() if wanted <= self._tags(job).items()]

    def is_running(self, node_id: str) -> bool:
        job = self._known.get(node_id)
        return job is not None and not job.waiting

    def is_terminated(self, node_id: str) -> bool:
        return node_id not in self._known

    def node_tags(self, node_id: str) -> dict[str, str]:
        job = self._known.get(node_id)
        return self._tags(job) if job else {}

    def internal_ip(self, node_id: str) -> str:
        """The host name, which every node of the cluster resolves."""
        job = self._known.get(node_id)
        return job.node if job else ""

    external_ip = internal_ip

    def set_node_tags(self, node_id: str, tags: dict[str, str]) -> None:
        """Nothing: tags are the job's comment, set when it is submitted."""

    def create_node_with_resources_and_labels(
        self,
        node_config: dict[str, Any],
        tags: dict[str, str],
        count: int,
        resources: dict[str, float],
        labels: dict[str, str],
    ) -> None:
        """Submit `count` jobs. Raises SlurmRefused, or ClusterError at max_workers and near the head's end."""
        try:
            for _ in range(count):
                with self._launching:  # Ray launches from several threads: count and submit in one
                    self._submit(node_config, tags, resources)
        except ClusterError as error:
            logger.error("no worker submitted: %s", error)
            write_json(self._folder / REFUSED, {"time": time.time(), "message": str(error)})
            raise

    def create_node(self, node_config: dict[str, Any], tags: dict[str, str], count: int) -> None:
        raise NotImplementedError("Ray's autoscaler v2 tells the resources: create_node_with_resources_and_labels")

    def terminate_node(self, node_id: str) -> None:
        self.terminate_nodes([node_id])

    def terminate_nodes(self, node_ids: list[str]) -> None:
        """Cancel jobs. Ray has drained those that ran trials before."""
        slurm_client.cancel(node_ids)

    def _note_waiting(self) -> None:
        """Keep what workers wait for where their sweep reads it: nobody asks Slurm's controller twice."""
        waiting = [job for job in self._known.values() if job.waiting and not self._is_head(job)]
        reasons = {job.waits_for: job for job in waiting if job.reason != "None"}  # not looked at yet
        message = "; ".join(f"job {job.id}: {reason}" for reason, job in sorted(reasons.items()))
        if message != self._noted:
            write_json(self._folder / WAITING, {"time": time.time(), "message": message})
            self._noted = message

    def _submit(self, node_config: dict[str, Any], tags: dict[str, str], resources: dict[str, float]) -> None:
        workers = [job for job in slurm_client.jobs(job_names(self.cluster_name)[1:]) if not job.gone]
        if len(workers) >= self._max_workers:
            raise SlurmRefused(f"{len(workers)} worker jobs are there, and max_workers is {self._max_workers}")
        state = read_state(self._folder)
        left_s = state.ends - time.time() if state else 0.0
        if left_s < STILL_WORTH_S:
            raise ClusterError(f"the head's allocation ends in {max(0.0, left_s):.0f} s: no further worker is started")
        kind, request = tags[TAG_RAY_USER_NODE_TYPE], tags.get(TAG_RAY_LAUNCH_REQUEST, "")
        gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
        options = worker_options(
            self.cluster_name,
            self._folder,
            self.provider_config,
            node_config,
            resources,
            time_s=left_s,
            tags={"type": kind, "request": request},
        )
        text = script(
            self._folder,
            "worker",
            self.provider_config.get("setup") or (),
            [f"type={kind}", f"cpus={cpus}", f"gpus={gpus}"],
        )
        job = slurm_client.submit(text, options)
        logger.info("submitted job %s for a node of type %s", job, kind)

    def _is_head(self, job: slurm_client.Job) -> bool:
        return job.name == job_names(self.cluster_name)[0]

    def _tags(self, job: slurm_client.Job) -> dict[str, str]:
        """Ray's tags of a job."""
        is_head = self._is_head(job)
        noted = job.tags()
        tags = {
            TAG_RAY_NODE_KIND: NODE_KIND_HEAD if is_head else NODE_KIND_WORKER,
            TAG_RAY_NODE_NAME: job.name,
            TAG_RAY_NODE_STATUS: STATUS_UP_TO_DATE,
            TAG_RAY_USER_NODE_TYPE: HEAD_TYPE if is_head else noted.get("type", ""),
        }
        return tags | ({TAG_RAY_LAUNCH_REQUEST: noted["request"]} if noted.get("request") else {})
