"""Runs inside the environment of Syne Tune (`search_peers.py`): searches of its simulator on an exported table.

    python -m benchmarks.peers.syne_tune_search TABLE.npz PEER EPOCHS SEED …

Prints one line of JSON per seed: "seed", and "steps", the first EPOCHS epochs of all trials as [row, epoch], in the
order in which they end. Four workers. Syne Tune's Gaussian processes take no NaN.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ["SYNETUNE_FOLDER"] = tempfile.mkdtemp()

import numpy as np
from syne_tune import StoppingCriterion, Tuner
from syne_tune.backend.simulator_backend.simulator_callback import SimulatorCallback
from syne_tune.blackbox_repository import UserBlackboxBackend
from syne_tune.blackbox_repository.blackbox import Blackbox
from syne_tune.config_space import randint, uniform
from syne_tune.optimizer.baselines import ASHA, MOBSTER, DyHPO, HyperTune
from syne_tune.tuner_callback import TunerCallback

from benchmarks.peers.exported import WORKERS, ExportedTable

SCALE = 1000.0
"""Simulated seconds per second of the table: the simulator adds the time that a decision takes, and polls."""
POLL = 0.01 * SCALE
PEERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "promoting ASHA": (ASHA, {"type": "promotion"}),
    "MOBSTER": (MOBSTER, {"type": "promotion"}),
    "Hyper-Tune": (HyperTune, {"type": "promotion", "brackets": 4}),
    "DyHPO": (DyHPO, {}),
}
"""They promote; Hyper-Tune chooses among brackets, so it gets four. All else is left as it comes."""


class TableBlackbox(Blackbox):
    """The table; what is proposed keeps the row that it is given."""

    def __init__(self, table: ExportedTable) -> None:
        self.table, self.rows = table, {}
        self.elapsed = table.seconds[:, None] * np.arange(1, table.epochs + 1) * SCALE
        space = {name: uniform(0.0, 1.0) for name in table.axes}
        super().__init__(space, {"epoch": randint(1, table.epochs)}, ["score", "elapsed"])

    @property
    def fidelity_values(self) -> np.ndarray:
        return np.arange(1, self.table.epochs + 1)

    def row(self, config: Mapping[str, Any]) -> int:
        point = tuple(float(config[name]) for name in self.table.axes)
        if point not in self.rows:
            self.rows[point] = self.table.take(point)
        return self.rows[point]

    def _objective_function(self, configuration: Any, fidelity: Any = None, seed: int | None = None) -> np.ndarray:
        row = self.row(configuration)
        return np.stack([self.table.scores[row], self.elapsed[row]], axis=1)


class Steps(TunerCallback):
    """Writes down what is reported."""

    def __init__(self, blackbox: TableBlackbox) -> None:
        self.blackbox, self.steps = blackbox, []

    def on_trial_result(self, trial: Any, status: str, result: dict[str, Any], decision: str) -> None:
        self.steps.append((self.blackbox.row(trial.config), int(result["epoch"])))


def search(table: ExportedTable, peer: str, epochs: int, seed: int) -> list[tuple[int, int]]:
    np.random.seed(seed)  # noqa: NPY002
    blackbox = TableBlackbox(table)
    kind, options = PEERS[peer]
    scheduler = kind(
        blackbox.configuration_space_with_max_resource_attr("epochs"),
        metric="score",
        mode="max",
        resource_attr="epoch",
        max_resource_attr="epochs",
        random_seed=seed,
        **options,
    )
    steps = Steps(blackbox)
    Tuner(
        trial_backend=UserBlackboxBackend(
            blackbox, elapsed_time_attr="elapsed", max_resource_attr="epochs", seed=0, tuner_sleep_time=POLL
        ),
        scheduler=scheduler,
        stop_criterion=StoppingCriterion(max_num_evaluations=epochs),
        n_workers=WORKERS,
        sleep_time=0,
        callbacks=[SimulatorCallback(), steps],
        save_tuner=False,
        results_update_interval=1e9,
        print_update_interval=1e9,
    ).run()
    return steps.steps[:epochs]


def main() -> None:
    path, peer, epochs, *seeds = sys.argv[1:]
    logging.getLogger().setLevel(logging.ERROR)
    for seed in map(int, seeds):
        steps = search(ExportedTable(Path(path), seed), peer, int(epochs), seed)
        print(json.dumps({"seed": seed, "steps": steps}), flush=True)


if __name__ == "__main__":
    main()
