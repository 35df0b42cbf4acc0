"""One sweep of trials that do nothing, and what it cost the driver: python -m benchmarks.idle_sweep ray|alone TRIALS.

With Ray: a real Ray, a Tuner as `tune_app.sweep.tuner` builds it, with our study, searcher, scheduler, loggers,
checkpoint cap and display. Alone: searcher, scheduler and study, driven in this process as Ray would. In a process of
its own, because memory is measured. Prints a `Cost` as one line of JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

EPOCHS, SLOTS = 3, 2


@dataclass(kw_only=True)
class Cost:
    """What the driver needed, from the first proposal to the end of the last trial and of Ray's search."""

    trials: int
    results: int = 0
    cpu: float = 0.0
    """Seconds of processor time, all threads of the process."""
    wall: float = 0.0
    """Seconds."""
    megabytes: float = 0.0
    """Private memory when the last trial had ended, less that at the beginning."""
    parts: dict[str, float] = field(default_factory=dict)
    """Seconds of the main thread in our parts of the driver; what is left is Ray's."""


def private_megabytes() -> float:
    """Memory that this process alone has written to."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty")) / 1024


class Clock:
    """Adds up the time that the main thread spends in methods, by part."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()

    def watch(self, part: str, cls: type, *methods: str) -> None:
        for name in methods:
            setattr(cls, name, self._timed(part, getattr(cls, name)))

    def _timed(self, part: str, method: Callable) -> Callable:
        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.thread_time()
            try:
                return method(*args, **kwargs)
            finally:
                self.seconds[part] += time.thread_time() - started

        return timed


class Nowhere(io.StringIO):
    """A stream that forgets what is written to it. Ray pickles it: a file would not do."""

    def write(self, text: str) -> int:
        return len(text)


@contextlib.contextmanager
def measured(cost: Cost, clock: Clock) -> Iterator[Callable[[], None]]:
    """Fills in `cost`; what it yields is to be called when the last trial has ended."""
    memory, cpu, wall = private_megabytes(), time.process_time(), time.perf_counter()

    def last_ended() -> None:
        cost.megabytes = private_megabytes() - memory

    yield last_ended
    cost.cpu, cost.wall = time.process_time() - cpu, time.perf_counter() - wall
    cost.parts = dict(clock.seconds)


def prepared_sweep(folder: Path, trials: int, family: str, **changed: Any) -> Any:
    """A sweep as `tune_app.sweep.prepare.prepare` makes it, without data. changed: further settings, or other ones."""
    from search_spaces import ClassCounts
    from trainables.data import PackedDataset
    from trainables.settings import TrainerSettings
    from tune_app.search.arms import planned_arms, searched_space
    from tune_app.settings.schema import ClusterSettings, ResourceSettings, SearchSettings, Settings
    from tune_app.sweep.prepare import Prepared

    settings = Settings(
        family=family,
        search=SearchSettings(num_samples=trials),
        trainer=TrainerSettings(epochs=EPOCHS),
        resources=ResourceSettings(num_cpus=SLOTS, num_gpus=0),
        cluster=ClusterSettings(dashboard=False),
    )
    settings = replace(settings, **changed)
    (folder / "trials").mkdir()
    space = searched_space(settings)
    return Prepared(
        settings=settings,
        folder=folder,
        dataset=PackedDataset(settings.data, tuple(settings.data.classes), (), "", "", Path()),
        counts=ClassCounts.published(),
        window_voxels=1e6,
        arms=planned_arms(settings, space),
        space=space,
    )


def with_ray(folder: Path, trials: int, family: str, clock: Clock) -> Cost:
    """A whole sweep with a Ray of its own."""
    prepared = prepared_sweep(folder, trials, family)
    from tune_app.ray_adapters.session import ray_session, trial_resources

    cost = Cost(trials=trials)
    with ray_session(prepared.settings):
        from benchmarks.idle_trial import IdleTrial
        from tune_app.ray_adapters.patches import nothing_read_back, quiet
        from tune_app.search.early_failure import Watch
        from tune_app.search.study import open_study
        from tune_app.sweep.progress import Display
        from tune_app.sweep.runner import _progress
        from tune_app.sweep.tuner import build_tuner

        watch_parts(clock)
        resources, study = trial_resources(prepared.settings), open_study(folder, "sweep", prepared.settings.order)

        class Counting(Display):
            def on_trial_result(self, *args: Any, **info: Any) -> None:
                super().on_trial_result(*args, **info)
                cost.results += 1

            def on_trial_complete(self, *args: Any, **info: Any) -> None:
                super().on_trial_complete(*args, **info)
                if self.progress.ended.total() == trials:
                    last_ended()

        watch = Watch(prepared.settings.diagnosis, folder / "trials")
        display = Counting(_progress(prepared, resources, study), stream=Nowhere(), watch=watch)
        tuner = build_tuner(prepared, resources, study, display, trainable=IdleTrial)
        with quiet(0), nothing_read_back(), measured(cost, clock) as last_ended:
            tuner.fit()
    return cost


