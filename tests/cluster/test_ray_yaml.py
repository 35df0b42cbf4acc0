"""The project's cluster YAML files, as Ray's own validator sees them."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster import ray_yaml
from cluster.errors import ClusterInputError
from cluster.promise import cluster_config

FILES = sorted(ray_yaml.DEFAULT.parent.glob("*.yaml"))


def test_there_are_two() -> None:
    assert [path.name for path in FILES] == ["l40s.yaml", "longleaf-l40s.yaml"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_ray_accepts_the_files_and_no_others(path: Path) -> None:
    config = yaml.safe_load(path.read_text())
    ray_yaml.validate(config, path)
    with pytest.raises(ClusterInputError, match="Ray does not accept"):
        ray_yaml.validate({**config, "number_of_nodes": 3}, path)
    with pytest.raises(ClusterInputError, match="Ray does not accept"):
        ray_yaml.validate({key: value for key, value in config.items() if key != "provider"}, path)


def filled(nodes: tuple[int, int] = (0, 2), gpus: int = 2, **changes: Any) -> dict[str, Any]:
    given = {"name": "mine", "idle_minutes": None, "provider": {}} | changes
    return ray_yaml.filled_in(ray_yaml.read(ray_yaml.DEFAULT), nodes=nodes, gpus_per_node=gpus, **given)


@pytest.mark.parametrize("gpus", [2, 4])
def test_one_node_type_is_used_and_ray_accepts_the_result(gpus: int) -> None:
    config = filled((1, 3), gpus, idle_minutes=0.5, provider={"qos": "fast"}, head_partition="cpu")
    ray_yaml.validate(config, Path("x"))
    kinds = config["available_node_types"]
    assert {kind: (node["min_workers"], node["max_workers"]) for kind, node in kinds.items()} == {
        "head": (0, 0),
        f"l40s_{gpus}gpu": (1, 3),
        f"l40s_{6 - gpus}gpu": (0, 0),
    }
    assert kinds[f"l40s_{gpus}gpu"]["node_config"]["gres"] == f"gpu:l40s:{gpus}"
    assert kinds[f"l40s_{gpus}gpu"]["resources"]["GPU"] == gpus
    assert (config["max_workers"], config["cluster_name"], config["idle_timeout_minutes"]) == (3, "mine", 0.5)
    assert (config["provider"]["qos"], config["provider"]["head"]["partition"]) == ("fast", "cpu")


def test_more_cards_than_any_node_type_has() -> None:
    with pytest.raises(ClusterInputError, match=r"gpus_per_node=8: .*2 \(l40s_2gpu\), 4 \(l40s_4gpu\)"):
        filled(gpus=8)


def written(folder: Path, change: Any) -> Path:
    config = yaml.safe_load(ray_yaml.DEFAULT.read_text())
    change(config)
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: config["provider"].update(partitions="x"), r"provider\.partitions is no setting"),
        (lambda config: config["provider"]["head"].update(gpus=1), r"provider\.head\.gpus is no setting"),
        (
            lambda config: config["available_node_types"]["l40s_2gpu"]["node_config"].update(ram=1),
            r"l40s_2gpu\.node_config\.ram is no setting",
        ),
        (lambda config: config.update(head_node_type="l80"), "Ray does not accept.*head_node_type"),
        (lambda config: config["provider"].update(type="aws"), "Ray does not accept|not started by Slurm"),
    ],
)
def test_what_nobody_would_read_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    with pytest.raises(ClusterInputError, match=message):
        ray_yaml.read(written(tmp_path, change))


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ClusterInputError, match="there is no such file"):
        ray_yaml.read(tmp_path / "none.yaml")
    with pytest.raises(ClusterInputError, match="cannot be read"):
        ray_yaml.read(tmp_path)
    for content in (b"a: [", b"a: \xff", b"[" * 1500):
        (tmp_path / "bad.yaml").write_bytes(content)
        with pytest.raises(ClusterInputError, match="no valid YAML"):
            ray_yaml.read(tmp_path / "bad.yaml")
    for text in ("x: 1", "[]", "7", ""):
        (tmp_path / "other.yaml").write_text(text)
        with pytest.raises(ClusterInputError, match="no cluster YAML: provider is missing"):
            ray_yaml.read(tmp_path / "other.yaml")


def test_the_local_file_belongs_to_ray_up() -> None:
    with pytest.raises(ClusterInputError, match="ray up"):
        ray_yaml.read(ray_yaml.DEFAULT.with_name("l40s.yaml"))


def test_filling_in_leaves_what_was_read_alone() -> None:
    config = ray_yaml.read(ray_yaml.DEFAULT)
    before = copy.deepcopy(config)
    for nodes, gpus in itertools.product([(0, 1), (2, 2)], [2, 4]):
        ray_yaml.filled_in(config, name="x", nodes=nodes, gpus_per_node=gpus, idle_minutes=1, provider={"qos": "q"})
    assert config == before


def test_a_sweep_learns_which_nodes_may_come() -> None:
    (group,) = cluster_config(filled((0, 3), 4)).node_group_configs
    assert (group.name, dict(group.resources), group.max_count) == ("l40s_4gpu", {"CPU": 32, "GPU": 4}, 3)
