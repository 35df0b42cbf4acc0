"""The loss module: counting, windows, resets in place, checkpoints, one compiled graph, bad parameters."""

from __future__ import annotations

import copy
import io
import math
import pickle
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from trainables.errors import SettingsError
from trainables.losses import RULES, WeightedTversky, build, is_exclusive
from trainables.losses.weights import class_balanced_weights, mitigation
from trainables.metrics import ValidationCounts, logit_bin

CLASSES = ("a", "b", "c")
PARAMS = {
    "static": {"weights": [0.2, 1.0, 3.0]},
    "class_balanced": {"one_minus_beta": 0.01},
    "balanced_softmax": {"tau": 1.5, "apply_at": "inference"},
    "seesaw": {"p": 0.8, "q": 2.0},
    "tversky": {"fp_weight": 0.3},
    "mixture": {"cross_entropy": 0.3, "tau": 1.0},
    "composite": {"tversky": 0.3, "cross_entropy": 0.2, "focal": 0.7, "sqrt_dice": 0.1, "focal_alpha": 0.4},
}


def targets(number: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rates = torch.tensor([0.5, 0.2, 0.05]).view(1, 3, 1, 1)
    batches = [(torch.rand(2, 3, 8, 8, generator=generator) < rates).float() for _ in range(number)]
    for batch in batches:
        batch[torch.rand(batch.shape, generator=generator) < 0.25] = math.nan
    return batches


def train(loss: WeightedTversky, batches: list[Tensor]) -> list[list[float]]:
    history = []
    for target in batches:
        loss.accumulate_(*loss.count(target))
        loss.end_batch()
        history.append(torch.cat([loss.weight, loss.shift, loss.inference_shift]).tolist())
    return history


def plain_counts(batches: list[Tensor]) -> tuple[list[float], list[float]]:
    stack = torch.cat(batches).transpose(0, 1).flatten(1).tolist()
    positive = [float(sum(v == 1 for v in values)) for values in stack]
    return positive, [float(sum(not math.isnan(v) for v in values)) for values in stack]


def test_every_rule_is_covered_here() -> None:
    assert PARAMS.keys() == {name for name in RULES if not is_exclusive(name)}


def test_counts_are_exact_and_factors_neutral_until_the_first_update() -> None:
    loss = build("seesaw", {"p": 0.8, "q": 2.0}, CLASSES, count_update_every=4)
    batches = targets(8)
    history = train(loss, batches)
    positive, known = plain_counts(batches)
    assert history[2][:3] == [1.0, 1.0, 1.0]
    assert loss.positive_count.tolist() == positive
    assert loss.known_count.tolist() == known
    expected = mitigation(torch.tensor(plain_counts(batches[:4])[0], dtype=torch.float64), 0.8)
    assert history[3][:3] == pytest.approx(expected.tolist(), rel=1e-6)
    assert history[6] == history[3]
    assert history[7] != history[3]


def test_class_balanced_uses_counts_per_window_and_all_the_running_total() -> None:
    batches = targets(12)
    window = build("class_balanced", {"one_minus_beta": 0.003}, CLASSES, count_update_every=3, count_window="3")
    total = build("class_balanced", {"one_minus_beta": 0.003}, CLASSES, count_update_every=3, count_window="all")
    train(window, batches)
    train(total, batches)
    last, everything = (torch.tensor(plain_counts(b)[0], dtype=torch.float64) for b in (batches[9:], batches))
    assert window.weight.tolist() == pytest.approx(class_balanced_weights(last, 0.003).tolist(), rel=1e-6)
    assert total.weight.tolist() == pytest.approx(class_balanced_weights(everything, 0.003).tolist(), rel=1e-6)
    assert window.weight[2] > total.weight[2] + 0.05


def test_a_window_longer_than_the_update_period_is_a_mean_first_and_a_moving_average_later() -> None:
    batches = targets(10)
    loss = build("class_balanced", {"one_minus_beta": 0.003}, CLASSES, count_update_every=2, count_window="6")
    averages = []
    for start in range(0, 10, 2):
        train(loss, batches[start : start + 2])
        averages.append(loss.average_positive.clone())
    chunk = [torch.tensor(plain_counts(batches[i : i + 2])[0], dtype=torch.float64) / 2 for i in range(0, 10, 2)]
    torch.testing.assert_close(averages[2], (chunk[0] + chunk[1] + chunk[2]) / 3)
    torch.testing.assert_close(averages[3], averages[2] + (chunk[3] - averages[2]) / 3)
    expected = class_balanced_weights(averages[-1] * 6, 0.003)
    assert loss.weight.tolist() == pytest.approx(expected.tolist(), rel=1e-6)


def test_published_window_does_not_become_uniform_with_the_length_of_training() -> None:
    batches = targets(2)
    loss = build("class_balanced", {"one_minus_beta": 0.01}, CLASSES, count_update_every=2, count_window="2")
    history = train(loss, batches * 30)
    assert history[-1] == pytest.approx(history[1], rel=1e-6)


@pytest.mark.parametrize(
    ("apply_at", "shift_sign", "inference_sign"), [("train", 1, 0), ("inference", 0, 1), ("paper", -1, 0)]
)
def test_apply_at_decides_sign_and_place_of_the_shift(apply_at: str, shift_sign: int, inference_sign: int) -> None:
    batches = targets(3)
    loss = build("balanced_softmax", {"tau": 2.0, "apply_at": apply_at}, CLASSES, count_update_every=3)
    train(loss, batches)
    logs = [math.log(n) for n in plain_counts(batches)[0]]
    expected = [-2.0 * (value - sum(logs) / 3) for value in logs]
    assert expected[2] > 0 > expected[0]  # the rare class goes up
    assert loss.shift.tolist() == pytest.approx([shift_sign * s for s in expected], rel=1e-5)
    assert loss.inference_shift.tolist() == pytest.approx([inference_sign * s for s in expected], rel=1e-5)
    assert loss.weight.tolist() == [1.0, 1.0, 1.0]


def test_a_mixture_is_cross_entropy_at_one_end_and_dice_at_the_other() -> None:
    (target,), logits = targets(1), torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    known = ~target.isnan()
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits[known], target[known])
    dice = build("tversky", {"fp_weight": 0.5}, CLASSES)(logits, target)[0]
    for share in (0.0, 0.4, 1.0):
        mixed = build("mixture", {"cross_entropy": share}, CLASSES)(logits, target)[0]
        torch.testing.assert_close(mixed, share * entropy + (1 - share) * dice)
    nothing = torch.full_like(target, math.nan)
    assert float(build("mixture", {"cross_entropy": 1.0}, CLASSES)(logits, nothing)[0]) == 0


