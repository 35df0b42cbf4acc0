"""What the processes of a trial did, from trial.log alone: each appends a line when it takes it up, and per epoch."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

BEGUN = re.compile(r" INFO Trial \S+: loss")
TAKEN_UP = re.compile(r" INFO Going on after epoch (\d+)")
TRAINED = re.compile(r" INFO epoch (\d+)/")
Life = tuple[int, list[int]]
"""Of one process: after which epoch it took the trial up, and the epochs that it trained to their end."""


def lives(log: Path) -> list[Life]:
    """Those of a trial, in order; without processes that ended before they had said after which epoch they go on."""
    found: list[Life] = []
    for line in log.read_text().splitlines():
        if BEGUN.search(line):
            found.append((0, []))
        elif taken_up := TAKEN_UP.search(line):
            found[-1] = (int(taken_up[1]), [])
        elif trained := TRAINED.search(line):
            found[-1][1].append(int(trained[1]))
    return [life for life in found if life != (0, [])]


def lost_one_epoch_at_most(lives: list[Life]) -> bool:
    """Whether each process took the trial up after all that the one before had trained to its end."""
    return all(taken_up >= max([after, *epochs]) for (after, epochs), (taken_up, _) in itertools.pairwise(lives))
