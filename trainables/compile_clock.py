"""How long this process has compiled, and how many graphs, as Dynamo itself reports it."""

from __future__ import annotations

import time
from typing import Any


class CompileClock:
    """Counts from its making on, until `torch.compiler.reset`. Both stay 0 where nothing is compiled.

    A backward graph that is compiled when it is first used, and the recording of CUDA graphs, take seconds too; they
    belong to a graph that is counted already.
    """

    seconds: float = 0.0
    graphs: int = 0
    """Graphs traced, those traced again for other shapes or constants included: a sweep needs two per process."""

    def __init__(self, *, running: bool) -> None:
        if running:
            from torch._dynamo import callback_handler  # its import takes seconds

            callback_handler.register_start_callback(self._begin)
            callback_handler.register_end_callback(self._end)

    def _begin(self, what: Any) -> None:
        self._began = time.perf_counter()
        self.graphs += what.callback_trigger.name == "DYNAMO"

    def _end(self, what: Any) -> None:
        self.seconds += time.perf_counter() - self._began
