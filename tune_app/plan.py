"""python -m tune_app.plan family=seesaw hardware=rtx3090 gpus=2: what a sweep will take, before anything starts.

Takes the settings of `run`. Times come from the newest earlier sweep of the same shape in results_dir, or, with
measure=true, from a few steps on this machine, which the `run` that follows remembers.
"""

from __future__ import annotations

import dataclasses
import statistics
from dataclasses import dataclass

from search_spaces import ClassCounts, Space
from trainables.data import named_classes
from trainables.settings import require, require_in
from tune_app.planning.forecast import Plan, make_plan
from tune_app.planning.measure import measured_pace
from tune_app.planning.pace import Pace, earlier_pace, remember
from tune_app.ray_adapters.session import this_machine, trial_resources
from tune_app.results.tables import sentences
from tune_app.search.arms import num_trials, planned_arms, searched_space, sizes, with_baseline
from tune_app.settings.command_line import Composed, run_composed
from tune_app.settings.document import Ended
from tune_app.settings.schema import RunSettings, Settings
from tune_app.settings.terminal import columns
from tune_app.sweep.begin import planned, refuse_on_this_machine

RAY_START = "Ray's own start, about ten seconds, comes on top."


@dataclass(kw_only=True)
class PlanSettings(RunSettings):
    """What `python -m tune_app.plan` takes: the settings of `run`, and these."""

    gpus: int = -1
    """GPUs to plan for; -1: resources.num_gpus, and where that says nothing those of this machine."""
    measure: bool = False
    """Train a few steps here, in as many processes as trials at once, to learn how long they take. What is found is
    kept in the cache, for later plans and for `run`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_in(self, "", gpus="[-1, inf]")
        for name in ("resume", "extend"):
            given = getattr(self, name)
            require(not given, name, given, "a plan is made for a new sweep", f"Leave {name}= out")


def plan(composed: Composed[PlanSettings]) -> Plan:
    """The plan of the composed settings. Raises InputError for what cannot be run, RunFailed where measuring fails."""
    asked = composed.settings
    settings = planned(composed.bare(Settings))  # as `run` would use them
    settings = dataclasses.replace(settings, data=named_classes(settings.data))
    refuse_on_this_machine(settings, asked.gpus)
    space = searched_space(settings)
    trials, exempt, own = count_trials(settings, space)
    machine = [this_machine(settings, asked.gpus)]
    resources = trial_resources(settings, nodes=machine, trials=trials)
    pace: Pace | None
    if asked.measure:
        pace = measured_pace(settings, resources)
        remember(pace, settings, resources)
    else:
        pace = earlier_pace(settings, resources)
    # Networks bring their GPUs along: told is what most trials take.
    most = statistics.mode(trial_resources(each, nodes=machine, trials=trials) for each in own or [settings])
    return make_plan(settings, most, trials=trials, exempt=exempt, pace=pace, sizes=own)


def count_trials(settings: Settings, space: Space) -> tuple[int, int, list[Settings]]:
    """(trials, trials that are never stopped early, settings of some that stand for all), without opening the data.

    Class counts are made up: only where an arm is uniform weights by chance of the data does `run` count otherwise.
    """
    counts = ClassCounts.made_up(settings.outputs)
    arms, baseline = with_baseline(settings, planned_arms(settings, space), space, counts, window_voxels=1e6)
    exempt = int(bool(baseline) and settings.early_stopping)
    own = sizes(settings, arms, space, counts)
    return num_trials(settings, arms, space, counts, window_voxels=1e6), exempt, own


def plan_and_print(composed: Composed[PlanSettings]) -> Ended:
    """Print the plan."""
    settings = composed.settings
    what = settings.preset or settings.trial or f"family={settings.family}"
    found = plan(composed)
    print(f"plan for {what}, up to {found.budget}")
    for line in found.lines():
        print(sentences(f"  {line}", columns(), " " * 13))
    if found.wall_hours:
        print(f"  {RAY_START}")
    return Ended(lambda: {"what": what, "device": found.device, **found.as_dict()})


def main() -> None:
    run_composed("plan", PlanSettings, plan_and_print)


if __name__ == "__main__":
    main()
