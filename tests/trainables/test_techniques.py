"""Noise in the weights, plateaus that raise the learning rate, and a curriculum of terms."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from test_engine import rows_of, weights_of
from test_ranks import Ranks
from tiny_trial import tiny_dataset, tiny_settings
from torch._dynamo.testing import CompileCounter

from trainables import checkpoint
from trainables.engine import Engine
from trainables.errors import SettingsError
from trainables.losses import build
from trainables.optim import Stalls, learning_rate
from trainables.settings import TrainerSettings

TERMS = {"dice": 0.5, "focal": 0.3, "variance": 0.2}
PLAIN = {"name": "composite", "params": TERMS}
TAUGHT = {"name": "composite", "params": TERMS | {"curriculum_from": 1.0, "curriculum_ramp": 2.0}}


def make(loss: dict[str, Any] = PLAIN, seed: int = 0, **how: Any) -> Engine:
    ranks = {name: how.pop(name) for name in ("rank", "world", "reduce") if name in how}
    settings = tiny_settings(model={"options": {"norm": "instance"}}, trainer=how)
    return Engine(settings, loss, seed, dataset=tiny_dataset(settings.data), **ranks)


HARD_TO_RESUME = {
    "noise": (PLAIN, {"noise_std": 0.01, "noise_from": 2, "noise_every": 2, "swa_from": 3}),
    "multiplier": (PLAIN, {"plateau_multiplier": [1.5, 0.85], "plateau_patience": 0, "lr": 0.3}),
    "curriculum": (TAUGHT, {"schedule": "constant"}),
}


@pytest.mark.parametrize("what", HARD_TO_RESUME)
def test_resuming_is_exact(what: str, tmp_path: Any) -> None:
    loss, trainer = HARD_TO_RESUME[what]
    straight = make(loss, **trainer)
    rows = rows_of(straight, 4)
    for cut in (1, 2, 3):
        first = make(loss, **trainer)
        rows_of(first, cut)
        checkpoint.write(tmp_path / "a.pt", first.state_dict())
        second = make(PLAIN, **trainer)
        second.reset(loss, 0, second.settings.trainer)
        second.load_state_dict(checkpoint.read(tmp_path / "a.pt"))
        assert rows_of(second, 4 - cut) == rows[cut:]
        assert torch.equal(weights_of(second), weights_of(straight))


def test_noise_comes_before_the_epochs_it_is_due_at_and_has_its_spread() -> None:
    engine = make(noise_std=0.02, noise_from=3, noise_every=2, epochs=9)
    moved = []
    for epoch in range(1, 10):
        before = weights_of(engine)
        engine.optim.add_noise(epoch, 7, engine.settings.trainer)
        noise = weights_of(engine) - before
        moved.append(epoch) if noise.any() else None
        if epoch in (3, 5):
            assert float(noise.std()) == pytest.approx(0.02, rel=0.1)
            assert abs(float(noise.mean())) < 0.002
    assert moved == [3, 5, 7, 9]


def test_noise_is_a_function_of_seed_and_epoch_alone() -> None:
    def noise(epoch: int, seed: int) -> torch.Tensor:
        engine = make(noise_std=0.02)
        before = weights_of(engine)
        torch.manual_seed(epoch * 100 + seed)
        engine.optim.add_noise(epoch, seed, engine.settings.trainer)
        return weights_of(engine) - before

    assert torch.equal(noise(2, 5), noise(2, 5))
    assert not torch.equal(noise(2, 5), noise(3, 5))
    assert not torch.equal(noise(2, 5), noise(2, 6))


def test_ranks_have_the_same_noise_and_terms() -> None:
    ranks, how = Ranks(), {"noise_std": 0.01, "batch_size": 4, "lr": 1e-3}
    alone = make(TAUGHT, **how)
    engines = [make(TAUGHT, rank=r, world=2, reduce=lambda t, r=r: ranks.reduce(r, t), **how) for r in range(2)]

    def train(engine: Engine) -> dict[str, Any]:
        engine.run_epoch()
        return engine.run_epoch()

    row = train(alone)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(train, engines))
    assert torch.equal(weights_of(engines[0]), weights_of(engines[1]))
    torch.testing.assert_close(weights_of(engines[0]), weights_of(alone), rtol=1e-3, atol=1e-5)
    for name in ("loss", *(f"term/{name}" for name in TERMS)):
        assert found[0][name] == found[1][name] == pytest.approx(row[name], rel=1e-3)


@pytest.mark.parametrize(("a", "b", "factors"), [(1, 0.3, [1, 1.3, 2.08]), (1.5, 0.85, [1.5, 3.525, 11.28])])
def test_every_plateau_multiplies_the_rate_by_a_larger_number(a: float, b: float, factors: list[float]) -> None:
    stalls, seen = Stalls(), []
    for figure in (float("nan"), 0.5, 0.4, 0.5, 0.6, 0.6, 0.1, float("nan"), 0.2, 0.3):
        before = stalls.count
        stalls.take(figure, mode="max", patience=1, multiplier=[a, b])
        seen += [stalls.factor] if stalls.count > before else []
    assert seen == pytest.approx(factors)
    lowest = Stalls()
    for figure in (0.5, 0.4, 0.3):
        lowest.take(figure, mode="min", patience=0, multiplier=[a, b])
    assert lowest.factor == 1.0


def test_the_rate_of_any_schedule_is_multiplied() -> None:
    engine = make(plateau_multiplier=[2.0, 1.0], plateau_patience=0, schedule="cosine", lr=1e-3)
    for figure in (0.3, 0.2, 0.1):
        engine.optim.take_figure(figure, engine.settings.trainer)
    em, labels = engine._patches(engine.sampler.batch(2))
    engine.train_on(em, labels, 2)
    expected = 2 * 3 * learning_rate(2, engine.settings.trainer)
    assert engine.optim.optimizer.param_groups[0]["lr"] == pytest.approx(expected)


def test_a_curriculum_begins_with_dice_and_ends_with_the_weights() -> None:
    loss, plain = build("composite", TAUGHT["params"], ["a"]), build("composite", TERMS, ["a"])
    logits, target = torch.randn(2, 1, 6, 6), (torch.rand(2, 1, 6, 6) < 0.5).float()
    alone = {name: build("composite", {name: 1.0}, ["a"])(logits, target)[0] for name in TERMS}
    for elapsed, share in ((0, 0), (0.9, 0), (1, 1 / 3), (2, 2 / 3), (3, 1), (9, 1)):
        loss.begin_epoch(elapsed)
        expected = share * plain(logits, target)[0] + (1 - share) * sum(TERMS.values()) * alone["dice"]
        torch.testing.assert_close(loss(logits, target)[0], expected)


def test_a_curriculum_without_dice_at_its_end_computes_it_all_along_and_compiles_once() -> None:
    torch._dynamo.reset()
    params = {"tversky": 0.4, "entropy": 0.6, "curriculum_from": 2.0}
    counter, loss = CompileCounter(), build("composite", params, ["a"])
    assert loss.figure_names == ["loss/a", "term/dice", "term/entropy"]
    compiled = torch.compile(loss.with_counts, backend=counter, fullgraph=True, dynamic=False)
    logits, target = torch.randn(2, 1, 6, 6), (torch.rand(2, 1, 6, 6) < 0.5).float()
    values = []
    for elapsed in (0, 2):
        loss.begin_epoch(elapsed)
        values.append(compiled(logits, target)[0])
    assert counter.frame_count == 1
    torch.testing.assert_close(values[0], build("composite", {"dice": 1.0}, ["a"])(logits, target)[0])
    ends = build("composite", {"tversky": 0.4, "entropy": 0.6}, ["a"])(logits, target)[0]
    torch.testing.assert_close(values[1], ends)


def test_published_epochs_come_as_early_as_the_training_is_short() -> None:
    trainer = TrainerSettings(epochs=6, published_epochs=60, swa_from=40)
    assert [trainer.epochs_here(n) for n in (0, 2, 10, 40, 60)] == [0, 1, 1, 4, 6]
    assert TrainerSettings(epochs=6).epochs_here(4) == 4
    short = make(TAUGHT | {"params": TERMS | {"curriculum_from": 30.0}}, epochs=4, published_epochs=60)
    rows = rows_of(short, 3)
    figures = [row["loss"] / row["term/dice"] for row in rows]
    assert figures[:2] == pytest.approx([1, 1], rel=1e-4)
    assert figures[2] != pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"noise_std": -1.0}, r"trainer\.noise_std=-1"),
        ({"noise_every": 0}, r"trainer\.noise_every=0"),
        ({"plateau_multiplier": [1.0]}, r"trainer\.plateau_multiplier=\[1\.0\]: two numbers"),
        ({"plateau_multiplier": [0.0, 1.0]}, r"two numbers a > 0"),
        ({"published_epochs": 20, "swa_from": 30}, r"trainer\.swa_from=30.*\[0, 20\]"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], match: str) -> None:
    with pytest.raises(SettingsError, match=match):
        TrainerSettings(**settings)
