"""experiment=oct: what it composes, and what of a point stays beside the options of the network."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainables.errors import SettingsError
from tune_app.settings.command_line import compose
from tune_app.settings.schema import Settings, laid_over
from tune_app.sweep.announce import _warnings
from tune_app.sweep.prepare import prepare


def composed(*words: str) -> Settings:
    return compose("run", Settings, ["experiment=oct", *words]).settings


def test_the_experiment_is_the_task_the_family_and_a_bound_on_the_recall_of_every_class() -> None:
    settings = composed()
    assert (settings.task.name, settings.family, settings.order.metric) == (
        "classification",
        "one_class_collapse",
        "balanced_accuracy",
    )
    assert settings.order.misses({"balanced_accuracy": 0.5, "min_recall": 0.0})["min_recall ≥ 1e-06"] > 0
    assert composed("family=all").family == "one_class_collapse"


def test_a_point_changes_of_the_networks_options_what_it_names() -> None:
    settings = composed("model.options.encoder=/folder")
    own = laid_over(settings, {"loss": {}, "model": {"options": {"head": "mlp"}}})
    assert own.model.options == {"encoder": "/folder", "head": "mlp"}
    other = laid_over(settings, {"loss": {}, "model": {"name": "unet", "options": {"norm": "instance"}}})
    assert other.model.options == {"norm": "instance"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_weights_beside_a_sampling_that_balances_are_warned_of(tmp_path: Path) -> None:
    def told(*words: str) -> list[str]:
        settings = composed(f"data.cache_dir={tmp_path}", "search.num_samples=5", *words)
        return [line for line in _warnings(prepare(settings, tmp_path / "sweep"), ()) if "class_aware" in line]

    assert told() == []
    assert "come out equal" in told("data.sampling=class_aware")[0]
    (line,) = told("data.sampling=class_aware", "frequencies=data")
    assert line.startswith("warning: data.sampling=class_aware already shows all classes alike, and 4 of")


def test_a_loss_for_one_label_is_refused_for_voxels_before_a_sweep_starts(tmp_path: Path) -> None:
    for words, said in (
        (
            ["preset=weight_uniform", "model=unet_3d_small", "trainer.warmup_steps=0"],
            "model.name=unet: has a label for each voxel",
        ),
        (["data.classes=[normal]"], "one class alone leaves nothing"),
        (["model.options.encoder=/nowhere"], "model.options.encoder=/nowhere: no such folder"),
    ):
        with pytest.raises(SettingsError, match=said):
            prepare(composed(f"data.cache_dir={tmp_path}", *words), tmp_path / "sweep")


@pytest.mark.parametrize(
    ("word", "said"), [("trainer.unfreeze_epoch=-2", r"must lie in \[-1"), ("data.gain=1", r"must lie in \[0, 1\)")]
)
def test_what_cannot_be_is_refused(word: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        composed(word)
