"""Ctrl-C and SIGTERM end a search in order, whenever they come."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator


@contextlib.contextmanager
def interrupts() -> Iterator[None]:
    """SIGTERM, which schedulers send, does what Ctrl-C does; Ray's handlers end with the body.

    To be entered after ray.init, which has a SIGTERM handler of its own. While `Tuner.fit` runs, Ray ends the search in
    order on SIGINT and SIGUSR1; it leaves its handlers behind. Before and after, KeyboardInterrupt is raised.
    """

    def terminate(number: int, frame: object) -> None:
        if signal.getsignal(signal.SIGUSR1) is usual_user_signal:
            raise KeyboardInterrupt
        os.kill(os.getpid(), signal.SIGUSR1)

    usual_user_signal = signal.getsignal(signal.SIGUSR1)
    replaced = {signal.SIGTERM: signal.signal(signal.SIGTERM, terminate)}
    replaced |= {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGUSR1)}
    try:
        yield
    finally:
        for number, handler in replaced.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
