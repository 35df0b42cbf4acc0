"""The trainable of a sweep, which also tells when the first training step of a trial was done."""

from __future__ import annotations

import time
from typing import Any

from trainables.trial import SegmentationTrial

FIRST_STEP = "time_first_step"


class TimedTrial(SegmentationTrial):
    """Adds FIRST_STEP, Unix seconds, to the row of the first epoch: the optimiser has made its first step."""

    def _train(self) -> dict[str, Any]:
        assert self._engine is not None
        marks: dict[str, float] = {}
        if self._engine.epoch == 0:
            self._engine.optim.optimizer.register_step_post_hook(lambda *_: marks.setdefault(FIRST_STEP, time.time()))
        return super()._train() | marks
