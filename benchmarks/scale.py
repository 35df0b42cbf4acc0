"""What the driver of a sweep costs, for 250, 1 000 and 4 000 trials of a trainable that does nothing.

Every sweep runs in a process of its own, with a real Ray and all of ours round it: the study's journal in a folder,
TPE, ASHA, the loggers, the keeper of checkpoints and the display. A trial reports its 93 figures up to three times;
ASHA stops two thirds of them after the first. Compared is the processor time of the driver, all its threads, which a
shared machine disturbs less than wall time; waiting for the disk is not in it, and would be linear. The same is done
without Ray, several times: searcher, scheduler and study in one process, which is where a cost could grow.

What a result may cost is a share of the shortest epoch of a trial, a second: with a tenth of it one driver keeps ten
trials busy that report every second, and hundreds that report every minute.

Memory is the private memory of the driver when the last trial has ended: from 250 to 1 000 trials, and from 1 000 on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict

from benchmarks.harness import Result, main
from benchmarks.idle_sweep import Cost

SMALL, MIDDLE, LARGE = 250, 1000, 4000
GROWTH, FLAT = 4.4, 1.1
SHORTEST_EPOCH_MS, SHARE = 1000, 0.1
"""Of a trial, and what a result may cost the driver of it."""


def run(arguments: argparse.Namespace) -> Iterator[Result]:
    """arguments.trials: the three sizes, ascending. repetitions: of the sweeps without Ray. rounds: of those with."""
    small, middle, large = arguments.trials
    alone = [sweep("alone", size, arguments.family) for _ in range(arguments.repetitions) for size in (middle, large)]
    yield growth("without Ray", alone, middle, large)
    order = [middle, large, middle, small] * arguments.rounds
    costs = [sweep("ray", size, arguments.family) for size in order]
    yield growth("real Ray", costs, middle, large)
    yield per_result(costs, large)
    yield memory(costs, small, middle, large)


def sweep(how: str, trials: int, family: str) -> Cost:
    """One sweep in a process of its own. Raises RuntimeError with its output where it fails."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.idle_sweep", how, str(trials), "--family", family]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    cost = Cost(**json.loads(done.stdout.splitlines()[-1]))
    print(f"  {how}: {describe(cost)}", file=sys.stderr, flush=True)
    return cost


def growth(what: str, costs: Sequence[Cost], middle: int, large: int) -> Result:
    """Processor time of a large sweep ÷ that of the middle ones next to it."""
    values = ratios([(cost.trials, cost.cpu) for cost in costs], middle, large)
    last = {cost.trials: cost for cost in costs}
    return Result(
        claim=f"driver time of {large} trials ÷ {middle}, {what}",
        values=values,
        target=GROWTH * large / middle / 4,
        at_least=False,
        note="; ".join(describe(last[size]) for size in sorted(last)),
        details={"costs": [asdict(cost) for cost in costs]},
    )


def per_result(costs: Sequence[Cost], large: int) -> Result:
    """Milliseconds of the driver's processor time per result of a large sweep."""
    values = tuple(1000 * cost.cpu / cost.results for cost in costs if cost.trials == large)
    return Result(
        claim=f"driver time per result, {large} trials, real Ray",
        values=values,
        target=SHARE * SHORTEST_EPOCH_MS,
        at_least=False,
        unit="ms",
        note=f"{mean(values) / SHORTEST_EPOCH_MS:.1%} of an epoch of a second",
    )


def memory(costs: Sequence[Cost], small: int, middle: int, large: int) -> Result:
    """Memory per further trial in a large sweep ÷ in a small one."""
    found = {size: mean(cost.megabytes for cost in costs if cost.trials == size) for size in (small, middle, large)}
    early = (found[middle] - found[small]) / (middle - small)
    late = (found[large] - found[middle]) / (large - middle)
    return Result(
        claim=f"driver memory per trial, {middle} to {large} ÷ {small} to {middle}",
        values=(late / early,),
        target=FLAT,
        at_least=False,
        note=f"{1000 * late:.0f} kB and {1000 * early:.0f} kB per trial; {found[large]:.0f} MB at {large} trials",
        details={"megabytes": found},
    )


def ratios(costs: Sequence[tuple[int, float]], middle: int, large: int) -> tuple[float, ...]:
    """Each large cost ÷ each of the middle ones right before or after it."""
    found = []
    for place, (size, cost) in enumerate(costs):
        if size == large:
            found += [cost / other for near, other in costs[max(0, place - 1) : place + 2] if near == middle]
    return tuple(found)


def mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)


def describe(cost: Cost) -> str:
    """Milliseconds per result, and whose they are."""
    ours = sorted(cost.parts.items(), key=lambda part: -part[1])
    shares = [("Ray and the rest", cost.cpu - sum(cost.parts.values())), *ours]
    said = ", ".join(f"{name} {seconds / cost.cpu:.0%}" for name, seconds in shares if seconds >= 0.01 * cost.cpu)
    each = 1000 / max(1, cost.results)
    return (
        f"{cost.trials} trials, {cost.results} results: {each * cost.cpu:.1f} ms processor and {each * cost.wall:.1f} "
        f"ms wall time per result ({said})"
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--trials", type=int, nargs=3, default=(SMALL, MIDDLE, LARGE), help="three sizes, ascending")
    parser.add_argument("--rounds", type=int, default=1, help="of the sweeps with Ray")
    parser.add_argument("--family", default="seesaw", help="what is searched; `all` for a conditional space")


if __name__ == "__main__":
    main(__doc__, run, add_arguments)
