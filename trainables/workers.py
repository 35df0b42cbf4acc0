"""The processes of a trial behind one interface: one, or several ranks on one node that share every batch.

Rank 0 is the trial's actor; ranks 1 … are actors in the further bundles of its placement group. They are started once
and kept as long as the actor is, from trial to trial, and with them the process group: NCCL between GPUs, gloo between
CPUs, on the loopback interface, met in a file. Every rank builds the same engine and hears the same calls in the same
order; what they sum up, they sum in `Engine`.

A rank that dies or fails ends the epoch of all within a second or so: rank 0 looks at the others' calls while it
trains, because not every backend tells of a lost peer. Ray then starts the trial again from its checkpoint.
"""

from __future__ import annotations

import gc
import logging
import os
import tempfile
import threading
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import ray
import torch
import torch.distributed as dist
from ray.util import get_current_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from torch import Tensor

from trainables.engine import Engine, Row
from trainables.errors import TrainablesError, WorkerError
from trainables.settings import TrialSettings
from trainables.steps import no_reduction

logger = logging.getLogger(__name__)

POLL_S = 0.5
"""Between two looks at the other ranks."""
DEATH_S = 10
"""Within which Ray has heard of a worker's death."""
STUCK_S = 60
"""After which a rank 0 that still waits for a lost one ends its process, so that Ray starts it again."""
MOST_PARKED = 1 << 30
"""Bytes of weights of the networks that a process keeps on the CPU beside the one it trains."""
LONGEST_WAIT = timedelta(hours=1)
"""Of one rank for another that lives: it may have to compile first."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device, or the machine, had no room for a tensor."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator: can't allocate memory" in str(error)


def num_workers(resources: Mapping[str, Any]) -> int:
    """Processes of a trial with these resources: as many as it says, else one per GPU, one at least."""
    return int(resources.get("workers_per_trial") or max(1, int(resources["gpus_per_trial"])))


class Worker:
    """One rank: the engine, and its part of the process group."""

    def __init__(self, rank: int = 0, world: int = 1) -> None:
        self.rank, self.world = rank, world
        self.engine: Engine | None = None
        """That of the latest `prepare`."""
        self.reduce: Callable[[Tensor], object] = no_reduction if world == 1 else dist.all_reduce
        """Sums a tensor in place over the ranks."""
        self._parked: list[Engine] = []

    def join(self, meeting: str, backend: str) -> None:
        """Become part of the process group that meets in this file. All ranks are on one node: on loopback."""
        for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            os.environ.setdefault(name, "lo")
        where = {"init_method": f"file://{meeting}", "timeout": LONGEST_WAIT}
        dist.init_process_group(backend, rank=self.rank, world_size=self.world, **where)  # type: ignore[arg-type]

    def prepare(
        self, settings: TrialSettings, loss: Mapping[str, Any], seed: int, share: float, cpus: int, pieces: int = 1
    ) -> None:
        """Have the engine of these settings: one of this process that fits, reset in place, else a new one.

        Engines that do not fit are parked with their compiled graphs, for when their network comes again; where memory
        gets short all of them are let go. pieces: those of a new engine, see `Engine`; one that is there keeps to what
        had fitted into memory.
        """
        name = loss["name"]
        if self.engine is not None and not self.engine.fits(settings, name, share=share, cpus=cpus):
            self.engine.park()
            self._parked.append(self.engine)
            self.engine = next((e for e in self._parked if e.fits(settings, name, share=share, cpus=cpus)), None)
            if self.engine is not None:
                self._parked.remove(self.engine)
            elif not self._room():
                self.drop()
        if self.engine is not None:
            self.engine.reset(loss, seed, settings.trainer, settings.objective)
            return
        ranks: dict[str, Any] = {"rank": self.rank, "world": self.world, "reduce": self.reduce, "pieces": pieces}
        self.engine = Engine(settings, loss, seed, share=share, cpus=cpus, **ranks)

    def _room(self) -> bool:
        """Whether there is memory for one engine more beside those that are parked."""
        hardware = self._parked[-1].hardware
        if hardware.cuda:
            whole = torch.cuda.get_device_properties(hardware.device).total_memory * hardware.memory_fraction
            return torch.cuda.memory_reserved(hardware.device) < whole / 2
        weights = sum(p.numel() * p.element_size() for engine in self._parked for p in engine.model.parameters())
        return weights < MOST_PARKED

    def drop(self) -> None:
        """Free the memory and the graphs of all engines."""
        engines = [*self._parked, *([self.engine] if self.engine else [])]
        compiled = any(engine.train_step.compiled for engine in engines)
        self._parked, self.engine = [], None
        del engines
        gc.collect()
        if compiled:
            torch.compiler.reset()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of rank 0."""
        assert self.engine is not None
        self.engine.load_state_dict(state)

    def run_epoch(self, on_step: Callable[[int, int], None] | None = None) -> Row:
        """One epoch, in step with the other ranks. The row is the same on all of them, times aside."""
        assert self.engine is not None
        return self.engine.run_epoch(on_step)


