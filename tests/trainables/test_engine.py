"""The engine: schedule, epoch, reset in place, resume bit for bit, one graph for all families, diagnosis."""

from __future__ import annotations

import importlib
import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_trial import CLASSES, LOSSES, inductor_cache, loss_of, steady, tiny_dataset, tiny_settings, trial_config
from torch.utils._python_dispatch import TorchDispatchMode

from trainables import checkpoint, steps
from trainables.calibration import calibrate
from trainables.data import validation_set
from trainables.engine import Engine
from trainables.errors import SettingsError
from trainables.evaluation import ValidationRecord
from trainables.hardware import MAX_COMPILE_THREADS, compile_threads, prepare_process, resolve
from trainables.metrics import LOGIT_EDGES, NUM_BINS
from trainables.objective import Objective
from trainables.optim import one_cycle_lr
from trainables.settings import HardwareSettings, trial_settings
from trainables.tasks import get_task

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
"""Importing Inductor defines a scripted class in torch.utils.mkldnn."""

FAMILIES = tuple(LOSSES)


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch):
    """An engine sets thread variables and Inductor's folder for its process: undo it after each test."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TORCHINDUCTOR_COMPILE_THREADS"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", inductor_cache())


def make(family: str = "seesaw", seed: int = 0, **sections) -> Engine:
    settings = tiny_settings(**sections)
    return Engine(settings, loss_of(family), seed, dataset=tiny_dataset(settings.data))


def rows_of(engine: Engine, epochs: int) -> list[dict]:
    return [steady(engine.run_epoch()) for _ in range(epochs)]


def weights_of(engine: Engine) -> torch.Tensor:
    return torch.cat([v.double().flatten() for v in engine.model.state_dict().values()])


@pytest.mark.parametrize(("total", "pct_start"), [(6000, 0.05), (100, 0.3), (60, 0.05)])
def test_learning_rate_is_that_of_one_cycle(total, pct_start):
    parameter = torch.nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.AdamW([parameter], lr=1.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1e-4, total_steps=total, pct_start=pct_start, cycle_momentum=False
    )
    for step in range(total):
        mine = one_cycle_lr(step, total_steps=total, max_lr=1e-4, pct_start=pct_start)
        assert mine == pytest.approx(schedule.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        if step < total - 1:
            schedule.step()


@pytest.mark.parametrize("total", [1, 2, 3, 20, 40])
def test_learning_rate_of_short_runs_is_finite_and_falls(total):
    """20 steps at pct_start 0.05 rise for zero steps: torch's OneCycleLR divides by zero there."""
    rates = [one_cycle_lr(s, total_steps=total, max_lr=1e-3, pct_start=0.05) for s in range(total)]
    assert all(0 < rate <= 1e-3 for rate in rates)
    assert rates[1:] == sorted(rates[1:], reverse=True)


def test_an_epoch_reports_everything():
    row = make().run_epoch()
    scalars = {
        "epoch",
        "mean_dice",
        "mean_iou",
        "loss",
        "val_loss",
        "lr",
        "grad_norm",
        "skipped_share",
        "grad_scale",
        "weight_growth",
        "best_mean_dice",
        "best_epoch",
        "seconds_load",
        "seconds_compute",
        "seconds_validate",
        "seconds_compile",
        "seconds_epoch",
        "patches_per_s",
        "compiled_graphs",
        "diagnosis",
    }
    per_class = ("dice", "iou", "precision", "recall", "support", "fg_pred", "fg_true", "loss", "weight", "shift")
    expected = scalars | {f"{m}/{c}" for m in per_class for c in CLASSES}
    expected |= {f"sigmoid/{c}/{s}" for c in CLASSES for s in ("min", "max", "mean", "sd", "above_half")}
    assert set(row) == expected
    assert all(isinstance(v, int | float | str) for v in row.values())
    assert row["epoch"] == 1
    assert row["diagnosis"] == ""
    parts = ("load", "compute", "validate", "compile")
    assert sum(row[f"seconds_{part}"] for part in parts) == pytest.approx(row["seconds_epoch"])
    assert (row["seconds_compile"], row["compiled_graphs"]) == (0.0, 0)
    for c in CLASSES:
        assert 0 <= row[f"sigmoid/{c}/min"] <= row[f"sigmoid/{c}/mean"] <= row[f"sigmoid/{c}/max"] <= 1


