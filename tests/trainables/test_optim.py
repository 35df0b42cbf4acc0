"""Schedules against torch's own, accumulation against one gradient, and that a resumed trial goes on to the bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_engine import rows_of, weights_of
from tiny_trial import loss_of, tiny_dataset, tiny_settings
from torch.optim import lr_scheduler
from torch.optim.swa_utils import AveragedModel

from trainables import checkpoint
from trainables.engine import Engine
from trainables.errors import SettingsError
from trainables.optim import learning_rate, make_optimizer
from trainables.settings import TrainerSettings

STEPS = {"epochs": 4, "iterations_per_epoch": 6}


def make(family: str = "seesaw", **trainer: Any) -> Engine:
    settings = tiny_settings(trainer=trainer)
    return Engine(settings, loss_of(family), 0, dataset=tiny_dataset(settings.data))


def rates_of_torch(make_schedule: Any) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=1e-3)
    schedule, rates = make_schedule(optimizer), []
    for _ in range(24):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


@pytest.mark.parametrize(
    ("settings", "schedule"),
    [
        ({"schedule": "cosine"}, lambda o: lr_scheduler.CosineAnnealingLR(o, 24)),
        ({"schedule": "cosine", "restarts": 2}, lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 8)),
        ({"schedule": "constant"}, lambda o: lr_scheduler.ConstantLR(o, 1.0)),
        (
            {"schedule": "constant", "warmup_steps": 5},
            lambda o: lr_scheduler.LinearLR(o, start_factor=1 / 5, total_iters=4),
        ),
    ],
)
def test_schedules_are_torchs(settings: dict[str, Any], schedule: Any) -> None:
    trainer = TrainerSettings(lr=1e-3, **STEPS, **settings)
    assert [learning_rate(step, trainer) for step in range(24)] == pytest.approx(rates_of_torch(schedule), rel=1e-6)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_torchs_with_its_momentum(nesterov: bool) -> None:
    trainer = TrainerSettings(optimizer="sgd", lr=0.1, momentum=0.8, nesterov=nesterov, weight_decay=0.01)
    mine, wanted = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    plain = torch.optim.SGD([wanted], lr=0.1, momentum=0.8, nesterov=nesterov, weight_decay=0.01)
    optimizer = make_optimizer([mine], trainer)
    for step in range(3):
        for parameter, one in ((mine, optimizer), (wanted, plain)):
            parameter.grad = torch.tensor([1.0, -2.0, 0.5]) * (step + 1)
            one.step()
    torch.testing.assert_close(mine, wanted)
    assert type(make_optimizer([mine], TrainerSettings())) is torch.optim.AdamW


PLAIN = {"optimizer": "sgd", "momentum": 0, "weight_decay": 0, "clip_grad_norm": 0, "schedule": "constant"}


def test_losses_of_several_batches_can_be_averaged_before_one_step() -> None:
    engine = make("tversky", accumulate=3, pool_accumulated=False, **PLAIN)
    start = [p.detach().clone() for p in engine.optim.parameters]
    batches = [engine._patches(engine.sampler.batch(number)) for number in range(3)]
    means = [torch.zeros_like(p) for p in start]
    engine.model.train()
    for em, labels in batches:
        gradients = torch.autograd.grad(engine.train_step(em, labels)[0], engine.optim.parameters)
        means = [mean + gradient / 3 for mean, gradient in zip(means, gradients)]
    for number, (em, labels) in enumerate(batches):
        assert all(torch.equal(p, before) for p, before in zip(engine.optim.parameters, start))
        engine.train_on(em, labels, number)
    for parameter, before, mean in zip(engine.optim.parameters, start, means):
        torch.testing.assert_close(parameter, before - engine.settings.trainer.lr * mean)
    assert engine.sums.read()["skipped_share"] == 0


INSTANCE = {"options": {"norm": "instance"}}


@pytest.mark.parametrize("loss", ["seesaw", "tversky", "mixture"])
def test_accumulated_batches_are_one_large_batch(loss: str) -> None:
    """Loss, gradient and class counts, where every sample is normalised by itself: with batch norm only the loss of
    what the network gives is that of the whole, which each part normalised by its own mean."""
    params = {"name": "mixture", "params": {"cross_entropy": 0.5}} if loss == "mixture" else loss_of(loss)
    engines = [
        Engine(
            tiny_settings(model=INSTANCE, trainer={"batch_size": size, "accumulate": parts, **PLAIN}),
            params,
            0,
            dataset=tiny_dataset(tiny_settings().data),
        )
        for size, parts in ((6, 1), (2, 3))
    ]
    whole, divided = engines
    em, labels = whole._patches(whole.sampler.batch(0))
    whole.model.train()
    divided.model.train()
    whole.train_on(em, labels, 0)
    for part in range(3):
        divided.train_on(em[2 * part : 2 * part + 2], labels[2 * part : 2 * part + 2], part)
    for mine, theirs in zip(divided.optim.parameters, whole.optim.parameters):
        torch.testing.assert_close(mine, theirs)
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-3, atol=1e-6)
    read = [engine.sums.read() for engine in engines]
    assert read[1]["loss"] == pytest.approx(read[0]["loss"])
    assert read[1]["figures"] == pytest.approx(read[0]["figures"], nan_ok=True)
    for name in ("window_positive", "window_known", "num_batches"):
        assert torch.equal(getattr(divided.loss, name), getattr(whole.loss, name))


def test_dropout_drops_the_same_in_both_passes_and_after_a_resume() -> None:
    """The loss and the slope of a step are of the same network, and nothing of it needs to be kept."""
    engine = make("tversky", accumulate=3, **PLAIN)
    seen = list[float]()
    engine.model.register_forward_hook(lambda *_: seen.append(float(torch.rand(()))))
    rows_of(engine, 1)
    assert len(seen) == 3 * (3 + 2) + 3, "all batches of a step but the last go through it twice"
    for step in range(3):
        first, second = seen[5 * step : 5 * step + 2], seen[5 * step + 3 : 5 * step + 5]
        assert first == second
    assert len({*seen[:15]}) == 9, "every batch has its own"


def test_an_epoch_of_accumulated_steps_sees_that_many_batches() -> None:
    engine, seen = make(accumulate=2), list[int]()
    batch = engine.sampler.batch
    engine.sampler.batch = lambda number: seen.append(number) or batch(number)
    engine.run_epoch()
    engine.run_epoch()
    assert seen == list(range(2 * 2 * 3))
    assert {int(state["step"]) for state in engine.optim.optimizer.state.values()} == {6}


HARD_TO_RESUME = {
    "plateau": {"schedule": "plateau", "plateau_patience": 0, "warmup_steps": 4, "lr": 0.3},
    "average": {"swa_from": 2, "schedule": "cosine", "restarts": 1},
    "accumulated sgd": {"optimizer": "sgd", "nesterov": True, "accumulate": 2, "schedule": "constant"},
}


@pytest.mark.parametrize("trainer", HARD_TO_RESUME.values(), ids=list(HARD_TO_RESUME))
def test_resuming_is_exact(trainer: dict[str, Any], tmp_path: Any) -> None:
    straight = make(**trainer)
    rows = rows_of(straight, 4)
    for cut in (1, 2, 3):
        first = make(**trainer)
        rows_of(first, cut)
        checkpoint.write(tmp_path / "a.pt", first.state_dict())
        second = make(**trainer)
        rows_of(second, 1)
        second.reset(loss_of("seesaw"), 0, second.settings.trainer)
        second.load_state_dict(checkpoint.read(tmp_path / "a.pt"))
        assert rows_of(second, 4 - cut) == rows[cut:]
        assert torch.equal(weights_of(second), weights_of(straight))


def test_the_rate_falls_where_the_figure_stands_still() -> None:
    """It is the objective's: the same epochs, once said to get better and once not."""
    trainer = {"schedule": "plateau", "plateau_patience": 0, "plateau_factor": 0.1, "lr": 1e-3}
    for figures, share in (([0.1, 0.2, 0.3], 1.0), ([0.3, 0.2, float("nan")], 0.01)):
        engine = make(**trainer)
        for figure in figures:
            engine.optim.take_figure(figure, engine.settings.trainer)
        em, labels = engine._patches(engine.sampler.batch(0))
        engine.train_on(em, labels, 0)
        assert engine.optim.optimizer.param_groups[0]["lr"] == pytest.approx(1e-3 * share)