def test_a_mixture_adjusts_logits_as_balanced_softmax() -> None:
    params = {"tau": 1.0, "frequency": "share"}
    plain = build("balanced_softmax", params, CLASSES, count_update_every=1)
    mixed = build("mixture", params | {"cross_entropy": 0, "fp_weight": 0.6, "fn_weight": 0.4}, CLASSES)
    mixed.count_update_every = 1
    assert train(mixed, targets(2)) == train(plain, targets(2))
    logits = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    assert torch.equal(mixed(logits, targets(1)[0])[0], plain(logits, targets(1)[0])[0])


@pytest.mark.parametrize("name", sorted(PARAMS))
def test_totals_of_parts_make_the_loss_of_the_whole(name: str) -> None:
    """Value and gradient: sums add up over batches and processes, the loss is made of the sum."""
    loss = build(name, PARAMS[name], CLASSES, count_update_every=1)
    train(loss, targets(1))
    whole = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(3)).requires_grad_()
    target = torch.cat(targets(3, seed=4))
    value, per_class = loss(whole, target)
    parts = [whole.detach()[i : i + 2].requires_grad_() for i in (0, 2, 4)]
    totals = [loss.totals(part, target[i : i + 2]) for part, i in zip(parts, (0, 2, 4))]
    pooled = sum(sums for sums, _, _ in totals).detach().requires_grad_()
    mine, mine_per_class = loss.of_totals(pooled)
    torch.testing.assert_close((mine, mine_per_class), (value, per_class))
    (slope,) = torch.autograd.grad(mine, pooled)
    for sums, _, _ in totals:
        sums.backward(slope)
    (gradient,) = torch.autograd.grad(value, whole)
    torch.testing.assert_close(torch.cat([part.grad for part in parts]), gradient)
    counts = torch.stack([sum(c[i] for c in totals) for i in (1, 2)])
    assert torch.equal(counts, torch.stack(loss.count(target)))


def test_frequency_share_undoes_unequal_annotation() -> None:
    target = torch.zeros(1, 2, 4, 100)
    target[..., :20] = 1.0
    target[:, 1, 1:] = math.nan
    by_count, by_share = (
        build("seesaw", {"p": 1.0, "q": 2.0, "frequency": f}, ("a", "b"), count_update_every=1)
        for f in ("count", "share")
    )
    train(by_count, [target])
    train(by_share, [target])
    assert by_share.weight.tolist() == pytest.approx([1.0, 1.0])
    assert by_count.weight.tolist() == pytest.approx([50 / 80, 50 / 20])


