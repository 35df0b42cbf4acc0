"""Tell the cluster's clients which nodes the autoscaler may bring:  python -m cluster.promise ADDRESS AUTOSCALING_YAML

Ray has a place for that (`state.get_cluster_config`), which its own autoscaler leaves empty outside of Kubernetes. From
it a sweep learns, before any worker is there, how many trials to ask for and which could never fit.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml


def cluster_config(config: Mapping[str, Any]) -> Any:
    """The node types of a cluster YAML that may be started, with their resources and numbers, as Ray's message."""
    from ray.core.generated.autoscaler_pb2 import ClusterConfig, NodeGroupConfig

    groups = [
        NodeGroupConfig(
            name=name,
            resources={key: int(amount) for key, amount in node["resources"].items()},
            min_count=node.get("min_workers", 0),
            max_count=node["max_workers"],
        )
        for name, node in config["available_node_types"].items()
        if node.get("max_workers")
    ]
    return ClusterConfig(node_group_configs=groups)


def tell(address: str, path: Path) -> None:
    """Write the cluster configuration where Ray's clients look for it."""
    from ray import _raylet  # compiled: no type checker sees its constants

    names: Any = _raylet
    gcs = names.GcsClient(address=address)
    gcs.internal_kv_put(
        names.GCS_AUTOSCALER_CLUSTER_CONFIG_KEY.encode(),
        cluster_config(yaml.safe_load(path.read_text())).SerializeToString(),
        True,
        namespace=names.GCS_AUTOSCALER_STATE_NAMESPACE.encode(),
    )


if __name__ == "__main__":
    tell(sys.argv[1], Path(sys.argv[2]))
