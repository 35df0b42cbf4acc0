"""The comparison of networks as a person types it: what its words compose, and all of it in tiny with a real Ray."""

from __future__ import annotations

from pathlib import Path

import pytest
from planned import settings_of
from sweeps import Place, states

from search_spaces import ClassCounts, get_family
from search_spaces.networks import NETWORKS
from trainables.settings import FOURTEEN_CLASSES
from tune_app.errors import InputError
from tune_app.results.sweep import Sweep
from tune_app.run import run
from tune_app.search.arms import planned_arms, searched_space, sizes, with_baseline
from tune_app.settings.command_line import compose
from tune_app.settings.schema import RunSettings, Settings
from tune_app.sweep.begin import planned

COUNTS = ClassCounts(FOURTEEN_CLASSES, (1,) * 14, (2,) * 14)


def arms_of(*words: str) -> tuple[Settings, list[str], str]:
    composed = compose("run", Settings, ["experiment=l40s_comparison", *words])
    assert composed is not None
    settings = planned(composed)
    space = searched_space(settings)
    arms, baseline = with_baseline(settings, planned_arms(settings, space), space, COUNTS, 1.0)
    assert len({arm.label for arm in arms}) == len(arms)
    sizes(settings, arms, space, COUNTS)  # raises where a section does not fit
    return settings, [arm.label for arm in arms], baseline


@pytest.mark.parametrize(
    ("words", "networks", "baseline"),
    [
        ([], NETWORKS, "unet_2d_bce"),
        (["models=2d"], NETWORKS[:4], "unet_2d_bce"),
        (["models=3d"], NETWORKS[4:], ""),
        (["models=3d", "model=vit_3d"], ["vit_3d"], ""),
        (["model=unet_2d"], ["unet_2d"], "unet_2d_bce"),
        (["scale=smoke"], NETWORKS, "unet_2d_bce"),
        (["scale=smoke", "models=2d"], NETWORKS[:4], "unet_2d_bce"),
    ],
)
def test_the_words_give_the_networks(words: list[str], networks: list[str], baseline: str) -> None:
    settings, labels, found = arms_of(*words)
    assert sorted(labels) == sorted(f"{n}_{loss}" for n in networks for loss in ("published", "bce", "dice_bce"))
    assert found == baseline
    assert settings.data.classes == list(FOURTEEN_CLASSES)


def test_a_network_brings_along_what_stands_in_its_file() -> None:
    sections = get_family("networks").trial({"network": "swin_3d", "loss": "bce"}, COUNTS)
    assert sections["loss"]["params"]["cross_entropy"] == 1.0
    assert (sections["trainer"]["batch_size"], sections["trainer"]["accumulate"]) == (8, 6)
    assert (sections["data"]["patch"], sections["resources"]) == ([32, 256, 256], {"gpus_per_trial": 4})
    fewer = get_family("networks").trial({"network": "swin_3d", "loss": "bce", "gpus_per_trial": 2}, COUNTS)
    assert fewer["resources"] == {"gpus_per_trial": 2}


def test_family_all_does_not_search_the_losses_of_the_comparison() -> None:
    options = searched_space(settings_of("family=all"))["family"].options
    assert "l40s_losses" not in options


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["resources.num_gpus=0"], r"has 0 GPUs, \d+ CPUs\. scale=smoke tries the experiment out"),
        (["resources.num_gpus=2", "resources.num_cpus=32"], r"=4 .*Ask for less: space\.gpus_per_trial=1; scale=smoke"),
        (["resources.num_gpus=4", "resources.num_cpus=32"], r"data\.root is empty.*generated data: scale=smoke"),
    ],
)
def test_a_machine_that_is_too_small_is_told_before_the_data_are_touched(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNE_APP_SETTINGS", "/dev/null")
    given = ["experiment=l40s_comparison", "data.root=", f"data.cache_dir={tmp_path}/cache", *words]
    composed = compose("run", RunSettings, [*given, f"results_dir={tmp_path}/results"])
    assert composed is not None
    with pytest.raises(InputError, match=said):
        run(composed)
    assert not list(tmp_path.iterdir())


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_whole_comparison_in_tiny(place: Place) -> None:
    words = ("experiment=l40s_comparison", "scale=smoke", "resources.num_cpus=2", "cluster.dashboard=false")
    said = place.run("run", *words, "name=smoke")
    sweep = Sweep(place.sweep("smoke"))
    assert len(states(sweep.folder)) == 24
    assert set(states(sweep.folder).values()) <= {"COMPLETE", "PRUNED"}
    assert {tuple(trial.config["data"]["patch"]) for trial in sweep.trials} >= {(1, 64, 64), (32, 32, 64)}
    known = [{name: row[f"support/{name}"] for name in FOURTEEN_CLASSES} for row in (t.best for t in sweep.trials)]
    assert all(one == known[0] for one in known), "slices and volumes see the same voxels"
    assert "unet_2d_bce (baseline)" in said