def test_the_average_of_the_weights_is_validated_and_training_goes_on_without_it() -> None:
    plain, averaged = make(), make(swa_from=2)
    wanted = AveragedModel(plain.model)
    for epoch in range(1, 4):
        live, row = plain.run_epoch(), averaged.run_epoch()
        assert row["loss"] == live["loss"], "training does not notice"
        if epoch >= 2:
            wanted.update_parameters(plain.model)
            for mine, mean in zip(averaged.model.parameters(), wanted.module.parameters()):
                assert torch.equal(mine, mean)
    assert row["val_loss"] != live["val_loss"]
    # batch norm: the mean and variance of what the averaged weights put out, not those of the live ones
    statistics = {k: v for k, v in averaged.model.state_dict().items() if k.endswith("running_mean")}
    assert all(not torch.equal(v, plain.model.state_dict()[k]) for k, v in statistics.items())
    averaged.model.train()
    for layer in averaged.model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.reset_running_stats()
            layer.momentum = None
    averaged.epoch = 2
    for patches in map(averaged._patches, averaged._batches()):
        averaged.forward(*patches)
    for name, value in statistics.items():
        torch.testing.assert_close(averaged.model.state_dict()[name], value)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"optimizer": "lion"}, r"trainer\.optimizer=lion.*adamw, sgd"),
        ({"schedule": "linear"}, r"trainer\.schedule=linear.*one_cycle"),
        ({"nesterov": True, "momentum": 0}, r"trainer\.nesterov=True.*momentum > 0"),
        ({"swa_from": 61}, r"trainer\.swa_from=61.*\[0, 60\]"),
        ({"accumulate": 0}, r"trainer\.accumulate=0"),
        ({"plateau_factor": 1}, r"trainer\.plateau_factor=1"),
        ({"warmup_steps": -1}, r"trainer\.warmup_steps=-1"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], match: str) -> None:
    with pytest.raises(SettingsError, match=match):
        TrainerSettings(**settings)
