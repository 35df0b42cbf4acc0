"""The GPU script where there is no GPU: what it refuses, what it does without, and all of its logic on tiny shapes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_step
from benchmarks.gpu_trial import Shapes, make_dataset
from benchmarks.harness import main
from trainables.data import PatchSampler
from trainables.settings import DataSettings

ROOT = Path(__file__).parents[2]
ABSENT = """
import runpy, sys
sys.modules.update(dict.fromkeys(("ray", "hydra", "omegaconf", "optuna", "pandas", "tune_app", "search_spaces")))
sys.argv[0] = "benchmarks/gpu_step.py"
runpy.run_module("benchmarks.gpu_step", run_name="__main__")
"""
CLAIMS = ("two trials", "pipeline", "roofline", "default flags", "TF32 off", "loss")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_without_a_gpu_it_says_so_in_one_sentence(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(None, gpu_step.run, gpu_step.add_arguments, argv=[])
    assert stopped.value.code == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.strip() == gpu_step.NO_GPU


def test_everything_runs_on_tiny_shapes_without_ray_hydra_and_pandas(tmp_path):
    """A run of the whole script, trials in processes of their own included. Its numbers mean nothing."""
    command = [sys.executable, "-W", "ignore", "-c", ABSENT, "--device", "cpu", "--quick", "--json", "results.json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TUNE_APP_CACHE": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode in (0, 1), done.stderr
    assert (tmp_path / "results.json").exists(), done.stderr
    claims = [result["claim"] for result in json.loads((tmp_path / "results.json").read_text())]
    assert len(claims) == len(CLAIMS), done.stderr
    assert all(word in claim for word, claim in zip(CLAIMS, claims)), claims


def test_a_part_that_breaks_is_told_and_leaves_the_others(monkeypatch, capsys):
    def broken(plan):
        raise RuntimeError("out of memory")
        yield

    for name in ("two_trials", "one_trial"):
        monkeypatch.setattr(gpu_step, name, broken)
    arguments = ["--device", "cpu", "--quick"]
    with pytest.raises(SystemExit) as stopped:
        main(None, gpu_step.run, gpu_step.add_arguments, argv=arguments)
    assert stopped.value.code == 1
    output, errors = capsys.readouterr()
    assert "loss: bytes" in output
    assert "parts that broke" in output
    assert errors.count("RuntimeError: out of memory") == 2


def test_the_defaults_are_the_published_shapes():
    shapes = Shapes()
    assert (shapes.width, shapes.depth, shapes.patch, shapes.batch) == (64, 4, 256, 24)


def test_made_up_data_can_be_sampled_with_context(tmp_path):
    dataset = make_dataset(DataSettings(patch=[1, 32, 32]), tmp_path)
    batch = PatchSampler(dataset, batch_size=3, seed=0).batch(0)
    assert batch.em.shape[0] == 3
    assert (batch.em > 0).float().mean() > 0.9  # no patch reaches beyond the crop
    assert Path(dataset.crops[0].em.filename).parent == tmp_path