def watch_parts(clock: Clock) -> None:
    from tune_app.ray_adapters.checkpoint_cap import CheckpointKeeper
    from tune_app.ray_adapters.loggers import InSweepFolder
    from tune_app.search.scheduler import ResumableAsha
    from tune_app.search.searcher import StudySearcher
    from tune_app.sweep.progress import Display

    clock.watch("proposals", StudySearcher, "suggest")
    clock.watch("study", StudySearcher, "on_trial_result", "on_trial_complete")
    clock.watch("scheduler", ResumableAsha, "choose_trial_to_run", "on_trial_result", "on_trial_complete")
    clock.watch("logs", InSweepFolder, "log_trial_start", "log_trial_result", "log_trial_end")
    clock.watch("keeper", CheckpointKeeper, "on_trial_complete")
    clock.watch("display", Display, "on_trial_start", "on_trial_result", "on_trial_complete", "on_step_end")


def alone(folder: Path, trials: int, family: str, clock: Clock, slots: int = SLOTS) -> Cost:
    """Searcher, scheduler and study only, so many trials at once."""
    from tune_app.ray_adapters.session import TrialResources
    from tune_app.search.early_failure import Watch
    from tune_app.search.study import open_study
    from tune_app.sweep.tuner import build_scheduler, build_searcher

    prepared, cost = prepared_sweep(folder, trials, family), Cost(trials=trials)
    study = open_study(folder, "sweep", prepared.settings.order)
    scheduler = build_scheduler(prepared, study, Watch(prepared.settings.diagnosis, folder / "trials"))
    searcher = build_searcher(prepared, TrialResources(cpus=1, gpus=0, slots=slots), study, scheduler)
    with measured(cost, clock) as last_ended:
        cost.results = drive(searcher, scheduler, slots)
        last_ended()
    return cost


def drive(searcher: Any, scheduler: Any, slots: int = SLOTS) -> int:
    """As Ray does: `slots` trials at once, an epoch of each in turn, until there are no more. The number of rows."""
    from benchmarks.idle_trial import idle_row

    running: deque[Any] = deque()
    results = 0
    fill(running, searcher, slots)
    while running:
        trial = running.popleft()
        trial.epoch, results = trial.epoch + 1, results + 1
        row = idle_row(trial.config["run"]["number"], trial.epoch)
        if trial.epoch < EPOCHS and scheduler.on_trial_result(None, trial, row) == scheduler.CONTINUE:
            searcher.on_trial_result(trial.trial_id, row)
            running.append(trial)
        else:
            scheduler.on_trial_complete(None, trial, row)
            searcher.on_trial_complete(trial.trial_id, row)
        fill(running, searcher, slots)
    return results


def fill(running: deque[Any], searcher: Any, slots: int) -> None:
    """Begin trials until all slots are taken or there are no more."""
    while len(running) < slots:
        trial_id = f"{time.monotonic_ns()}"
        config = searcher.suggest(trial_id)
        if not isinstance(config, dict):
            return
        running.append(SimpleNamespace(trial_id=trial_id, config=config, epoch=0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("how", choices=("ray", "alone"))
    parser.add_argument("trials", type=int)
    parser.add_argument("--family", default="seesaw")
    parser.add_argument("--slots", type=int, default=SLOTS, help="trials at once, of `alone`")
    arguments = parser.parse_args()
    clock = Clock()
    with tempfile.TemporaryDirectory(prefix="idle") as name:
        what = Path(name), arguments.trials, arguments.family, clock
        if arguments.how == "alone":
            watch_parts(clock)
        cost = with_ray(*what) if arguments.how == "ray" else alone(*what, arguments.slots)
        print(json.dumps(asdict(cost)))


if __name__ == "__main__":
    main()
