"""Runs inside the environment of NePS (`search_peers.py`): searches asked and told on an exported table.

    python -m benchmarks.peers.neps_search TABLE.npz PEER EPOCHS SEED …

Prints one line of JSON per seed: "seed", and "steps", the first EPOCHS epochs of all trials as [row, epoch], in the
order in which they end. Four workers; a configuration that is promoted goes on where it stopped, as with a checkpoint.
"""

from __future__ import annotations

import heapq
import json
import logging
import random
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import neps
import numpy as np
import torch

from benchmarks.peers.exported import WORKERS, ExportedTable

PEERS: dict[str, Callable[[Any], Any]] = {"PriorBand": neps.algorithms.priorband}
"""As it comes, with no prior: the tables have none. It then draws uniformly and round the best that it has found."""


def search(table: ExportedTable, peer: str, seed: int) -> Iterator[tuple[int, int]]:
    """(row, epoch), epoch after epoch; ended by whoever stops listening."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)
    axes = {name: neps.Float(0.0, 1.0) for name in table.axes}
    space = type("Space", (neps.PipelineSpace,), axes | {"epoch": neps.IntegerFidelity(1, table.epochs)})()
    asked = neps.AskAndTell(PEERS[peer](space))
    rows: dict[str, int] = {}
    reached = np.zeros(len(table.places), dtype=int)
    queue: list[tuple[float, int, int, Any]] = []

    def begin(now: float, slot: int) -> None:
        trial = asked.ask()
        configuration = trial.id.partition("_rung_")[0]
        if configuration not in rows:
            rows[configuration] = table.take([trial.config[name] for name in table.axes])
        row = rows[configuration]
        heapq.heappush(queue, (now + table.seconds[row], slot, row, trial))

    for slot in range(WORKERS):
        begin(0.0, slot)
    while True:
        now, slot, row, trial = heapq.heappop(queue)
        reached[row] += 1
        yield row, int(reached[row])
        if reached[row] < trial.config["epoch"]:
            heapq.heappush(queue, (now + table.seconds[row], slot, row, trial))
        else:
            asked.tell(trial, 1.0 - float(table.scores[row, reached[row] - 1]))
            begin(now, slot)


def main() -> None:
    path, peer, epochs, *seeds = sys.argv[1:]
    logging.getLogger().setLevel(logging.ERROR)
    torch.set_num_threads(1)
    for seed in map(int, seeds):
        steps = list(islice(search(ExportedTable(Path(path), seed), peer, seed), int(epochs)))
        print(json.dumps({"seed": seed, "steps": steps}), flush=True)


if __name__ == "__main__":
    main()
