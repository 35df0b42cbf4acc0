"""Runs inside the environment of the peers of Ray (`search_peers.py`): searches replayed on a table of TaskSet.

    python -m benchmarks.peers.ray_search TABLE.json PEER EPOCHS SEED …

Prints one line of JSON per seed: "seed", and "steps", the first EPOCHS epochs of all trials as [row, epoch], in the
order in which they end. Everything is what `benchmarks.replay` does; here are the peers that Ray has more of, and the
order in which Ray serves the schedulers of the Hyperband family, who choose among the trials that wait.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import optuna
import torch
from optuna.samplers import BaseSampler
from ray.tune.experiment import Trial
from ray.tune.schedulers import HyperBandForBOHB, HyperBandScheduler
from ray.tune.search.optuna import OptunaSearch

from benchmarks.learning_curves import Table, taskset
from benchmarks.policies import POLICIES, RandomSearch, stock_asha
from benchmarks.replay import METRIC, Handle, Replay, Running, Search
from search_spaces import Float
from tune_app.search.study import distributions


class HyperbandReplay(Replay):
    """A new trial waits, and the scheduler chooses between it and those that it has paused.

    The last epoch goes to the scheduler, too, as with a trainable that would train on: TuneBOHB learns of an epoch from
    what HyperBandForBOHB says of it.
    """

    tells_last_epoch = True

    def __init__(self, search: Search, table: Table, seed: int) -> None:
        super().__init__(search, table, seed)
        self.waiting: Running | None = None
        self.handles: list[Handle] = []
        self.search_alg = SimpleNamespace(searcher=search.searcher)  # HyperBandForBOHB asks the controller for it

    def begin(self) -> Running | None:
        if self.waiting is None:
            self.waiting = self.added(self.search.searcher.suggest(str(self.started)), Trial.PENDING)
            self.handles.append(self.waiting.handle)
        chosen = self.search.scheduler.choose_trial_to_run(self)
        if chosen is self.waiting.handle:
            trial, self.waiting = self.waiting, None
        else:
            trial = self.paused.pop(chosen.trial_id)
        chosen.status = Trial.RUNNING
        return trial

    def get_trials(self) -> list[Handle]:
        """As Ray's controller has it, for the scheduler."""
        return self.handles


def hyperband(table: Table, seed: int) -> Search:
    """Ray's HyperBandScheduler as it comes, with random points."""
    scheduler = HyperBandScheduler(metric=METRIC, mode="max", max_t=table.epochs)
    return Search(RandomSearch(table.space, seed), scheduler)


def bohb(table: Table, seed: int) -> Search:
    """TuneBOHB with HyperBandForBOHB, both as they come."""
    import ConfigSpace
    import numpy as np
    from ray.tune.search.bohb import TuneBOHB

    np.random.seed(seed)  # noqa: NPY002  hpbandster draws from it
    space = ConfigSpace.ConfigurationSpace(seed=seed)
    for name, axis in table.space.items():
        assert isinstance(axis, Float)
        space.add(ConfigSpace.UniformFloatHyperparameter(name, axis.low, axis.high, log=axis.log))
    scheduler = HyperBandForBOHB(metric=METRIC, mode="max", max_t=table.epochs)
    return Search(TuneBOHB(space, metric=METRIC, mode="max", seed=seed), scheduler)


def sampled(table: Table, sampler: BaseSampler) -> Search:
    """OptunaSearch with this sampler under Ray's ASHA, all as they come."""
    space = distributions(table.space, table.space)
    return Search(OptunaSearch(space=space, sampler=sampler, metric=METRIC, mode="max"), stock_asha(table))


def cma_es(table: Table, seed: int) -> Search:
    return sampled(table, optuna.samplers.CmaEsSampler(seed=seed))


def gaussian_process(table: Table, seed: int) -> Search:
    torch.set_num_threads(1)
    return sampled(table, optuna.samplers.GPSampler(seed=seed))


def botorch(table: Table, seed: int) -> Search:
    """optuna-integration's."""
    from optuna_integration import BoTorchSampler

    torch.set_num_threads(1)
    return sampled(table, BoTorchSampler(seed=seed))


PEERS = {
    "Ray's ASHA + OptunaSearch": (Replay, POLICIES["Ray's ASHA + OptunaSearch"]),
    "ASHA + random": (Replay, POLICIES["ASHA + random"]),
    "random": (Replay, POLICIES["random"]),
    "Ray's HyperBand": (HyperbandReplay, hyperband),
    "BOHB": (HyperbandReplay, bohb),
    "Ray's ASHA + CMA-ES": (Replay, cma_es),
    "Ray's ASHA + GPSampler": (Replay, gaussian_process),
    "Ray's ASHA + BoTorch": (Replay, botorch),
}


def main() -> None:
    path, peer, epochs, *seeds = sys.argv[1:]
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for name in ("ray.tune", "hpbandster"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    table = taskset(Path(path))
    replay, policy = PEERS[peer]
    for seed in map(int, seeds):
        steps = islice(replay(policy(table, seed), table, seed).steps(), int(epochs))
        found = [(step.row, step.epoch) for step in steps]
        print(json.dumps({"seed": seed, "steps": found}), flush=True)


if __name__ == "__main__":
    main()
