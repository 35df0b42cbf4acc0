"""SIGTERM is an interrupt, whoever listens."""

from __future__ import annotations

import os
import signal

import pytest

from tune_app.sweep.interrupt import announce_interrupts, interrupts

NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in NUMBERS]


def test_outside_of_a_search_it_raises():
    before = handlers()
    with interrupts(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)
    assert handlers() == before


def test_in_a_search_it_becomes_the_signal_that_ray_ends_on():
    heard = []
    before = handlers()
    with interrupts(), interrupts():
        signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))  # as Tuner.fit does
        signal.signal(signal.SIGINT, lambda number, frame: None)
        os.kill(os.getpid(), signal.SIGTERM)
    assert heard == [signal.SIGUSR1]
    assert handlers() == before, "also those that Ray leaves behind"


def test_it_is_announced_before_ray_acts_on_it():
    heard = []
    with interrupts():
        for number in (signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, lambda number, frame: heard.append(number))  # as Tuner.fit does
        announce_interrupts(lambda: heard.append("announced"))
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
    assert heard == ["announced", signal.SIGINT, "announced", signal.SIGUSR1]