def test_it_learns_what_can_be_learned():
    trainer = {"iterations_per_epoch": 40, "epochs": 3, "batch_size": 4, "lr": 1e-2}
    engine = make("tversky", trainer=trainer, model={"width": 8, "depth": 1})
    rows = rows_of(engine, 3)
    assert rows[-1]["mean_dice"] > 0.85
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_validation_arrays_are_what_the_rows_say():
    engine = make()
    rows = [engine.run_epoch() for _ in range(3)]
    arrays = engine.validation
    assert list(arrays["crops"]) == ["cells/crop1", "cells/crop3", "cells/crop5"]
    assert arrays["tp"].shape == (3, 3, 3)
    tp, fp, fn = (arrays[name].sum(axis=1) for name in ("tp", "fp", "fn"))
    for e, row in enumerate(rows):
        for c, name in enumerate(CLASSES):
            assert row[f"dice/{name}"] == 2 * tp[e, c] / (2 * tp[e, c] + fp[e, c] + fn[e, c])
            assert row[f"support/{name}"] == tp[e, c] + fn[e, c]
    best = max(range(3), key=lambda e: rows[e]["mean_dice"])
    assert int(arrays["best_epoch"]) == best + 1
    upper = arrays["edges"][:-1] >= 0
    np.testing.assert_array_equal(arrays["hist_positive"][..., upper].sum(-1), arrays["tp"][best])
    np.testing.assert_array_equal(arrays["hist_negative"][..., upper].sum(-1), arrays["fp"][best])


def test_histograms_of_an_earlier_version_keep_their_edges_until_an_epoch_is_better():
    task = get_task("multilabel")
    earlier, record = (ValidationRecord(task, ["cells/crop1"], CLASSES) for _ in range(2))
    arrays = earlier.arrays() | {"best_epoch": np.array(1), "edges": np.arange(-64, 65) / 4}
    arrays |= {name: np.ones((1, 3, 128), np.int64) for name in ("hist_positive", "hist_negative")}
    tensors = {name: torch.from_numpy(arrays[name]) for name in arrays if name not in ("crops", "classes")}
    record.load_state_dict({"arrays": tensors, "best_mean_dice": 0.4})
    assert record.arrays()["edges"].tolist() == arrays["edges"].tolist()
    assert record.arrays()["hist_positive"].shape == (1, 3, 128)
    result, better = task.result(task.zeros(1, 3, torch.device("cpu"))), Objective.from_config({}, task).better
    record.add(2, result, {"mean_dice": 0.3}, better)
    assert (record.best_epoch, record.arrays()["edges"].tolist()) == (1, arrays["edges"].tolist())
    record.add(3, result, {"mean_dice": 0.5}, better)
    assert (record.best_epoch, record.arrays()["edges"].tolist()) == (3, LOGIT_EDGES.tolist())
    assert record.arrays()["hist_positive"].shape == (1, 3, NUM_BINS)


