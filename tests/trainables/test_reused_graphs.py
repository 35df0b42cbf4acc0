"""A compiled graph reads weights and buffers by address: whatever re-initialises them must copy in place."""

from __future__ import annotations

import logging
import os

import pytest
import torch
from tiny_trial import inductor_cache, loss_of, steady, tiny_dataset, tiny_settings
from torch import Tensor

from trainables.engine import Engine
from trainables.steps import prepare_ahead

pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The CUDA Graph is empty:UserWarning"),
]
"""Inductor: importing it defines a scripted class in torch.utils.mkldnn, its graph trees begin with an empty graph."""

NEEDS_CUDA = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: it captures CUDA graphs"),
]
CPU_AND_CUDA = ["cpu", pytest.param("cuda", marks=NEEDS_CUDA)]
REPLAYS = 3
"""CUDA graphs: the first call warms up, the second captures, the third replays."""


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch):
    """An engine sets thread variables and Inductor's folder for its process: undo it after each test."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TORCHINDUCTOR_COMPILE_THREADS"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", inductor_cache())
    torch.compiler.reset()  # graphs of other files of this process count towards the recompile limit


def make(family: str = "seesaw", seed: int = 0, *, device: str = "cpu", compiled: bool = False) -> Engine:
    settings = tiny_settings(
        model={"width": 2, "depth": 1},
        trainer={"compile": compiled},
        hardware={"device": device, "precision": "off", "tf32": False},
    )
    return Engine(settings, loss_of(family), seed, dataset=tiny_dataset(settings.data))


def addresses(engine: Engine) -> dict[str, int]:
    """Where everything lies that the graphs read or write."""
    tensors = {**dict(engine.model.named_parameters()), **dict(engine.model.named_buffers())}
    tensors |= {f"loss.{name}": buffer for name, buffer in engine.loss.named_buffers()}
    return {name: tensor.data_ptr() for name, tensor in tensors.items()}


def optimised(engine: Engine) -> list[int]:
    """Identities of the tensors the optimiser steps."""
    return [id(p) for group in engine.optim.optimizer.param_groups for p in group["params"]]


def test_reset_and_load_move_nothing_a_graph_or_the_optimiser_sees():
    engine, other = make("seesaw"), make("balanced_softmax", seed=3)
    other.run_epoch()
    state = other.state_dict()
    before, parameters = addresses(engine), [id(p) for p in engine.model.parameters()]
    for change in (
        engine.run_epoch,
        lambda: engine.reset(loss_of("class_balanced"), 5, engine.settings.trainer),
        engine.run_epoch,
        lambda: engine.load_state_dict(state),
        engine.run_epoch,
    ):
        change()
        assert addresses(engine) == before
        assert optimised(engine) == parameters


def outputs(engine: Engine, batch: tuple[Tensor, Tensor], *, eager: bool = False) -> tuple[Tensor, Tensor]:
    """Loss and logits of the evaluation step, copied out of the graph's memory."""
    engine.model.eval()
    step = engine.evaluation_step.eager if eager else engine.evaluation_step
    with torch.no_grad():
        for _ in range(1 if eager else REPLAYS):
            loss, logits, _ = step(*batch)
            result = loss.clone(), logits.clone()
    return result


def assert_graph_is_up_to_date(engine: Engine, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    compiled = outputs(engine, batch)
    torch.testing.assert_close(compiled, outputs(engine, batch, eager=True), rtol=1e-4, atol=1e-5)
    return compiled


@pytest.mark.slow
@pytest.mark.parametrize("device", CPU_AND_CUDA)
def test_a_captured_graph_sees_weights_and_loss_that_were_replaced_in_place(device: str, caplog):
    """Real Inductor. Another seed, another family, then a checkpoint: each must show in the graph captured before."""
    engine = make("seesaw", device=device, compiled=True)
    batch = engine._patches(engine.validator.batches[0])
    saved = {name: value.clone() for name, value in engine.model.state_dict().items()}
    first = assert_graph_is_up_to_date(engine, batch)
    engine.reset(loss_of("tversky"), 7, engine.settings.trainer)
    second = assert_graph_is_up_to_date(engine, batch)
    engine.model.load_state_dict(saved)
    third = assert_graph_is_up_to_date(engine, batch)
    assert engine.evaluation_step.compiled, [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert not torch.allclose(first[1], second[1])
    torch.testing.assert_close(first[1], third[1])
    assert not torch.allclose(first[0], third[0])  # the same weights, but the loss of another family


@pytest.mark.slow
@pytest.mark.parametrize("device", [pytest.param("cuda", marks=NEEDS_CUDA)])
def test_a_reused_engine_trains_as_a_fresh_one_on_cuda(device: str):
    """The CPU's test of this is bit for bit; on CUDA sums are added in another order from run to run."""
    used = make("seesaw", seed=4, device=device, compiled=True)
    for _ in range(2):
        used.run_epoch()
    used.reset(loss_of("tversky"), 0, used.settings.trainer)
    fresh = make("tversky", device=device, compiled=True)
    for _ in range(2):
        got, wanted = steady(used.run_epoch()), steady(fresh.run_epoch())
        assert got["loss"] == pytest.approx(wanted["loss"], rel=1e-3)
        assert got["grad_norm"] == pytest.approx(wanted["grad_norm"], rel=1e-2)


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=NEEDS_CUDA)])
def test_patches_prepared_ahead_on_cuda_are_those_prepared_at_once(device: str):
    engine = make(device=device)
    engine.settings.trainer.iterations_per_epoch = 20
    ahead = prepare_ahead(engine._batches(), engine._patches, engine.hardware.device)
    busy = torch.randn(2048, 2048, device=device)
    for step, patches in enumerate(ahead):
        busy = busy @ busy / busy.norm()  # the next batch is prepared beside this
        for got, wanted in zip(patches, engine._patches(engine.sampler.batch(step)), strict=True):
            assert torch.equal(got, wanted)


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=NEEDS_CUDA)])
def test_an_epoch_on_cuda_never_waits_for_the_device(device: str, waiting_is_an_error):
    engine = make(device=device)
    engine.run_epoch()  # allocations and the choice of algorithms may wait
    with waiting_is_an_error():
        engine._train_epoch()
