"""Search policies to replay on recorded curves: ours as configured by default, and four to hold it against.

Every function takes a table and a seed and makes fresh objects. The stock ones are what a user of Ray Tune gets who
writes `TuneConfig(search_alg=OptunaSearch(), scheduler=AsyncHyperBandScheduler(max_t=epochs))`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import optuna
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from benchmarks.learning_curves import Table
from benchmarks.replay import METRIC, Search
from search_spaces import Choice, ClassCounts, Parameter, parameters_of
from trainables.objective import Objective
from trainables.settings import TrainerSettings
from tune_app.search.arms import Arm
from tune_app.search.guard import Guard
from tune_app.search.scheduler import PromotingAsha, ResumableAsha
from tune_app.search.searcher import Budget, StudySearcher, folder_name
from tune_app.search.study import distributions
from tune_app.settings.schema import Settings

ENDLESS = 10**9

Policy = Callable[[Table, int], Search]


class TableSearcher(StudySearcher):
    """Our searcher; what a trial is called and which loss it trains is replaced, since a table's row trains none."""

    def _attributes(self, arm: Arm, number: int, *, planned: bool) -> dict[str, Any]:
        loss = arm.trained or {"point": dict(arm.point)}
        name = folder_name(number, arm.label if arm.preset else "row")
        return {"name": name, "label": arm.label, "loss": loss, "seed": arm.seed, "planned": planned}


def configure(run: Mapping[str, Any], trial: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """A trial's config: its name as the scheduler reads it, and the point or the row of the table."""
    return {"run": dict(run), **trial["loss"]}


def defaults(epochs: int) -> Settings:
    """The settings of a run with these epochs per trial, all else as the program has it."""
    return Settings(family="all", trainer=TrainerSettings(epochs=epochs))


def ours(
    table: Table,
    seed: int,
    settings: Settings | None = None,
    *,
    arms: Sequence[Arm] = (),
    baseline: str = "",
    guard: Guard | None = None,
) -> Search:
    """StudySearcher with its scheduler, as the settings say (default: the program's).

    arms: rows that are tried first. baseline: label of those that ASHA leaves alone. guard: of a warm start.
    """
    settings, objective = settings or defaults(table.epochs), Objective(metric=METRIC)
    stopping = partial(ResumableAsha, early=settings.scheduler.early)
    own = PromotingAsha if settings.scheduler.name == "promote" else stopping
    scheduler: ResumableAsha | PromotingAsha = own(
        objective=objective,
        max_epochs=table.epochs,
        grace_period=settings.grace_period,
        reduction_factor=settings.scheduler.reduction_factor,
        baseline=baseline,
    )
    searcher = TableSearcher(
        study=optuna.create_study(direction="maximize"),
        arms=arms,
        space=table.space,
        family="all",
        kind=settings.search.name,
        seed=seed,
        startup_trials=settings.search.startup_trials,
        budget=Budget(num_trials=ENDLESS, epochs=table.epochs),
        counts=ClassCounts(("any",), (1,), (1,)),
        configure=configure,
        objective=objective,
        promoting=scheduler if isinstance(scheduler, PromotingAsha) else None,
        guard=guard,
    )
    return Search(searcher, scheduler)


def planned_row(row: int, arm: Arm) -> Arm:
    """The arm, trained as that row of the table."""
    return replace(arm, trained={"row": row})


def stock_asha(table: Table) -> AsyncHyperBandScheduler:
    return AsyncHyperBandScheduler(metric=METRIC, mode="max", max_t=table.epochs)


def stock(table: Table, seed: int) -> Search:
    """Ray's OptunaSearch and AsyncHyperBandScheduler as they come."""
    if "family" in table.space:
        space: Any = JointSpace(table.space)
    else:
        space = distributions(table.space, table.space)
    return Search(OptunaSearch(space=space, metric=METRIC, mode="max", seed=seed), stock_asha(table))


def asha_random(table: Table, seed: int) -> Search:
    """Random points under Ray's AsyncHyperBandScheduler as it comes."""
    return Search(RandomSearch(table.space, seed), stock_asha(table))


def random(table: Table, seed: int) -> Search:
    """Random points, none stopped early."""
    return Search(RandomSearch(table.space, seed), FIFOScheduler())


class JointSpace:
    """The conditional space as a define-by-run function."""

    def __init__(self, space: Mapping[str, Parameter]) -> None:
        self.space = space

    def __call__(self, trial: optuna.Trial) -> None:
        from tune_app.search.study import suggest_point

        suggest_point(trial, self.space)


class RandomSearch(Searcher):
    """Uniform points of the space, in the logarithm where an axis is logarithmic."""

    def __init__(self, space: Mapping[str, Parameter], seed: int) -> None:
        super().__init__(metric=METRIC, mode="max")
        self.space, self.rng = space, np.random.default_rng(seed)

    def suggest(self, trial_id: str) -> dict[str, Any]:
        point = {name: self.draw(axis) for name, axis in self.space.items() if "." not in name}
        inner = parameters_of(self.space, str(point.get("family", "")))
        return point | {name: self.draw(axis) for name, axis in inner.items()}

    def draw(self, axis: Parameter) -> Any:
        if isinstance(axis, Choice):
            return axis.options[self.rng.integers(len(axis.options))]
        low, high, u = axis.low, axis.high, self.rng.random()
        return float(low * (high / low) ** u if axis.log else low + (high - low) * u)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing is learnt."""


def promoting(table: Table, seed: int) -> Search:
    """Ours with `scheduler.name=promote`, all else as the program has it."""
    settings = defaults(table.epochs)
    return ours(table, seed, replace(settings, scheduler=replace(settings.scheduler, name="promote")))


POLICIES: dict[str, Policy] = {
    "ours": ours,
    "ours, promoting": promoting,
    "Ray's ASHA + OptunaSearch": stock,
    "ASHA + random": asha_random,
    "random": random,
}