def test_workers_counts_are_summed_once_per_update() -> None:
    single = build("seesaw", {"p": 1.0, "q": 2.0}, CLASSES, count_update_every=2)
    double = build("seesaw", {"p": 1.0, "q": 2.0}, CLASSES, count_update_every=2)
    calls = []
    for target in targets(4):
        single.accumulate_(*single.count(torch.cat([target, target])))
        single.end_batch()
        double.accumulate_(*double.count(target))
        double.end_batch(lambda window: (calls.append(window.shape), window.mul_(2)))
    assert calls == [(2, 3), (2, 3)]
    assert torch.equal(single.positive_count, double.positive_count)
    assert torch.equal(single.weight, double.weight)


@pytest.mark.parametrize("name", PARAMS)
@pytest.mark.parametrize("other", ["static", "seesaw"])
def test_state_saved_inside_a_window_goes_on_as_if_never_interrupted(name: str, other: str) -> None:
    batches = targets(20)
    settings = {"count_update_every": 3, "count_window": "6"}
    whole = build(name, PARAMS[name], CLASSES, **settings)
    train(whole, batches[:7])
    file = io.BytesIO()
    torch.save(whole.state_dict(), file)
    file.seek(0)
    resumed = build(other, PARAMS[other], CLASSES)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert (resumed.name, resumed.params) == (name, PARAMS[name])
    assert train(resumed, batches[7:]) == train(whole, batches[7:])
    assert all(torch.equal(a, b) for a, b in zip(whole.buffers(), resumed.buffers(), strict=True))


@pytest.mark.parametrize("name", PARAMS)
@pytest.mark.parametrize("before", PARAMS)
def test_reset_keeps_the_storage_and_equals_a_fresh_build_bit_for_bit(name: str, before: str) -> None:
    settings = {"count_update_every": 3, "count_window": "6"}
    used = build(before, PARAMS[before], CLASSES, count_update_every=2, count_window="all")
    train(used, targets(5, seed=1))
    storage = [buffer.data_ptr() for buffer in used.buffers()]
    used.reset(name, PARAMS[name], **settings)
    fresh = build(name, PARAMS[name], CLASSES, **settings)
    assert [buffer.data_ptr() for buffer in used.buffers()] == storage
    assert train(used, targets(8)) == train(fresh, targets(8))
    assert used.state_dict().keys() == fresh.state_dict().keys()
    for (key, a), (_, b) in zip(used.named_buffers(), fresh.named_buffers(), strict=True):
        assert torch.equal(a, b), key
        assert a.dtype == b.dtype, key
    assert used.get_extra_state() == fresh.get_extra_state()


def test_a_refused_reset_changes_nothing() -> None:
    loss = build("seesaw", PARAMS["seesaw"], CLASSES, count_update_every=1)
    train(loss, targets(1))
    before = {key: value.clone() for key, value in loss.named_buffers()}
    with pytest.raises(SettingsError):
        loss.reset("seesaw", {"p": -1.0, "q": 2.0})
    assert loss.params == PARAMS["seesaw"]
    assert all(torch.equal(value, before[key]) for key, value in loss.named_buffers())


