"""What surrounds the graphs of a training step: waiting is counted, batches are prepared ahead in order."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial

import pytest
import torch
from tiny_trial import CLASSES, loss_of, tiny_dataset, tiny_settings

from trainables import losses
from trainables.engine import Engine
from trainables.errors import SettingsError
from trainables.inference import inference
from trainables.settings import DataSettings
from trainables.steps import Step, Waiting, normalise, prepare_ahead


def test_grey_values_are_clipped_to_the_window_and_scaled():
    grey = torch.tensor([0, 10, 11, 102, 194, 195, 255], dtype=torch.uint8)
    assert torch.equal(normalise(grey), grey.float() / 255), "every grey value as before where there is no window"
    expected = [0, 0, 0.4 / 183.5, 91.4 / 183.5, 183.4 / 183.5, 1, 1]
    assert normalise(grey, (10.6, 194.1)).tolist() == pytest.approx(expected, abs=1e-6)
    assert normalise(torch.tensor([-3.0, 300.0]), (10.6, 194.1)).tolist() == [0, 1]


def test_training_and_the_exported_network_see_the_same_window():
    settings = tiny_settings(data={"intensity": [10.6, 194.1]})
    engine = Engine(settings, loss_of("static"), 0, dataset=tiny_dataset(settings.data))
    batch = engine.validator.batches[0]
    with torch.no_grad():
        engine.model.eval()
        trained = engine.forward(batch.em, batch.labels)[0]
        clipped = ((batch.em[:, :, 0].float() - 10.6) / 183.5).clamp(0, 1)
        torch.testing.assert_close(trained, engine.model(clipped))
        alone = inference(settings, engine.model.state_dict(), [0.0] * len(CLASSES))
        torch.testing.assert_close(alone(batch.em[:, :, 0]), trained)


@pytest.mark.parametrize(
    "intensity", [[5.0], [5.0, 5.0], [20.0, 10.0], [-1.0, 100.0], [0.0, 256.0], [0.0, float("nan")]]
)
def test_a_window_that_is_none_is_refused(intensity):
    with pytest.raises(SettingsError, match=r"data\.intensity.*low < high"):
        DataSettings(intensity=intensity)


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


def test_a_step_keeps_a_graph_for_every_set_of_terms(monkeypatch: pytest.MonkeyPatch) -> None:
    """More sets than the graphs of a code object that torch keeps by itself: beyond that a step would fail."""
    compiler = partial(torch.compile, backend="eager")
    monkeypatch.setattr(torch, "compile", lambda function, **how: compiler(function, dynamic=False, fullgraph=True))
    with torch._dynamo.config.patch(recompile_limit=8):
        loss = losses.build("composite", {"dice": 1.0}, ["a"])
        step = Step(lambda z, t: loss.with_counts(z, t)[0], compiled=True, cuda=False)
        logits, target = torch.randn(1, 1, 4, 4), torch.ones(1, 1, 4, 4)
        names = ("dice", "focal", "variance", "entropy")
        for some in range(1, 13):
            params = {name: 1.0 for bit, name in enumerate(names) if some >> bit & 1}
            loss.reset("composite", params)
            torch.testing.assert_close(step(logits, target), loss(logits, target)[0])