def test_the_best_epoch_is_the_objectives():
    rows = rows_of(make(), 4)
    bound = max(row["recall/dark"] for row in rows)
    engine = make(objective={"metric": "val_loss", "mode": "min", "at_least": {"recall/dark": bound}})
    last = rows_of(engine, 4)[-1]
    wanted = min((row for row in rows if row["recall/dark"] == bound), key=lambda row: row["val_loss"])
    assert (last["best_epoch"], last["best_val_loss"]) == (wanted["epoch"], wanted["val_loss"])
    assert int(engine.validation["best_epoch"]) == last["best_epoch"]
    engine.reset(loss_of("seesaw"), 0, engine.settings.trainer, {"metric": "mean_dice", "mode": "min"})
    assert rows_of(engine, 4)[-1]["best_epoch"] == min(rows, key=lambda row: row["mean_dice"])["epoch"]
    engine.reset(loss_of("seesaw"), 0, engine.settings.trainer, {"at_most": {"val_loss": -1}})
    assert rows_of(engine, 1)[0]["best_epoch"] == 1
    engine.reset(loss_of("seesaw"), 0, engine.settings.trainer, {"metric": "dice/nucleus"})
    with pytest.raises(SettingsError, match=r"objective\.metric=dice/nucleus.*dice/dark"):
        engine.run_epoch()


def test_a_figure_at_searched_thresholds_is_in_the_rows_where_the_objective_asks_for_it():
    names = ("calibrated/dark", "calibrated_precision/dark", "calibrated_mean_recall")
    engine = make(objective={"at_least": dict.fromkeys(names, 0.2)})
    (row,) = rows_of(engine, 1)
    for name in names:
        own = calibrate(engine.validation).score(name)
        assert (math.isfinite(own), row[name], row[f"best_{name}"]) == (True, own, own)
    assert "calibrated/bright" not in row


