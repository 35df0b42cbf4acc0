"""ASHA across models: at equal epochs within a model, as ever, and at equal device-seconds between models.

Trials are driven by a formula and by made-up seconds; `race` is the example of docs/cost.md.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from planned import COUNTS, settings_of
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from trainables.objective import Objective
from tune_app.search.arms import planned_arms, searched_space, sizes, with_baseline
from tune_app.search.scheduler import Cost, ResumableAsha, trial_name
from tune_app.settings.schema import compares_device_seconds, model_of
from tune_app.settings.stored import stored_settings

DICE = Objective(metric="mean_dice")
EPOCHS = 16
STOP = TrialScheduler.STOP


def config_of(model: str, devices: float = 1.0) -> dict[str, Any]:
    return {"model": {"name": model}, "resources": {"gpus_per_trial": devices}}


def trial_of(name: str, model: str, devices: float = 1.0) -> Any:
    return SimpleNamespace(config={"run": {"name": name}, **config_of(model, devices)}, status=Trial.RUNNING)


def cost_of(model: str, devices: float = 1.0) -> Cost:
    return Cost(model_of(config_of(model)), devices)


def row(epoch: int, dice: float, seconds: float, compiling: float = 0.0) -> dict[str, Any]:
    return {"epoch": epoch, "mean_dice": dice, "seconds_epoch": seconds + compiling, "seconds_compile": compiling}


def asha(*, by_cost: bool = True, eta: float = 4.0, grace: int = 1, **more: Any) -> ResumableAsha:
    costs: Mapping[str, Cost] | None = more.pop("costs", {}) if by_cost else None
    return ResumableAsha(
        objective=DICE, max_epochs=EPOCHS, grace_period=grace, reduction_factor=eta, costs=costs, **more
    )


SECONDS = {"small": 10.0, "large": 40.0}
"""Of an epoch of each model in the example."""


def rising(top: float, epochs: float) -> Callable[[int], float]:
    """Dice after an epoch: on the way to `top`, of which a share 1 − 1/e is there after `epochs`."""
    return lambda epoch: top * (1 - math.exp(-epoch / epochs))


Contestants = Mapping[str, tuple[str, Callable[[int], float]]]
"""{name: (model, Dice after an epoch)}."""


def contestants(small: float, large: float, large_epochs: float) -> Contestants:
    """Two trials of each model, the second a tenth worse."""
    tops = {"small_a": small, "small_b": 0.9 * small, "large_a": large, "large_b": 0.9 * large}
    return {
        name: (name[:5], rising(top, 3 if name.startswith("small") else large_epochs)) for name, top in tops.items()
    }


LARGE_IS_GOOD = contestants(0.50, 0.80, 1.5)
LARGE_IS_POOR = contestants(0.70, 0.60, 1.5)
LARGE_IS_LATE = contestants(0.50, 0.80, 3)


def race(scheduler: ResumableAsha, contestants: Contestants) -> dict[str, int]:
    """All begin at once, each on a GPU of its own; {name: its last epoch}."""
    clock = [(SECONDS[model], name, 1) for name, (model, _) in contestants.items()]
    heapq.heapify(clock)
    last = {}
    while clock:
        now, name, epoch = heapq.heappop(clock)
        model, dice = contestants[name]
        trial, last[name] = trial_of(name, model), epoch
        result = row(epoch, dice(epoch), SECONDS[model])
        if epoch == EPOCHS or scheduler.on_trial_result(None, trial, result) == STOP:
            scheduler.on_trial_complete(None, trial, result)
        else:
            heapq.heappush(clock, (now + SECONDS[model], name, epoch + 1))
    return last


def spent(last: Mapping[str, int], contestants: Contestants) -> float:
    return sum(epochs * SECONDS[contestants[name][0]] for name, epochs in last.items())


def told(what: str, contestants: Contestants, *, grace: int = 1) -> list[str]:
    """The two lines of the table in docs/cost.md."""
    lines = []
    for compare in ("epochs", "device_seconds"):
        last = race(asha(by_cost=compare == "device_seconds", grace=grace), contestants)
        ends = " | ".join(str(last[name]) for name in contestants)
        lines.append(f"| {what} | `{compare}` | {ends} | {spent(last, contestants):.0f} |")
    return lines


def test_the_page_shows_what_the_example_gives() -> None:
    page = (Path(__file__).parents[3] / "docs" / "cost.md").read_text()
    lines = [
        *told("large is better", LARGE_IS_GOOD),
        *told("large is worse", LARGE_IS_POOR),
        *told("large is better, but late", LARGE_IS_LATE),
        *told("the same, `grace_period=3`", LARGE_IS_LATE, grace=3),
    ]
    assert "\n".join(lines) in page, "\n".join(lines)
    small, large = LARGE_IS_POOR["small_a"][1], LARGE_IS_POOR["large_a"][1]
    assert f"{large(1):.2f} after its first epoch" in page
    assert f"{small(1):.2f} after its own" in page
    assert f"{small(4):.2f} by then" in page


def test_a_slow_model_goes_on_where_it_has_more_for_its_seconds_and_stops_where_it_has_less() -> None:
    good, poor = (race(asha(), one) for one in (LARGE_IS_GOOD, LARGE_IS_POOR))
    assert (good["large_a"], good["small_a"]) == (EPOCHS, 4)
    assert (poor["small_a"], poor["large_a"]) == (EPOCHS, 2)


def test_the_grace_period_holds_for_every_trial() -> None:
    for example in (LARGE_IS_GOOD, LARGE_IS_POOR, LARGE_IS_LATE):
        assert min(race(asha(grace=3), example).values()) == 3


MODELS = {"a": 10.0, "b": 25.0, "c": 90.0}


def play(seed: int, scheduler: Any, *, models: Mapping[str, float] = MODELS, trials: int = 24) -> list[tuple[Any, str]]:
    """Random curves of several models in a random order of arrival; [(trial, row, decision)]."""
    rng = np.random.default_rng(seed)
    levels, kinds = rng.uniform(0, 1, trials).round(2), rng.choice(list(models), trials)
    running, waiting, events = {}, list(range(trials)), []
    while waiting or running:
        while waiting and len(running) < 4:
            running[waiting.pop(0)] = 0
        number = int(rng.choice(sorted(running)))
        running[number] += 1
        kind = str(kinds[number])
        seconds = models[kind] * rng.uniform(0.9, 1.1)
        trial = trial_of(f"{number:04d}", kind)
        result = row(
            running[number], float(np.round(levels[number] + rng.normal(0, 0.1), 2)), seconds, rng.uniform(0, 50)
        )
        decision = scheduler.on_trial_result(None, trial, result) if result["epoch"] < EPOCHS else STOP
        events.append(((trial, result), decision))
        if decision == STOP:
            scheduler.on_trial_complete(None, trial, result)
            del running[number]
    return events


def curves_of(events: list[tuple[Any, str]]) -> tuple[dict[str, list[dict[str, Any]]], dict[str, Cost]]:
    curves: dict[str, list[dict[str, Any]]] = {}
    costs = {}
    for (trial, result), _ in events:
        curves.setdefault(trial_name(trial), []).append(result)
        costs[trial_name(trial)] = cost_of(trial.config["model"]["name"])
    return curves, costs


@pytest.mark.parametrize("seed", range(5))
def test_one_model_alone_is_judged_as_at_epochs(seed: int) -> None:
    alone = {"a": 10.0}
    assert play(seed, asha(), models=alone) == play(seed, asha(by_cost=False), models=alone)


@pytest.mark.parametrize("seed", range(5))
def test_within_a_model_rungs_and_stops_are_those_of_a_sweep_of_its_own(seed: int) -> None:
    """Where nothing is known of seconds, no model is compared with another: each is as a sweep by itself."""
    together = asha()
    apart = {model: asha(by_cost=False) for model in MODELS}

    def deaf(trial: Any, result: dict[str, Any]) -> str:
        del result["seconds_epoch"]
        decision = together.on_trial_result(None, trial, result)
        assert decision == apart[trial.config["model"]["name"]].on_trial_result(None, trial, result)
        return decision

    relay = SimpleNamespace(on_trial_result=lambda _, *told: deaf(*told), on_trial_complete=lambda *_: None)
    stops = [one for one in play(seed, relay) if one[1] == STOP and one[0][1]["epoch"] < EPOCHS]
    assert stops


@pytest.mark.parametrize("seed", range(5))
def test_decisions_follow_from_the_curves_by_the_rule_on_the_page(seed: int) -> None:
    """Against the rule written out over whole curves: nothing in order, nothing kept from one row to the next."""
    eta, rungs = 4.0, (1, 4)
    curves: dict[str, list[dict[str, Any]]] = {}
    costs: dict[str, str] = {}
    scheduler, decided = asha(eta=eta), {True: 0, False: 0}

    def best_within(name: str, seconds: float) -> float | None:
        own = curves[name]
        clock = np.cumsum([r["seconds_epoch"] - r["seconds_compile"] for r in own])
        if clock[0] > seconds or (clock[-1] < seconds and own[-1]["epoch"] < EPOCHS):
            return None
        return max(r["mean_dice"] for r, at in zip(own, clock) if at <= seconds)

    def is_poor(name: str) -> bool:
        own, rung = curves[name], max(r for r in rungs if r <= len(curves[name]))
        value = own[rung - 1]["mean_dice"]
        alike = [curves[n] for n in curves if n != name and costs[n] == costs[name] and len(curves[n]) >= rung]
        if alike and value < np.quantile([c[rung - 1]["mean_dice"] for c in alike], 1 - 1 / eta) - 1e-12:
            return True
        spent = sum(r["seconds_epoch"] - r["seconds_compile"] for r in own[:rung])
        others = [best_within(n, spent) for n in curves if costs[n] != costs[name]]
        found = [one for one in others if one is not None]
        found += [max(r["mean_dice"] for r in c[:rung]) for c in alike] if found else []
        best = max(r["mean_dice"] for r in own[:rung])
        return bool(found) and best < np.quantile(found, 1 - 1 / eta) - 1e-12

    def checked(trial: Any, result: dict[str, Any]) -> str:
        name = trial_name(trial)
        curves.setdefault(name, []).append(result)
        costs[name] = trial.config["model"]["name"]
        decision = scheduler.on_trial_result(None, trial, result)
        assert (decision == STOP) == is_poor(name)
        decided[decision == STOP] += 1
        return decision

    def complete(_: Any, trial: Any, result: dict[str, Any]) -> None:
        if len(curves[trial_name(trial)]) < result["epoch"]:
            curves[trial_name(trial)].append(result)
        scheduler.on_trial_complete(None, trial, result)

    play(seed, SimpleNamespace(on_trial_result=lambda _, *told: checked(*told), on_trial_complete=complete))
    assert min(decided.values()) > 8


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("share", [0.3, 0.7])
def test_a_restarted_scheduler_decides_as_an_uninterrupted_one(seed: int, share: float) -> None:
    events = play(seed, asha())
    cut = int(share * len(events))
    curves, costs = curves_of(events[:cut])
    restarted = asha(curves=curves, costs=costs)
    for (trial, result), decision in events[cut:]:
        if result["epoch"] < EPOCHS:
            assert restarted.on_trial_result(None, trial, result) == decision
        restarted.on_trial_complete(None, trial, result)


@pytest.mark.parametrize("seed", range(3))
def test_the_baseline_is_neither_stopped_nor_compared_with(seed: int) -> None:
    events = play(seed, asha())
    scheduler, baseline = asha(baseline="untuned"), trial_of("9999_untuned", "other")
    for epoch, ((trial, result), decision) in enumerate(events, start=1):
        kept = scheduler.on_trial_result(None, baseline, row(epoch, 1.0 - epoch % 2, 5.0))
        assert kept == TrialScheduler.CONTINUE
        if result["epoch"] < EPOCHS:
            assert scheduler.on_trial_result(None, trial, result) == decision
        scheduler.on_trial_complete(None, trial, result)


def judged(scheduler: ResumableAsha, name: str, model: str, result: dict[str, Any], devices: float = 1.0) -> str:
    return scheduler.on_trial_result(None, trial_of(name, model, devices), result)


@pytest.mark.parametrize(
    ("devices", "compiling", "decision"),
    [(1.0, 0.0, TrialScheduler.CONTINUE), (4.0, 0.0, STOP), (1.0, 30.0, TrialScheduler.CONTINUE)],
)
def test_device_seconds_are_seconds_times_devices_without_compiling(
    devices: float, compiling: float, decision: str
) -> None:
    """The other has 0.1 by 10 device-seconds, and more than the 0.5 by 40."""
    scheduler = asha()
    for epoch, dice in enumerate((0.1, 0.1, 0.6, 0.6), start=1):
        judged(scheduler, "cheap", "small", row(epoch, dice, 10.0))
    assert judged(scheduler, "dear", "large", row(1, 0.5, 10.0, compiling), devices) == decision


def test_what_has_trained_to_the_end_counts_with_its_best_and_what_was_stopped_does_not() -> None:
    for length, decision in ((EPOCHS, STOP), (3, TrialScheduler.CONTINUE)):
        curve = [row(epoch, 0.9, 1.0) for epoch in range(1, length + 1)]
        scheduler = asha(curves={"cheap": curve}, costs={"cheap": cost_of("small")})
        assert judged(scheduler, "dear", "large", row(1, 0.5, 100.0)) == decision


def test_nan_and_unknown_seconds_spoil_no_comparison() -> None:
    scheduler = asha()
    judged(scheduler, "broken", "small", row(1, math.nan, 10.0))
    judged(scheduler, "unknown", "small", {"epoch": 1, "mean_dice": 0.9})
    judged(scheduler, "cheap", "medium", row(1, 0.4, 10.0))
    judged(scheduler, "cheap", "medium", row(2, 0.4, 10.0))
    assert judged(scheduler, "dear", "large", row(1, 0.5, 15.0)) == TrialScheduler.CONTINUE
    assert judged(scheduler, "poor", "large2", row(1, 0.3, 15.0)) == STOP


def test_models_are_told_apart_by_network_and_patch() -> None:
    config = {"model": {"name": "unet", "width": 8}, "trainer": {"batch_size": 4}, "data": {"patch": [1, 64, 64]}}
    same = {**config, "trainer": {"batch_size": 8}, "resources": {"cpus_per_trial": 2}}
    assert model_of(config) == model_of(same)
    assert model_of(config) != model_of({**config, "model": {"name": "unet", "width": 16}})
    assert model_of(config) != model_of({**config, "data": {"patch": [16, 64, 64]}})


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("family=seesaw", False),
        ("family=optimiser", False),
        ("family=networks", True),
        ("family=networks space.network=unet_3d search.presets_first=false search.baseline=false", False),
        ("family=networks scheduler.compare=epochs", False),
        ("family=networks scheduler.name=none", False),
        ("family=seesaw scheduler.compare=device_seconds", True),
    ],
)
def test_auto_compares_device_seconds_where_trials_differ_in_cost(words: str, expected: bool) -> None:
    settings = settings_of(*words.split())
    space = searched_space(settings)
    arms, _ = with_baseline(settings, planned_arms(settings, space), space, COUNTS, 1e6)
    assert compares_device_seconds(settings, sizes(settings, arms, space, COUNTS)) is expected


def test_a_sweep_from_before_the_setting_goes_on_at_epochs(tmp_path: Path) -> None:
    values = settings_of("family=optimiser").as_dict()
    assert stored_compare(tmp_path, values) == "auto"
    del values["scheduler"]["compare"]
    assert stored_compare(tmp_path, values) == "epochs"


def stored_compare(folder: Path, values: dict[str, Any]) -> str:
    (folder / "sweep.yaml").write_text(yaml.safe_dump(values))
    return stored_settings(folder).scheduler.compare
