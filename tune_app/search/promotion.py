"""Asynchronous successive halving by promotion (Li et al. 2018, arXiv:1810.05934, Algorithm 2), without Ray or files.

A trial that comes to a rung pauses there. When a slot is free the best paused trial among the best 1/η of its rung
goes on, of the highest rung that has one; only where there is none does a new trial begin. So no trial goes on merely
because it came first, and one that was passed over can still be taken up when the rung has grown.

Everything follows from the rows of the trials and from which of them went on: a search that is resumed decides as the
one that was killed. Legend: n trials that have come to a rung, η reduction factor.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence

Rank = tuple[float, float]
"""(−violation of the bounds, score where more is better): what is compared at a rung."""


class Promotion:
    """Rungs that trials pause at, and which paused trial goes on.

    rungs: epochs, ascending, all below the last one of a trial. reduction_factor: η > 1.
    """

    def __init__(self, rungs: Sequence[int], reduction_factor: float) -> None:
        self._eta = reduction_factor
        self._ranked: dict[int, list[tuple[Rank, str]]] = {rung: [] for rung in rungs}  # ascending
        self._come: dict[str, int] = {}
        self._gone_on: dict[int, set[str]] = {rung: set() for rung in rungs}
        self._ended: set[str] = set()
        self._next: dict[bool, str | None] = {}

    def take(self, name: str, epoch: int, value: Rank) -> bool:
        """Take in an epoch of a trial; True where the trial pauses after it.

        A trial that has trained past a rung was promoted there, whoever did it.
        """
        self._next.clear()
        come = self._come.get(name, 0)
        for rung, ranked in self._ranked.items():
            if come < rung <= epoch:
                insort(ranked, (value, name), key=_order)
                self._come[name] = rung
            if rung < epoch:
                self._gone_on[rung].add(name)
        return epoch in self._ranked and self.is_paused(name)

    def rung(self, name: str) -> int:
        """The highest rung that a trial has come to."""
        return self._come[name]

    def promote(self, name: str) -> None:
        """The trial goes on from its rung."""
        self._next.clear()
        self._gone_on[self._come[name]].add(name)

    def end(self, name: str) -> None:
        """The trial will not go on, whatever comes. What it was at its rungs still counts there."""
        self._next.clear()
        self._ended.add(name)

    def is_paused(self, name: str) -> bool:
        rung = self._come.get(name)
        return rung is not None and name not in self._gone_on[rung] and name not in self._ended

    def next(self, *, nothing_else: bool = False) -> str | None:
        """The paused trial that goes on next; None where none is good enough.

        nothing_else: nothing runs and nothing new will begin. Then a rung of fewer than η sends its best on as well, so
        that the best of a small search trains to the end.
        """
        if nothing_else not in self._next:
            self._next[nothing_else] = self._found(nothing_else)
        return self._next[nothing_else]

    def _found(self, nothing_else: bool) -> str | None:
        for rung, ranked in reversed(self._ranked.items()):
            most = int(len(ranked) / self._eta)
            for _, name in reversed(ranked[len(ranked) - max(most, int(nothing_else)) :]):
                if self._come[name] == rung and self.is_paused(name):
                    return name
        return None

    def rungs(self) -> dict[int, dict[str, Rank]]:
        """{epoch: {trial: what it was worth there}}, best first."""
        return {rung: {name: value for value, name in reversed(ranked)} for rung, ranked in self._ranked.items()}


def _order(ranked: tuple[Rank, str]) -> tuple[Rank, tuple[int, ...]]:
    """Ascending; of two that are equal the later name comes first, so that the earlier one counts as better."""
    value, name = ranked
    return value, tuple(-ord(letter) for letter in name)
