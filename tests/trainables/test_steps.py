"""What surrounds the graphs of a training step: waiting is counted, batches are prepared ahead in order."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch

from trainables.steps import Waiting, prepare_ahead


def test_waiting_counts_the_seconds_between_asking_and_getting(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("trainables.steps.time.perf_counter", lambda: clock[0])

    def pass_time(seconds: float) -> None:
        clock[0] += seconds

    waiting = Waiting(pass_time(2) or number for number in range(3))
    for _ in waiting:
        pass_time(100)  # its user's
    assert waiting.seconds == 6


def test_waiting_passes_errors_on():
    with pytest.raises(ZeroDivisionError):
        list(Waiting(1 // n for n in (1, 0)))


def test_on_the_cpu_a_batch_is_prepared_when_it_is_asked_for():
    log = []
    prepared = prepare_ahead(range(3), lambda n: log.append(n) or n * n, torch.device("cpu"))
    assert next(prepared) == 0
    assert log == [0]
    assert list(prepared) == [1, 4]


class FakeStream:
    """Writes down what a CUDA stream would be told."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def record_event(self) -> str:
        self.log.append(f"{self.name} records")
        return "event"

    def wait_event(self, event: str) -> None:
        self.log.append(f"{self.name} waits")


class FakeTensor:
    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def record_stream(self, stream: FakeStream) -> None:
        self.log.append(f"{self.name} is used by {stream.name}")


def test_on_cuda_the_next_batch_is_given_to_another_stream_before_this_one_is_used(monkeypatch):
    log: list[str] = []

    @contextmanager
    def on(stream):
        log.append(f"[{stream.name}")
        yield
        log.append("]")

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: FakeStream("copier", log))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: FakeStream("trainer", log))
    monkeypatch.setattr(torch.cuda, "stream", on)

    def prepare(number: int) -> tuple[FakeTensor, FakeTensor]:
        log.append(f"prepare {number}")
        return FakeTensor(f"em {number}", log), FakeTensor(f"labels {number}", log)

    for em, _ in prepare_ahead(range(2), prepare, torch.device("cuda")):
        log.append(f"train on {em.name}")
    assert log == [
        "[copier",
        "prepare 0",
        "copier records",
        "]",
        "[copier",
        "prepare 1",
        "copier records",
        "]",
        "trainer waits",
        "em 0 is used by trainer",
        "labels 0 is used by trainer",
        "train on em 0",
        "trainer waits",
        "em 1 is used by trainer",
        "labels 1 is used by trainer",
        "train on em 1",
    ]
