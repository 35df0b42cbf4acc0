"""What every benchmark shares: interleaved repetitions, a ratio with its spread, a target, one line of a table.

A script ends with `main(__doc__, run)`, where `run(arguments)` yields a `Result` per claim. A ratio is formed within
one repetition, both sides right after each other, because the machine may be shared: its drift then cancels. Needs only
the standard library: the script for a GPU machine runs where nothing but torch and the data packages is installed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

REPETITIONS = 5
Run = Callable[[argparse.Namespace], Iterable["Result"]]


@dataclass(frozen=True, kw_only=True)
class Result:
    """One claim, measured."""

    claim: str
    """What is divided by what, or what is counted, in one line."""
    values: tuple[float, ...]
    """One per repetition."""
    target: float
    at_least: bool = True
    """Whether larger is better."""
    unit: str = "×"
    note: str = ""
    """What a reader must know to read the number: shapes, budget, sides in absolute terms."""
    details: dict[str, Any] = field(default_factory=dict)
    """Plain data for whoever wants more; goes into the JSON only."""

    def __post_init__(self) -> None:
        assert self.values, f"no values for {self.claim}"

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def reached(self) -> bool:
        """Whether the median meets the target."""
        return self.median >= self.target if self.at_least else self.median <= self.target

    def row(self) -> list[str]:
        """Claim, median, spread (smallest … largest), target, verdict."""
        spread = f"{number(min(self.values))} … {number(max(self.values))}" if len(self.values) > 1 else "once"
        sign = "≥" if self.at_least else "≤"
        unit = f" {self.unit}" if self.unit else ""
        target = f"{sign} {number(self.target)}{unit}"
        return [self.claim, f"{number(self.median)}{unit}", spread, target, "reached" if self.reached else "MISSED"]


def number(value: float) -> str:
    """Three significant digits, without an exponent."""
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:,.{digits}f}".replace(",", " ")


def seconds(function: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def interleaved(first: Callable[[], float], second: Callable[[], float], repetitions: int) -> list[tuple[float, float]]:
    """`repetitions` pairs of what the two return, called in turn; which of them goes first alternates."""
    pairs = []
    for repetition in range(repetitions):
        if repetition % 2:
            b, a = second(), first()
        else:
            a, b = first(), second()
        pairs.append((a, b))
    return pairs


def ratios(pairs: Iterable[tuple[float, float]]) -> tuple[float, ...]:
    """first / second of every pair."""
    return tuple(first / second for first, second in pairs)


def table(rows: Iterable[list[str]], header: list[str]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


HEADER = ["claim", "measured", "spread", "target", ""]


def main(
    description: str | None,
    run: Run,
    add_arguments: Callable[[argparse.ArgumentParser], object] | None = None,
    argv: list[str] | None = None,
) -> None:
    """Parse the command line, run, print the table; exit 1 where a target was missed."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=REPETITIONS, help="interleaved repetitions per claim")
    parser.add_argument("--json", type=Path, help="also write the results there")
    if add_arguments:
        add_arguments(parser)
    arguments = parser.parse_args(argv)
    results = []
    for result in run(arguments):
        print("  ".join(result.row()) + (f"  ({result.note})" if result.note else ""), flush=True)
        results.append(result)
    print("\n" + table([result.row() for result in results], HEADER))
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(result) for result in results], indent=1, ensure_ascii=False))
    sys.exit(0 if all(result.reached for result in results) else 1)
