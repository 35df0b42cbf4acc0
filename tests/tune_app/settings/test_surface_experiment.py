"""experiment=surface: its attempts as trials, on generated sheets."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from planned import settings_of

from search_spaces import ClassCounts, get_family, trial_of
from trainables.engine import Engine
from trainables.errors import SettingsError
from trainables.settings import TrialSettings
from tune_app.search.arms import planned_arms, sizes
from tune_app.settings.fitting import of_trial

COUNTS = ClassCounts(classes=("surface",), positive=(5.0,), known=(100.0,))
PRESETS = get_family("surface").presets


def test_every_attempt_is_a_trial_of_the_experiment_and_comes_as_early_as_it_is_short() -> None:
    compared = settings_of("experiment=surface", "family=compare")
    arms = planned_arms(compared, {})
    assert [arm.preset for arm in arms] == list(PRESETS)
    trainers = {arm.preset: own.trainer for arm, own in zip(arms, sizes(compared, arms, {}, COUNTS), strict=True)}
    first = trainers["surface_v1"]
    assert first.epochs_here(first.swa_from) == round(40 * first.epochs / 100)
    assert trainers["surface_conservative"].batch_size == 12


def test_an_experiment_without_maps_is_refused_before_it_starts() -> None:
    bare = settings_of("experiment=surface", "family=compare", "data.maps=false")
    with pytest.raises(SettingsError, match=r"data\.maps=False: .*boundary_band"):
        sizes(bare, planned_arms(bare, {}), {}, COUNTS)


@pytest.mark.parametrize("preset", ["surface_v1", "surface_curriculum"])
def test_an_attempt_trains_on_generated_sheets(preset: str, tmp_path: Path) -> None:
    settings = settings_of("experiment=surface", f"data.cache_dir={tmp_path}", "trainer.epochs=2")
    trial = trial_of("surface", PRESETS[preset], COUNTS)
    own = of_trial(settings, trial)
    trainer = replace(own.trainer, iterations_per_epoch=2, validation_batches=2)
    sections = {name: getattr(own, name) for name in ("data", "model", "hardware", "task")}
    engine = Engine(TrialSettings(**sections, trainer=trainer, objective=asdict(own.objective)), trial["loss"], 0)
    rows = [engine.run_epoch() for _ in range(2)]
    for name in ("loss", "val_loss", "calibrated_f1", "surface_dice", "term/dice", "term/variance_published"):
        assert all(math.isfinite(row[name]) for row in rows), name
    if preset == "surface_curriculum":
        assert rows[0]["loss"] == pytest.approx(rows[0]["term/dice"], rel=1e-4)
        assert rows[1]["loss"] != pytest.approx(rows[1]["term/dice"], rel=1e-3)