def test_every_known_validation_voxel_counts_once_and_for_its_own_crop():
    engine = make()
    engine.run_epoch()
    dataset = engine.dataset
    names = [c.name for c in dataset.crops if c.side == "validate"]
    expected = np.zeros((3, 3), np.int64)
    for batch in validation_set(dataset, batch_size=2, num_batches=3, seed=0):
        for label, crop in zip(batch.labels, batch.crop.tolist()):
            for c in range(3):
                known = (label[(3 + c) // 8] >> ((3 + c) % 8)) & 1
                expected[names.index(dataset.crops[crop].name), c] += int(known.sum())
    np.testing.assert_array_equal(engine.validation["known"], expected)
    assert (expected[2] > 0).tolist() == [True, True, False]  # crop5 does not annotate `bright`


def test_the_seed_decides_everything():
    first, again, other = (rows_of(make(seed=seed), 2) for seed in (3, 3, 4))
    assert first == again
    assert first != other


@pytest.mark.parametrize(("before", "after"), [("seesaw", "seesaw"), *zip(FAMILIES, FAMILIES[1:] + FAMILIES[:1])])
def test_a_reset_engine_equals_a_fresh_one(before, after):
    engine = make(before, seed=1)
    rows_of(engine, 2)
    addresses = [t.data_ptr() for t in (*engine.model.state_dict().values(), *engine.loss.buffers())]
    engine.reset(loss_of(after), 0, tiny_settings(trainer={"lr": 2e-2, "epochs": 3}).trainer)
    fresh = make(after, seed=0, trainer={"lr": 2e-2, "epochs": 3})
    assert torch.equal(weights_of(engine), weights_of(fresh))
    assert rows_of(engine, 3) == rows_of(fresh, 3)
    assert torch.equal(weights_of(engine), weights_of(fresh))
    for name, values in fresh.validation.items():
        np.testing.assert_array_equal(engine.validation[name], values)
    # CUDA graphs read by address: nothing may have been replaced
    assert [t.data_ptr() for t in (*engine.model.state_dict().values(), *engine.loss.buffers())] == addresses


def test_the_output_bias_at_the_prior_begins_at_the_share_of_each_class():
    """Of patches as sampled; in a fresh engine and in one that is reset, and only there where it is asked for."""
    prior = {"model": {"output_bias": "prior"}}
    engine = make("static", seed=1, **prior)
    rows_of(engine, 1)
    engine.reset(loss_of("static"), 0, engine.settings.trainer)
    fresh, drawn = make("static", seed=0, **prior), make("static", seed=0)
    assert torch.equal(weights_of(engine), weights_of(fresh))
    positive, known = engine.sampler.expected_voxels()
    assert torch.sigmoid(engine.model.head.bias).tolist() == pytest.approx(list(positive / known), rel=1e-4)
    assert torch.equal(engine.model.head.weight, drawn.model.head.weight)
    assert not torch.equal(engine.model.head.bias, drawn.model.head.bias)


@pytest.mark.parametrize("family", FAMILIES)
def test_resuming_is_exact(family, tmp_path):
    straight = make(family)
    rows = rows_of(straight, 4)
    first = make(family)
    rows_of(first, 2)
    checkpoint.write(tmp_path / "a.pt", first.state_dict())
    second = make("static" if family != "static" else "tversky", seed=9)
    second.reset(loss_of(family), 0, second.settings.trainer)
    second.load_state_dict(checkpoint.read(tmp_path / "a.pt"))
    assert second.epoch == 2
    assert rows_of(second, 2) == rows[2:]
    assert torch.equal(weights_of(second), weights_of(straight))
    for name, values in straight.validation.items():
        np.testing.assert_array_equal(second.validation[name], values)


def test_every_term_of_a_composite_loss_is_a_figure_of_the_row_and_a_reset_brings_its_own(tmp_path):
    terms = {"name": "composite", "params": {"tversky": 0.3, "focal": 0.7, "sqrt_dice": 0.1}}
    engine, other = make("static"), make("seesaw")
    for one in (engine, other):
        one.reset(terms, 0, one.settings.trainer)
    row = engine.run_epoch()
    assert {name for name in row if name.startswith("term/")} == {"term/focal", "term/sqrt_dice"}
    tversky = np.mean([row[f"loss/{name}"] for name in engine.classes])
    assert row["loss"] == pytest.approx(0.3 * tversky + 0.7 * row["term/focal"] + 0.1 * row["term/sqrt_dice"], rel=0.05)
    checkpoint.write(tmp_path / "a.pt", engine.state_dict())
    other.load_state_dict(checkpoint.read(tmp_path / "a.pt"))
    assert rows_of(other, 2) == rows_of(engine, 2)
    engine.reset(loss_of("static"), 0, engine.settings.trainer)
    assert not [name for name in engine.run_epoch() if name.startswith("term/")]


@pytest.fixture
def graphs(monkeypatch) -> list:
    """What Dynamo hands to the compiler, which then does nothing."""
    compile_as_it_is, handed = torch.compile, []

    def backend(graph, inputs):
        handed.append(graph)
        return graph.forward

    def counted(function, *, mode, dynamic, fullgraph):
        assert (dynamic, fullgraph) == (False, True)
        return compile_as_it_is(function, backend=backend, dynamic=False, fullgraph=True)

    monkeypatch.setattr(torch, "compile", counted)
    monkeypatch.setattr(steps, "compiler_problem", lambda: "")
    return handed


def test_all_families_go_through_two_graphs(graphs):
    """Over resets to every family, other learning rates and seeds."""
    engine = make("static", trainer={"compile": True})
    rows = []
    for seed, family in enumerate((*FAMILIES, "static")):
        trainer = tiny_settings(trainer={"compile": True, "lr": 1e-3 * (seed + 1), "clip_grad_norm": 0.5}).trainer
        engine.reset(loss_of(family), seed, trainer)
        rows += [engine.run_epoch() for _ in range(2)]
    assert len(graphs) == 2
    assert [row["compiled_graphs"] for row in rows] == [2] * len(rows)
    assert [row["seconds_compile"] > 0 for row in rows] == [True] + [False] * (len(rows) - 1)
    parts = ("load", "compute", "validate", "compile")
    assert sum(rows[0][f"seconds_{part}"] for part in parts) == pytest.approx(rows[0]["seconds_epoch"])
    assert rows[0]["seconds_compute"] < rows[0]["seconds_epoch"]


def test_a_network_that_comes_again_counts_its_own_graphs(graphs):
    engines = [make("static", trainer={"compile": True}, model={"width": width, "depth": 2}) for width in (2, 4)]
    for engine in engines:
        engine.park()
    counted = []
    for engine in (*engines, *engines):
        engine.reset(loss_of("static"), 0, engine.settings.trainer)
        counted.append(engine.run_epoch()["compiled_graphs"])
        engine.park()
    assert len(graphs) == 4
    assert counted == [2, 2, 2, 2]


class Syncs(TorchDispatchMode):
    """Records operators whose result the host must read before it can go on."""

    names = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "equal")

    def __init__(self):
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if any(name in str(function) for name in self.names):
            self.seen.append(str(function))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("family", FAMILIES)
def test_an_epoch_never_waits_for_the_device(family):
    engine = make(family)
    with Syncs() as syncs:
        engine._train_epoch()
        torch.ones(()).item()
    assert syncs.seen == ["aten._local_scalar_dense.default"]  # the one of the line above: the recorder works


@pytest.mark.parametrize("poison", ["weight", "running_mean"])
def test_not_a_number_is_diagnosed(poison):
    engine = make()
    first = engine.run_epoch()
    engine.model.state_dict()[f"first.1.{poison}"].fill_(math.nan)
    row = engine.run_epoch()
    assert row["diagnosis"] == "nan"
    assert math.isnan(row["mean_dice"])
    assert (row["best_epoch"], row["best_mean_dice"]) == (1, first["mean_dice"])
    engine.reset(loss_of("static"), 0, engine.settings.trainer)
    assert steady(engine.run_epoch()) == steady(make("static").run_epoch())


def test_reset_refuses_other_shapes():
    engine = make()
    trainer = tiny_settings(trainer={"batch_size": 3}).trainer
    with pytest.raises(SettingsError, match=r"trainer\.batch_size=3.*built for 2"):
        engine.reset(loss_of("static"), 0, trainer)


@pytest.mark.parametrize(
    ("section", "change", "fits"),
    [
        ("trainer", {"epochs": 9, "lr": 1e-5, "count_window": "all"}, True),
        ("trainer", {"batch_size": 3}, False),
        ("data", {"patch": [1, 8, 8]}, False),
        ("data", {"mirror": False}, False),
        ("model", {"width": 5}, False),
        ("hardware", {"precision": "bf16"}, False),
    ],
)
def test_fits_tells_what_reset_can_do(section, change, fits):
    assert make().fits(tiny_settings(**{section: change}), "static") is fits


def test_bf16_model_and_float32_loss():
    engine = make(hardware={"precision": "bf16"})
    seen: list[torch.dtype] = []
    engine.model.head.register_forward_hook(lambda m, i, o: seen.append(o.dtype))
    with_counts = engine.loss.with_counts
    engine.loss.with_counts = lambda logits, target: seen.append(logits.dtype) or with_counts(logits, target)
    row = engine.run_epoch()
    assert seen[:2] == [torch.bfloat16, torch.float32]
    assert math.isfinite(row["loss"])


@pytest.mark.parametrize(("precision", "patch"), [("fp16", [1, 8, 8]), ("bf16", [2, 8, 8])])
def test_a_precision_that_cannot_train_on_the_cpu_is_refused(precision, patch):
    with pytest.raises(SettingsError, match=f"hardware.precision={precision}"):
        make(data={"patch": patch}, hardware={"precision": precision, "device": "cpu"})


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_hardware_that_is_not_there_is_refused():
    with pytest.raises(SettingsError, match=r"hardware\.device=cuda"):
        resolve(HardwareSettings(device="cuda"), share=1.0, cpus=1)


def test_hardware_follows_the_resources():
    facts = resolve(HardwareSettings(device="cpu"), share=0.5, cpus=3)
    assert (facts.threads, facts.memory_fraction, facts.autocast) == (3, 0.5, None)
    fixed = resolve(HardwareSettings(device="cpu", threads=2, memory_fraction=0.25), share=0.5, cpus=3)
    assert (fixed.threads, fixed.memory_fraction) == (2, 0.25)


def test_compiled_code_is_kept_in_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    settings = tiny_settings(data={"cache_dir": str(tmp_path)})
    prepare_process(resolve(settings.hardware, share=1.0, cpus=1), settings.data)
    folder = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
    assert folder == tmp_path / "inductor" / folder.name
    assert folder.name == torch.backends.cpu.get_cpu_capability().lower(), "none takes another processor's"
    assert torch.get_num_threads() == 1


def test_all_cores_compile_where_the_slots_share_them(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(32)))
    facts = resolve(HardwareSettings(device="cpu"), share=1.0, cpus=2)
    assert compile_threads(facts) == MAX_COMPILE_THREADS
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2})
    assert compile_threads(facts) == 3
    assert compile_threads(replace(facts, threads=4, device=torch.device("cuda"))) == 4