def test_one_compiled_graph_serves_all_families_and_equals_eager() -> None:
    torch._dynamo.reset()
    counter = CompileCounter()
    loss = build("static", PARAMS["static"], CLASSES, count_update_every=1)

    def step(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return *loss(logits, target), *loss.count(target)

    compiled = torch.compile(step, fullgraph=True, dynamic=False, backend=counter)
    generator = torch.Generator().manual_seed(0)
    values = []
    for name, params in PARAMS.items():
        loss.reset(name, params)
        for target in targets(2):
            logits = torch.randn(target.shape, generator=generator, requires_grad=True)
            value, per_class, positive, known = compiled(logits, target)
            torch.testing.assert_close((value, per_class), loss(logits, target), equal_nan=True)
            value.backward()
            assert torch.isfinite(logits.grad).all()
            loss.accumulate_(positive, known)
            loss.end_batch()
        values.append(value.item())
        graphs = counter.frame_count
        assert graphs == {"mixture": 2, "composite": 3}.get(name, 1), "other sums are another graph"
    assert len(set(values)) == len(PARAMS)
    for name in ("seesaw", "mixture", "composite"):
        loss.reset(name, PARAMS[name])
        compiled(logits, target)
    assert counter.frame_count == graphs, "all are kept"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
def test_inductor_compiles_the_loss_and_agrees() -> None:
    torch._dynamo.reset()
    loss = build("seesaw", PARAMS["seesaw"], CLASSES, count_update_every=1)
    train(loss, targets(1))
    target = targets(1, seed=3)[0]
    eager, fast = (torch.randn(target.shape, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    expected = loss(eager.requires_grad_(), target)[0]
    value = torch.compile(loss, fullgraph=True, dynamic=False)(fast.requires_grad_(), target)[0]
    expected.backward()
    value.backward()
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(fast.grad, eager.grad)


def test_forward_and_count_change_no_state() -> None:
    loss = build("seesaw", PARAMS["seesaw"], CLASSES)
    before = {key: value.clone() for key, value in loss.named_buffers()}
    target = targets(1)[0]
    loss(torch.randn(target.shape), target)
    loss.count(target)
    assert all(torch.equal(value, before[key]) for key, value in loss.named_buffers())
    assert list(loss.parameters()) == []


def test_copies_and_pickles_go_on_alike() -> None:
    loss = build("class_balanced", PARAMS["class_balanced"], CLASSES, count_update_every=2)
    train(loss, targets(3))
    twins = [copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))]
    histories = [train(module, targets(4, seed=5)) for module in (loss, *twins)]
    assert histories[0] == histories[1] == histories[2]


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("sesaw", {}, r"loss\.name=sesaw.*static, class_balanced, balanced_softmax, seesaw, tversky"),
        ("seesaw", {"p": 1.0, "q": 1.0, "r": 1.0}, r"loss\.params\.r=1\.0.*Choices: p, q, frequency"),
        ("seesaw", {"p": -0.1, "q": 1.0}, r"loss\.params\.p=-0\.1: must be a number of at least 0"),
        ("seesaw", {"p": 1.0}, r"loss\.params\.q=None"),
        ("seesaw", {"p": math.nan, "q": 1.0}, r"loss\.params\.p=nan"),
        ("seesaw", {"p": "high", "q": 1.0}, r"loss\.params\.p=high"),
        ("seesaw", {"p": True, "q": 1.0}, r"loss\.params\.p=True"),
        ("seesaw", {"p": 1.0, "q": 1.0, "frequency": "n"}, r"frequency=n.*count, share"),
        ("class_balanced", {}, "exactly one of beta and one_minus_beta"),
        ("class_balanced", {"beta": 0.9, "one_minus_beta": 0.1}, "exactly one of beta and one_minus_beta"),
        ("class_balanced", {"beta": 1.0}, r"beta=1\.0: must be at most"),
        ("class_balanced", {"one_minus_beta": 0.0}, r"one_minus_beta=0\.0: must be a number of at least"),
        ("balanced_softmax", {"tau": 1.0, "apply_at": "test"}, r"apply_at=test.*train, inference, paper"),
        ("static", {"weights": [1.0, 2.0]}, r"must be 3 finite numbers.*a, b, c"),
        ("static", {"weights": [1.0, -2.0, 1.0]}, "must be 3 finite numbers"),
        ("static", {"weights": [0, 0, 0]}, "not all 0"),
        ("static", {"weights": "inv_freq"}, "must be a list of numbers"),
        ("tversky", {"fp_weight": 0.0}, r"fp_weight=0\.0"),
    ],
)
def test_bad_parameters_say_what_was_given_and_what_is_allowed(name: str, params: dict, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        build(name, params, CLASSES)
    assert isinstance(caught.value, ValueError)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", PARAMS)
def test_an_epoch_never_waits_for_the_device(
    name: str, waiting_is_an_error: Callable[[], AbstractContextManager[None]]
) -> None:
    loss = build(name, PARAMS[name], CLASSES, count_update_every=2).cuda()
    target = targets(1)[0].cuda()
    logits = torch.randn(target.shape, device="cuda", requires_grad=True)
    counts = ValidationCounts.zeros(3, 3, "cuda")
    crop = torch.tensor([0, 2], device="cuda")
    logit_bin(logits)  # its table goes to the device once
    with waiting_is_an_error():
        for _ in range(4):
            loss(logits, target)[0].backward()
            loss.accumulate_(*loss.count(target))
            loss.end_batch()
            counts.accumulate_(logits, target, crop)
    assert loss.num_batches.item() == 4
    assert counts.known.sum().item() == 4 * (~torch.isnan(target)).sum().item()
