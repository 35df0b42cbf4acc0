"""How many trials a search may have at once on a cluster that was there before it, where nodes come and go."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Trial

from tune_app.ray_adapters.session import TrialResources, free_slots
from tune_app.sweep.standstill import LOOK_EVERY_S


class FreeSlots(Callback):
    """Tune callback: allows the trials that run, as many as find room beside them, and one more.

    So all of them begin together instead of one after another, and none is proposed long before it can begin. The one
    more is for trials that take less than most, and for nodes that come; it waits, which is what shows that there is
    use for more. What was allowed stays allowed while no node is lost: a trial that is handed the process of another
    does not run for a moment, and its place is taken.
    """

    def __init__(self, resources: TrialResources, allow: Callable[[int], None], *, most: int = 0) -> None:
        """most: trials at once that a person allows; 0: any number."""
        self._resources, self._allow, self._most = resources, allow, most
        self._allowed = self._nodes = 0
        self._look([])

    def on_step_end(self, iteration: int, trials: list, **info: Any) -> None:
        if time.monotonic() - self._looked >= LOOK_EVERY_S:
            self._look(trials)

    def _look(self, trials: list) -> None:
        free, nodes = free_slots(self._resources)
        running = sum(trial.status == Trial.RUNNING for trial in trials)
        before = self._allowed if nodes >= self._nodes else 0
        self._allowed = max(before, running + max(1, free))
        self._nodes, self._looked = nodes, time.monotonic()
        self._allow(min(self._allowed, self._most or self._allowed))