def test_without_a_compiler_it_trains_eagerly_and_says_so_once(monkeypatch, caplog):
    importlib.import_module("torch._inductor.config")  # reads CXX once for the whole process: not this one
    monkeypatch.setenv("CXX", "no-such-compiler")
    engine = make(trainer={"compile": True})
    row = engine.run_epoch()
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len(warnings) == 1
    assert all(word in warnings[0] for word in ("no-such-compiler", "apt install g++", "trainer.compile=false"))
    assert steady(row) == steady(make().run_epoch())


def test_a_compiler_that_breaks_is_left_for_eager(monkeypatch, caplog):
    compile_as_it_is = torch.compile

    def broken(graph, inputs):
        raise RuntimeError("cc1plus: out of memory")

    monkeypatch.setattr(torch, "compile", lambda f, **more: compile_as_it_is(f, backend=broken, dynamic=False))
    monkeypatch.setattr(steps, "compiler_problem", lambda: "")
    row = make(trainer={"compile": True}).run_epoch()
    assert "cc1plus: out of memory" in caplog.text
    assert steady(row) == steady(make().run_epoch())


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_loading_ahead_keeps_the_order(depth):
    assert list(steps.load_ahead(lambda s: s * s, range(5, 12), depth)) == [s * s for s in range(5, 12)]