class Workers:
    """All ranks of a trial, seen from rank 0. Raises WorkerError where one of the others is lost or fails."""

    def __init__(self, resources: Mapping[str, Any], *, cuda: bool) -> None:
        self.world = num_workers(resources)
        self.own = Worker(0, self.world)
        self._others: list[Any] = []
        if self.world > 1:
            self._start(resources, cuda)

    @property
    def engine(self) -> Engine | None:
        """That of rank 0, whose state is the trial's; None before the first `prepare` and after `stop`."""
        return self.own.engine

    def _start(self, resources: Mapping[str, Any], cuda: bool) -> None:
        group = get_current_placement_group()
        assert group is not None, "a trial of several workers runs in the bundles that it asked for"
        gpus = 1 if resources["gpus_per_trial"] else 0
        for rank in range(1, self.world):
            bundle = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank)
            where = {"num_cpus": resources["cpus_per_trial"], "num_gpus": gpus, "scheduling_strategy": bundle}
            self._others.append(ray.remote(Worker).options(**where).remote(rank, self.world))
        folder = Path(tempfile.mkdtemp(prefix="ranks-"))
        try:
            meeting, backend = str(folder / "meeting"), "nccl" if cuda else "gloo"
            self._together("join", lambda: self.own.join(meeting, backend), meeting, backend)
        finally:
            (folder / "meeting").unlink(missing_ok=True)
            folder.rmdir()

    def prepare(
        self, settings: TrialSettings, loss: Mapping[str, Any], seed: int, share: float, cpus: int, pieces: int = 1
    ) -> None:
        """`Worker.prepare` of all ranks."""
        how = (settings, loss, seed, share, cpus, pieces)
        self._together("prepare", lambda: self.own.prepare(*how), *how)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """`Worker.load_state_dict` of all ranks."""
        self._together("load_state_dict", lambda: self.own.load_state_dict(state), state)

    def run_epoch(self, on_step: Callable[[int, int], None] | None = None) -> Row:
        """`Worker.run_epoch` of all ranks; the row of rank 0."""
        row: Row = self._together("run_epoch", lambda: self.own.run_epoch(on_step))
        return row

    def _together(self, name: str, mine: Callable[[], Any], *arguments: Any) -> Any:
        """Have all ranks do the same at once; the result of rank 0."""
        if not self._others:
            return mine()
        calls = [getattr(other, name).remote(*arguments) for other in self._others]
        watch = _Watch(calls, self._abandon)
        try:
            result = mine()
            ray.get(calls)
        except BaseException as error:
            if isinstance(error, RuntimeError) and not is_out_of_memory(
                error
            ):  # a connection that closed is heard of before the death behind it
                ray.wait(calls, num_returns=1, timeout=DEATH_S)
            lost = watch.finish()
            self.stop()
            own = lost is None and not isinstance(error, ray.exceptions.RayError)
            if own or isinstance(error, TrainablesError):
                raise  # the others wait for us in vain, and have been ended
            cause = lost or error
            if is_out_of_memory(cause):
                raise torch.OutOfMemoryError(str(cause)) from error
            raise WorkerError(f"A worker of the trial was lost ({type(cause).__name__}: {cause})") from error
        watch.finish()
        return result

    def _abandon(self) -> None:
        """End the wait of rank 0 for a lost one, from another thread."""
        for other in self._others:
            ray.kill(other)  # closes its connections, at which gloo gives up
        if dist.is_initialized() and dist.get_backend() == "nccl":
            dist.distributed_c10d._abort_process_group()

    def stop(self) -> None:
        """End the other ranks, leave the group, and let go of the device."""
        for other in self._others:
            ray.kill(other)
        self._others = []
        if self.world > 1 and dist.is_initialized():
            dist.destroy_process_group()
        self.own.drop()


class _Watch:
    """A thread that looks at the calls of the other ranks until `finish`, and says once that one of them has failed."""

    def __init__(self, calls: list[Any], abandon: Callable[[], None]) -> None:
        self._calls, self._abandon = calls, abandon
        self._over = threading.Event()
        self._lost: BaseException | None = None
        self._thread = threading.Thread(target=self._look, name="watch-ranks", daemon=True)
        self._thread.start()

    def finish(self) -> BaseException | None:
        """Stop looking; what became of the others, None where nothing did."""
        self._over.set()
        self._thread.join()
        return self._lost or _failure(self._calls)

    def _look(self) -> None:
        while not self._over.wait(POLL_S):
            self._lost = _failure(self._calls)
            if self._lost is not None:
                break
        else:
            return
        logger.error("A worker of the trial is lost: %s", self._lost)
        self._abandon()
        if not self._over.wait(STUCK_S):
            logger.error("Still waiting for it after %d s: this process ends, to be started again", STUCK_S)
            os._exit(1)


def _failure(calls: list[Any]) -> BaseException | None:
    """What one of the calls that have ended raised, if any."""
    ended, _ = ray.wait(calls, num_returns=len(calls), timeout=0)
    for call in ended:
        try:
            ray.get(call)
        except Exception as error:
            return error
    return None
