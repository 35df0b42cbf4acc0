"""What a person types to plan: the settings of run, a number of cards, bad input, a measurement."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tune_app import plan as plan_module
from tune_app.plan import PlanSettings, count_trials, plan, plan_and_print
from tune_app.ray_adapters.session import this_machine
from tune_app.search.arms import searched_space
from tune_app.settings.command_line import Composed, compose
from tune_app.settings.schema import Settings
from tune_app.sweep.begin import planned


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUNE_APP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TUNE_APP_SETTINGS", "/dev/null")
    monkeypatch.setenv("TUNE_APP_RESULTS", str(tmp_path / "results"))


def composed_of(*words: str) -> Composed[PlanSettings]:
    found = compose("plan", PlanSettings, words)
    assert found is not None
    return found


def test_cards_decide_how_many_trials_run_at_once() -> None:
    words = ["family=compare", "experiment=class_weighting", "data=cellmap", "hardware=rtx3090"]
    two, four = (plan(composed_of(*words, f"gpus={cards}")) for cards in (2, 4))
    assert (two.trials, two.slots, two.gpus, two.cpus) == (15, 4, 0.5, 4)
    assert four.slots == 8
    assert two.epochs.expected == 900
    assert two.device == "GPU"


def test_a_network_alone_is_planned_with_what_it_brings_along() -> None:
    machine = ("hardware=l40s", "gpus=4", "resources.num_cpus=32")
    alone, one = (plan(composed_of(*words, *machine)) for words in (["preset=vit_2d_bce"], ["model=vit_2d"]))
    assert (alone.gpus, alone.cpus, alone.slots) == (2, 4, 2)
    assert alone.gpu_memory_gb == pytest.approx(one.gpu_memory_gb)
    assert alone.gpu_room_gb == one.gpu_room_gb == pytest.approx(0.9 * 45)


@pytest.mark.parametrize(
    ("words", "trials", "exempt"),
    [
        (["family=seesaw"], 12, 1),
        (["family=seesaw", "search.baseline=false"], 12, 0),
        (["family=all", "search.num_samples=40", "scheduler.name=none"], 40, 0),
        (["family=compare", "seeds=3"], 45, 0),
        (["preset=seesaw_default", "seeds=2"], 2, 0),
        (["preset=seesaw_default", "seeds=2", "search.baseline=true"], 4, 0),
        (["family=seesaw", "search=grid", "search.grid_points=2"], 8, 1),
        (["family=tversky", "search=grid", "search.grid_points=3"], 5, 1),
    ],
)
def test_trials_are_counted_as_run_would(words: list[str], trials: int, exempt: int) -> None:
    settings = planned(composed_of(*words).bare(Settings))
    assert count_trials(settings, searched_space(settings))[:2] == (trials, exempt)


def test_the_machine_that_is_planned_for() -> None:
    settings = composed_of("resources.num_cpus=7", "resources.num_gpus=3").settings
    assert this_machine(settings, -1) == {"CPU": 7.0, "GPU": 3.0}
    assert this_machine(settings, 0) == {"CPU": 7.0, "GPU": 0.0}


def test_it_prints_a_plan_and_leaves_nothing_behind(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert plan_and_print(composed_of("family=seesaw", "resources.num_cpus=2", "gpus=0")).code == 0
    out = capsys.readouterr().out
    for word in ("trials     12, 2 at once", "epochs", "unknown: no earlier sweep", "disk", "memory"):
        assert word in out
    assert list(tmp_path.iterdir()) == []
    assert "ray.tune" not in sys.modules or "ray" in sys.modules


BAD = {
    "negative": (["gpus=-2"], "gpus=-2"),
    "resume": (["resume=latest"], "a plan is made for a new sweep"),
    "unknown family": (["family=bogus"], "family=bogus"),
    "unknown key": (["bogus=1"], "bogus: there is no such setting"),
    "too few CPUs": (["resources.num_cpus=1", "resources.cpus_per_trial=4", "gpus=0"], "no node can hold such a trial"),
    "too few cards for one network": (
        ["family=networks", "space.network=[unet_2d,swin_3d]", "gpus=2", "resources.num_cpus=32"],
        "no node can hold such a trial; the largest has 2 GPUs, 32 CPUs. Ask for less: space.gpus_per_trial=1",
    ),
    "a card too small for a single patch": (
        ["family=seesaw", "hardware=rtx3090", "hardware.device_memory_gb=0.001", "gpus=1", "resources.num_cpus=8"],
        "on a single patch needs about",
    ),
    "no card to measure on": (["gpus=2", "measure=true"], "no GPU to measure on"),
}


@pytest.mark.parametrize(("words", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_one_sentence_and_exit_code_2(
    words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("tune_app.planning.measure.gpu_names", list)
    monkeypatch.setattr(sys, "argv", ["plan", *words])
    with pytest.raises(SystemExit, match="2"):
        plan_module.main()
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_measuring_trains_a_few_steps(shared_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNE_APP_CACHE", str(shared_cache))
    tiny = [
        "model.width=4",
        "model.depth=2",
        "trainer.batch_size=4",
        "trainer.validation_batches=2",
        "data.patch=[1,32,32]",
        "resources.num_cpus=2",
        "trainer.compile=false",
        "gpus=0",
    ]
    found = plan(composed_of("family=seesaw", "measure=true", *tiny))
    assert found.seconds_per_epoch is not None
    assert found.wall_hours is not None
    assert 0 < found.seconds_per_epoch.low < found.seconds_per_epoch.expected < found.seconds_per_epoch.high
    assert found.basis.startswith("measured now")
    later = plan(composed_of("family=seesaw", "trainer.epochs=3", *tiny))
    assert later.basis.startswith("measured on "), "remembered"
    assert later.seconds_per_epoch == found.seconds_per_epoch
    assert 0.1 < found.memory_gb.expected < 10
