"""Ctrl-C and SIGTERM end a search in order, whenever they come."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator


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


def announce_interrupts(announce: Callable[[], None]) -> None:
    """Call `announce` the moment Ctrl-C or SIGTERM comes: Ray's handlers, which end the search, print nothing.

    To be called in the main thread once `Tuner.fit` has set its handlers.
    """

    def announced(handler: Callable[..., object]) -> Callable[..., None]:
        def handle(number: int, frame: object) -> None:
            with contextlib.suppress(RuntimeError):  # it came in the midst of printing
                announce()
            handler(number, frame)

        return handle

    for number in (signal.SIGINT, signal.SIGUSR1):
        if callable(handler := signal.getsignal(number)):
            signal.signal(number, announced(handler))
