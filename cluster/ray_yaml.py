"""Cluster YAML files: read, validated by Ray itself, filled in from the command line."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from cluster.errors import ClusterInputError

DEFAULT = Path(__file__).with_name("longleaf-l40s.yaml")
PROVIDER_KEYS = {
    "type",
    "module",
    "disable_node_updaters",
    "use_internal_ips",
    "partition",
    "qos",
    "account",
    "hours",
    "login_host",
    "head",
    "setup",
    "sbatch_options",
}
HEAD_KEYS = {"partition", "qos", "cpus", "memory_gb"}
NODE_KEYS = {"gres", "memory_gb", "partition", "qos", "sbatch_options"}


def read(path: Path) -> dict[str, Any]:
    """A Slurm cluster YAML, checked by Ray's validator and for keys that the node provider does not know.

    Raises ClusterInputError with the file's name and what is wrong.
    """
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ClusterInputError(f"config={path}: there is no such file. Leave config= out for {DEFAULT.name}") from None
    except OSError as error:
        raise ClusterInputError(f"config={path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ClusterInputError(f"config={path}: no valid YAML ({str(error).splitlines()[0]})") from None
    if not isinstance(config, dict) or "provider" not in config:
        raise ClusterInputError(
            f"config={path}: no cluster YAML: provider is missing. Begin with a copy of {DEFAULT.name}"
        )
    validate(config, path)
    provider = config["provider"]
    if provider.get("type") != "external":
        raise ClusterInputError(
            f"config={path}: provider.type={provider.get('type')} is not started by Slurm. For machines "
            f"reached by ssh: ray up {path}"
        )
    _refuse_unknown(path, "provider", provider, PROVIDER_KEYS)
    _refuse_unknown(path, "provider.head", provider.get("head") or {}, HEAD_KEYS)
    for name, node in config["available_node_types"].items():
        _refuse_unknown(path, f"available_node_types.{name}.node_config", node.get("node_config") or {}, NODE_KEYS)
    return dict(config)


def validate(config: Any, path: Path) -> None:
    """Ray's own validator. Raises ClusterInputError with its first sentence."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    # Ray warns of two empty fields that its own defaults bring.
    logging.getLogger("ray.autoscaler._private.util").setLevel(logging.ERROR)
    try:
        validate_config(prepare_config(copy.deepcopy(config)))
    except Exception as error:  # jsonschema's, Ray's, or whatever a missing section makes of the code in between
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ClusterInputError(f"config={path}: Ray does not accept this cluster YAML: {first}") from None


def filled_in(
    config: Mapping[str, Any],
    *,
    name: str,
    nodes: tuple[int, int],
    gpus_per_node: int,
    idle_minutes: float | None,
    provider: Mapping[str, Any],
    head_partition: str = "",
) -> dict[str, Any]:
    """The YAML as one cluster uses it: MIN to MAX nodes of the type with so many cards, none of the others.

    provider: settings that replace those of the file. Raises ClusterInputError where no node type has so many cards.
    """
    filled = copy.deepcopy(dict(config))
    kinds = filled["available_node_types"]
    cards = {kind: int(node["resources"].get("GPU", 0)) for kind, node in kinds.items()}
    workers = [kind for kind in kinds if kind != filled["head_node_type"]]
    chosen = next((kind for kind in workers if cards[kind] == gpus_per_node), None)
    if chosen is None:
        choices = ", ".join(f"{cards[kind]} ({kind})" for kind in workers)
        raise ClusterInputError(
            f"gpus_per_node={gpus_per_node}: no node type of the cluster YAML has so many. {choices}"
        )
    for kind in workers:
        kinds[kind]["min_workers"], kinds[kind]["max_workers"] = nodes if kind == chosen else (0, 0)
    filled |= {"cluster_name": name, "max_workers": nodes[1]}
    if idle_minutes is not None:
        filled["idle_timeout_minutes"] = idle_minutes
    filled["provider"] = {**filled["provider"], **provider}
    if head_partition:
        filled["provider"]["head"] = {**(filled["provider"].get("head") or {}), "partition": head_partition}
    return filled


def _refuse_unknown(path: Path, where: str, given: Mapping[str, Any], known: set[str]) -> None:
    unknown = sorted(set(given) - known)
    if unknown:
        raise ClusterInputError(
            f"config={path}: {where}.{unknown[0]} is no setting of a Slurm cluster. Choices: {', '.join(sorted(known))}"
        )
