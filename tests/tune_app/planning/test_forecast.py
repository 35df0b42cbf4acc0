"""The plan as a whole: what it adds up to, how it reads, and what is kept of it."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
from planned import COUNTS, dataset_in_memory, settings_of

from tune_app.planning.epochs import Range
from tune_app.planning.forecast import Plan, duration, make_plan, planned_epochs, size
from tune_app.planning.pace import Pace
from tune_app.ray_adapters.session import TrialResources
from tune_app.search.arms import planned_arms, searched_space
from tune_app.settings.schema import laid_over
from tune_app.sweep.announce import record_plan
from tune_app.sweep.prepare import Prepared

CPU = TrialResources(cpus=1, gpus=0.0, slots=2)
HALF_CARDS = TrialResources(cpus=4, gpus=0.5, slots=4)
PACE = Pace(
    training_batch=Range(0.2, 0.1, 0.3), validation_batch=Range(0.5, 0.5, 0.5), source="sweep x, 9 epochs", start=10
)


@pytest.fixture(autouse=True)
def _no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNE_APP_CACHE", str(tmp_path / "cache"))


def plan_of(*words: str, pace: Pace | None = PACE, resources: TrialResources = CPU, trials: int = 12) -> Plan:
    return make_plan(settings_of(*words), resources, trials=trials, exempt=0, pace=pace)


def test_hours_are_epochs_times_seconds_times_devices() -> None:
    plan = plan_of("family=compare", trials=15, resources=HALF_CARDS)
    seconds = 20 * 0.2 + 6 * 0.5
    assert plan.seconds_per_epoch == Range(seconds, 5, 9)
    assert plan.device_hours is not None
    assert plan.device_hours.expected == pytest.approx(15 * 9 * seconds * 0.5 / 3600)
    assert plan.device == "GPU"
    assert plan.wall_hours is not None
    assert plan.wall_hours.expected == pytest.approx((4 * 9 * seconds + 10 + 3 * 1.0) / 3600), "four rounds"


def test_trials_of_other_sizes_cost_what_they_compute_and_take() -> None:
    settings = settings_of("family=compare", "trainer.batch_size=8", "trainer.validation_batches=6")
    twice = laid_over(settings, {"trainer": {"batch_size": 16}, "resources": {"cpus_per_trial": 3}})
    alone = make_plan(settings, CPU, trials=2, exempt=0, pace=PACE)
    assert make_plan(settings, CPU, trials=2, exempt=0, pace=PACE, sizes=[settings] * 2) == alone
    both = make_plan(settings, CPU, trials=2, exempt=0, pace=PACE, sizes=[settings, twice])
    one, other = 20 * 0.2 + 6 * 0.5, 2 * (20 * 0.2 + 3 * 0.5)
    assert both.seconds_per_epoch is not None
    assert both.device_hours is not None
    assert both.seconds_per_epoch.expected == pytest.approx((one + other) / 2)
    assert both.device_hours.expected == pytest.approx(9 * (one * 1 + other * 3) / 3600)
    assert both.memory_gb.expected > alone.memory_gb.expected


def test_early_stopping_shortens_it() -> None:
    search, listed = plan_of("family=seesaw"), plan_of("family=seesaw", "scheduler.name=none")
    assert search.rungs == (5,)
    assert listed.rungs == ()
    assert listed.epochs == Range(108, 108, 108)
    assert search.epochs.high <= 108
    assert search.device_hours is not None
    assert listed.device_hours is not None
    assert search.device_hours.expected < listed.device_hours.expected


def test_a_rung_that_may_come_to_count_makes_the_plan_less_sure_and_is_told() -> None:
    early, without = plan_of("family=seesaw", trials=60), plan_of("family=seesaw", "scheduler.early=false", trials=60)
    assert (early.early_rung, without.early_rung) == (2, 0)
    assert early.epochs.low < without.epochs.low
    assert (early.epochs.expected, early.epochs.high) == (without.epochs.expected, without.epochs.high)
    said = "and at epoch 2 once ranks there foretell those at epoch 5"
    assert sum(said in line for line in early.lines()) == 1
    assert not any(said in line for line in without.lines())
    few = plan_of("family=seesaw", trials=8)
    assert few.epochs == plan_of("family=seesaw", "scheduler.early=false", trials=8).epochs, "too few to prove anything"
    for words in (("scheduler.name=none",), ("scheduler.name=promote",), ("scheduler.grace_period=1",)):
        assert plan_of("family=seesaw", *words).early_rung == 0


def test_without_a_pace_it_says_how_to_get_one() -> None:
    plan = plan_of("family=seesaw", pace=None)
    assert plan.wall_hours is None
    assert "python -m tune_app.plan measure=true" in plan.line()
    assert any("measure=true" in line for line in plan.lines())


def test_one_line_holds_epochs_time_disk_and_memory() -> None:
    line = plan_of("family=seesaw").line()
    assert "\n" not in line
    for part in ("epochs", "minutes", "CPU-hours", "on disk", "of memory"):
        assert part in line
    assert plan_of("family=compare", trials=15).line().startswith("135 epochs,")


def test_the_plan_is_kept_as_strict_json() -> None:
    found = json.loads(json.dumps(plan_of("family=seesaw", pace=None).as_dict(), allow_nan=False))
    assert found["wall_hours"] is None
    assert found["cache_gb"] is None
    assert set(found["epochs"]) == {"expected", "low", "high"}


@pytest.mark.parametrize(
    ("hours", "text"), [(0.05, "3 minutes"), (1.0, "60 minutes"), (26.0, "26 hours"), (240.0, "10 days")]
)
def test_times_are_in_units_that_people_use(hours: float, text: str) -> None:
    assert duration(Range(hours, hours, hours)).startswith(text)


def test_sizes() -> None:
    assert (size(0.0154), size(4.94)) == ("15 MB", "4.9 GB")
    assert math.isfinite(plan_of("family=seesaw").memory_gb.expected)


def prepared_in(folder: Path, **more: object) -> Prepared:
    settings = dataclasses.replace(settings_of("family=seesaw"), results_dir=str(folder.parent))
    space = searched_space(settings)
    folder.mkdir(exist_ok=True)
    return Prepared(
        settings=settings,
        folder=folder,
        dataset=dataset_in_memory(settings.data),
        counts=COUNTS,
        window_voxels=1e6,
        arms=planned_arms(settings, space),
        space=space,
        baseline="weight_uniform",
        **more,
    )


def test_a_sweep_keeps_its_first_plan_and_an_extended_one_gets_another(tmp_path: Path) -> None:
    path = tmp_path / "a" / "plan.json"
    line = record_plan(prepared_in(tmp_path / "a"), CPU)
    assert "epochs" in line
    first = json.loads(path.read_text())
    assert first["trials"] == 12
    assert planned_epochs(path.parent) == first["epochs"]["expected"] / 12
    path.write_text("{}")
    assert math.isnan(planned_epochs(path.parent))
    record_plan(prepared_in(tmp_path / "a", resumed=True), CPU)
    assert path.read_text() == "{}"
    record_plan(prepared_in(tmp_path / "a", resumed=True, extended=True), CPU)
    assert json.loads(path.read_text()) == first
