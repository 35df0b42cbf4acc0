"""Which time counts for a driver's rate, and what is shown of it; not how high it is."""

from __future__ import annotations

import pytest

from benchmarks.driver_rate import Rate, Watched, lines


def test_only_the_time_while_all_slots_are_taken_counts() -> None:
    marks = [(1, 0, 0.0, 0.0), (2, 0, 5.0, 1.0), (2, 0, 6.0, 1.5), (3, 2, 7.0, 2.0), (4, 3, 99.0, 9.0)]
    watched = Watched(slots=2, trials=4, marks=marks, began=-3.0, megabytes=300.0)
    assert watched.rate(nodes=3) == Rate(3, 2, results=2, wall=2.0, cpu=1.0, filled=8.0, megabytes=300.0)


def test_slots_that_were_never_all_taken_have_no_rate() -> None:
    with pytest.raises(RuntimeError, match="never all taken"):
        Watched(slots=2, trials=4, marks=[(1, 0, 0.0, 0.0), (1, 1, 1.0, 1.0)]).rate(nodes=0)


def test_places_are_shown_with_their_spread() -> None:
    rates = [
        Rate(0, 4, 100, 2.0, 0.5, 10.0, 300.0),
        Rate(1, 4, 100, 1.0, 0.5, 12.0, 320.0),
        Rate(0, 4, 100, 1.0, 1.0, 20.0, 310.0),
    ]
    assert lines(rates) == [
        ["its own Ray", "4", "75 (50 … 100)", "7.5 (5.0 … 10.0)", "150 (100 … 200)", "15 (10 … 20)", "305 (300 … 310)"],
        ["1", "4", "100", "5.0", "200", "12", "320"],
    ]
