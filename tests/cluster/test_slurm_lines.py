"""The lines for sbatch of cluster/slurm: a real Slurm takes them, and their nodes hold every trial of their sweep."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_site import CPU_TRIALS, ROOT, Site, slurm_site

from cluster import ray_yaml
from search_spaces import ClassCounts
from search_spaces.networks import NETWORKS
from trainables.settings import FOURTEEN_CLASSES
from tune_app.errors import InputError
from tune_app.ray_adapters.session import trial_resources
from tune_app.results.sweep import Sweep
from tune_app.search.arms import planned_arms, searched_space, sizes
from tune_app.settings.command_line import compose
from tune_app.settings.schema import Settings
from tune_app.sweep.begin import planned

SCRIPT = "cluster/slurm/sweep.sbatch"
README = (ROOT / "cluster" / "slurm" / "README.md").read_text()
LINES = [line.strip() for line in README.splitlines() if line.startswith("    sbatch")]
COUNTS = ClassCounts(FOURTEEN_CLASSES, (1,) * 14, (2,) * 14)


def split(line: str) -> tuple[list[str], list[str]]:
    """Options of sbatch, words of the sweep."""
    _, *words = shlex.split(line)
    return words[: words.index(SCRIPT)], words[words.index(SCRIPT) + 1 :]


def trials_of(*words: str) -> dict[str, Settings]:
    """{label: settings} of all that a sweep of these words trains."""
    composed = compose("run", Settings, words)
    assert composed is not None
    settings = planned(composed)
    space = searched_space(settings)
    arms = planned_arms(settings, space)
    return dict(zip([arm.label for arm in arms], sizes(settings, arms, space, COUNTS)))


@pytest.mark.parametrize("line", LINES)
def test_the_nodes_of_a_line_hold_each_of_its_trials(line: str) -> None:
    options, words = split(line)
    cards = next((option.rpartition(":")[2] for option in options if "--gres" in option), "2")
    nodes = [{"CPU": 16.0, "GPU": float(cards)}] * int(options[0].removeprefix("--nodes="))
    for label, trial in trials_of(*words).items():
        wanted = 4 if label.startswith("swin_3d") else 2
        placed = trial_resources(trial, nodes)
        assert (placed.gpus, placed.slots) == (wanted, len(nodes) * int(cards) // wanted), label


def test_there_is_a_line_for_all_for_each_kind_and_for_each_network() -> None:
    sweeps = [{"_".join(label.split("_")[:2]) for label in trials_of(*split(line)[1])} for line in LINES]
    assert sweeps == [{*NETWORKS}, {*NETWORKS[:4]}, {*NETWORKS[4:]}, *({name} for name in NETWORKS)]


@pytest.mark.parametrize(("cards", "holds_four"), [(2, False), (4, True)])
def test_the_cluster_that_grows_places_trials_of_two_and_of_four_cards(cards: int, holds_four: bool) -> None:
    config = ray_yaml.filled_in(
        ray_yaml.read(ray_yaml.DEFAULT), name="a", nodes=(0, 3), gpus_per_node=cards, idle_minutes=1, provider={}
    )
    (node,) = [node for node in config["available_node_types"].values() if node["max_workers"]]
    nodes = [node["resources"]] * node["max_workers"]
    trials = trials_of("experiment=l40s_comparison", "cluster=longleaf")
    assert trial_resources(trials["vit_2d_published"], nodes).slots == 3 * cards // 2
    if holds_four:
        assert trial_resources(trials["swin_3d_published"], nodes).slots == 3
    else:
        with pytest.raises(InputError, match="4 workers, all on one node"):
            trial_resources(trials["swin_3d_published"], nodes)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Iterator[Site]:
    """Nodes of four cards, and of as much as the lines ask for."""
    with slurm_site(tmp_path_factory.mktemp("large"), shared_cache, CARDS="4", CPUS="32", MEMORY="250000") as site:
        yield site


@pytest.mark.slurm
@pytest.mark.parametrize("line", LINES)
def test_slurm_takes_a_line(large: Site, line: str) -> None:
    options, words = split(line)
    said = large.login("sbatch", "--test-only", *options, str(ROOT / SCRIPT), *words)
    assert re.search(r"Job \d+ to start at", said)


@pytest.mark.slurm
@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_a_trial_of_four_cards_and_two_of_two_on_one_node(large: Site) -> None:
    sizes = ("--nodes=1", "--gres=gpu:l40s:4", "--cpus-per-task=8", "--mem=4000", f"--output={large.folder}/%j.log")
    words = (
        "family=seesaw",
        "search=random",
        "search.baseline=false",
        "scheduler.name=none",
        "trainer.epochs=3",
        *CPU_TRIALS,
    )
    for name, gpus, trials in (("four", 4, 1), ("two", 2, 2)):
        own = (f"name={name}", f"resources.gpus_per_trial={gpus}", f"search.num_samples={trials}")
        large.login("sbatch", *sizes, str(ROOT / SCRIPT), *words, *own)
    large.until(lambda: large.jobs() == [], "the sweeps", 600)
    for name, trials in (("four", 1), ("two", 2)):
        sweep = Sweep(large.folder / "results" / name)
        assert sweep.status == "finished", large.told()
        assert [trial.epochs for trial in sweep.trials] == [3] * trials