@pytest.mark.parametrize("depth", [0, 3])
def test_loading_ahead_passes_errors_on(depth):
    batches = steps.load_ahead(lambda s: 1 // (2 - s), range(5), depth)
    assert [next(batches), next(batches)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        list(batches)


@pytest.mark.parametrize("bad", [{"name": "focal", "params": {}}, {"name": "seesaw", "params": {"r": 1}}])
def test_an_unknown_loss_is_refused(bad):
    settings = trial_settings(trial_config())
    with pytest.raises(SettingsError, match=r"focal|params\.r"):
        Engine(settings, bad, 0, dataset=tiny_dataset(settings.data))


@pytest.mark.slow
def test_compiled_training_is_close_to_eager_and_reusable():
    """Real Inductor: a reset engine equals a fresh one bit for bit, and both are eager up to rounding."""
    small = {"model": {"width": 2, "depth": 1}}
    compiled = make("seesaw", trainer={"compile": True}, **small)
    fresh = rows_of(compiled, 2)
    compiled.reset(loss_of("tversky"), 5, compiled.settings.trainer)
    rows_of(compiled, 1)
    compiled.reset(loss_of("seesaw"), 0, compiled.settings.trainer)
    assert compiled.train_step.compiled
    assert rows_of(compiled, 2) == fresh
    eager = rows_of(make("seesaw", **small), 2)
    assert [row["loss"] for row in fresh] == pytest.approx([row["loss"] for row in eager], rel=1e-4)
