"""How many results per second one driver takes in:  python -m benchmarks.driver_rate

Trials that do nothing report as fast as they are asked, on a Ray of this machine's own or on a simulated cluster
(`ray.cluster_utils`: every node is a raylet with workers of its own, all on this machine). Measured is the time while
all slots are taken: the wall time, which the trials' processes share with the driver, and the processor time of the
driver alone, all its threads, which bounds what it could do with a core to itself; and how long it takes until a trial
runs in every slot, when each waits for all others. Every measurement runs in a process
of its own:  python -m benchmarks.driver_rate NODES SLOTS  (0 nodes: a Ray of its own).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.harness import table
from benchmarks.idle_sweep import Nowhere, prepared_sweep, private_megabytes

RESULTS = 1600
PLACES = ((0, 4), (0, 16), (1, 16), (4, 16), (8, 16), (0, 32), (4, 32), (2, 16), (4, 4))
"""(nodes, trials at once)."""


@dataclass(frozen=True)
class Rate:
    """Of the time while all slots were taken."""

    nodes: int
    slots: int
    results: int
    wall: float
    """Seconds."""
    cpu: float
    """Seconds of processor time of the driver."""
    filled: float
    """Seconds from the first proposal until a trial in every slot had reported."""
    megabytes: float
    """Private memory of the driver at the end."""


@dataclass
class Watched:
    """When results came, as (trials seen, trials ended, wall, processor time) in seconds."""

    slots: int
    trials: int
    marks: list[tuple[int, int, float, float]] = field(default_factory=list)
    began: float = 0.0
    megabytes: float = 0.0

    def rate(self, nodes: int) -> Rate:
        """From the first result of the last slot to the first end of a trial that none follows."""
        full = [m for m in self.marks if m[0] >= self.slots and m[1] <= self.trials - self.slots]
        if len(full) < 2:
            raise RuntimeError("the slots were never all taken: give more results")
        return Rate(
            nodes=nodes,
            slots=self.slots,
            results=len(full) - 1,
            wall=full[-1][2] - full[0][2],
            cpu=full[-1][3] - full[0][3],
            filled=full[0][2] - self.began,
            megabytes=self.megabytes,
        )


@contextlib.contextmanager
def simulated_nodes(nodes: int, slots: int) -> Iterator[str]:
    """The address of a cluster whose head has no CPUs and whose other nodes have as many as they run trials."""
    with tempfile.TemporaryDirectory(prefix="rate", dir="/tmp") as folder, _token(Path(folder)):
        from tune_app.ray_adapters.session import _environment_before_ray

        _environment_before_ray()
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "include_dashboard": False, "temp_dir": f"{folder}/ray"}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            for _ in range(nodes):
                cluster.add_node(num_cpus=slots // nodes)
            yield cluster.address
        finally:
            cluster.shutdown()


@contextlib.contextmanager
def _token(folder: Path) -> Iterator[None]:
    path = folder / "token"
    path.touch(mode=0o600)
    path.write_text(secrets.token_hex(32))
    os.environ |= {"RAY_AUTH_TOKEN_PATH": str(path), "TMPDIR": str(folder)}
    tempfile.tempdir = None  # ray.cluster_utils writes its address there
    yield


def measure(nodes: int, slots: int, results: int) -> Rate:
    """One sweep of two trials per slot."""
    from trainables.settings import TrainerSettings
    from tune_app.settings.schema import ClusterSettings, ResourceSettings, SchedulerSettings

    trials = 2 * slots
    with contextlib.ExitStack() as stack:
        address = stack.enter_context(simulated_nodes(nodes, slots)) if nodes else ""
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sweep")))
        prepared = prepared_sweep(
            folder,
            trials,
            "seesaw",
            trainer=TrainerSettings(epochs=max(1, results // trials)),
            scheduler=SchedulerSettings(name="none"),
            resources=ResourceSettings(num_cpus=slots, num_gpus=0, cpus_per_trial=1, gpus_per_trial=0),
            cluster=ClusterSettings(dashboard=False, address=address),
        )
        watched = Watched(slots, trials)
        sweep(prepared, watched)
    return watched.rate(nodes)


def sweep(prepared: Any, watched: Watched) -> None:
    """As `tune_app.sweep.runner` runs it."""
    from tune_app.ray_adapters.session import ray_session, trial_resources

    with ray_session(prepared.settings):
        from benchmarks.idle_trial import IdleTrial
        from tune_app.ray_adapters.patches import nothing_read_back, quiet
        from tune_app.search.early_failure import Watch
        from tune_app.search.study import open_study
        from tune_app.sweep.progress import Display
        from tune_app.sweep.runner import _progress
        from tune_app.sweep.tuner import build_tuner

        seen: set[str] = set()

        class TogetherTrial(IdleTrial):
            """Begins when there is one in every slot."""

            def step(self) -> dict[str, Any]:
                row, own = super().step(), Path(self._trial["run"]["dir"])
                (own / "begun").touch()
                while len(list(own.parent.glob("*/begun"))) < watched.slots:
                    time.sleep(0.2)
                return row

        class Marking(Display):
            def on_trial_result(self, iteration: int, trials: list, trial: Any, result: Any, **info: Any) -> None:
                super().on_trial_result(iteration, trials, trial, result, **info)
                seen.add(trial.trial_id)
                ended = self.progress.ended.total()
                watched.marks.append((len(seen), ended, time.perf_counter(), time.process_time()))

        resources, study = (
            trial_resources(prepared.settings),
            open_study(prepared.folder, "sweep", prepared.settings.order),
        )
        watch = Watch(prepared.settings.diagnosis, prepared.folder / "trials")
        display = Marking(_progress(prepared, resources, study), stream=Nowhere(), watch=watch)
        with quiet(0), nothing_read_back():
            watched.began = time.perf_counter()
            build_tuner(prepared, resources, study, display, trainable=TogetherTrial).fit()
            watched.megabytes = private_megabytes()


def apart(nodes: int, slots: int, results: int) -> Rate:
    """The same in a process of its own. Raises RuntimeError with its output where it fails."""
    words = ["-W", "ignore", "-m", "benchmarks.driver_rate", str(nodes), str(slots), "--results", str(results)]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}\n{done.stdout}{done.stderr}")
    rate = Rate(**json.loads(done.stdout.splitlines()[-1]))
    print(f"  {rate}", file=sys.stderr, flush=True)
    return rate


def lines(rates: Sequence[Rate]) -> list[list[str]]:
    """Of each place the medians, and the range where it was measured more than once."""
    return [
        [
            str(nodes) if nodes else "its own Ray",
            str(slots),
            _told([rate.results / rate.wall for rate in of], "{:.0f}"),
            _told([1000 * rate.cpu / rate.results for rate in of], "{:.1f}"),
            _told([rate.results / rate.cpu for rate in of], "{:.0f}"),
            _told([rate.filled for rate in of], "{:.0f}"),
            _told([rate.megabytes for rate in of], "{:.0f}"),
        ]
        for nodes, slots in dict.fromkeys((rate.nodes, rate.slots) for rate in rates)
        if (of := [rate for rate in rates if (rate.nodes, rate.slots) == (nodes, slots)])
    ]


def _told(values: Sequence[float], form: str) -> str:
    middle = form.format(median(values))
    return middle if len(values) == 1 else f"{middle} ({form.format(min(values))} … {form.format(max(values))})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("place", nargs="*", type=int, metavar="NODES SLOTS", help="measure this alone; prints JSON")
    parser.add_argument("--results", type=int, default=RESULTS, help="of a sweep")
    parser.add_argument("--rounds", type=int, default=1, help="of all places, one after the other")
    arguments = parser.parse_args()
    if arguments.place:
        print(json.dumps(asdict(measure(*arguments.place, arguments.results))))
        return
    rates = [apart(*place, arguments.results) for _ in range(arguments.rounds) for place in PLACES]
    header = ["nodes", "trials at once", "results/s", "driver, ms of processor per result", "results/s of one core"]
    header += ["seconds until all slots are taken", "driver, MB"]
    print(table(lines(rates), header))


if __name__ == "__main__":
    main()
