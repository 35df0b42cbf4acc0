"""The Ray Tune trainable: a trial's config in, one flat row per epoch out. A thin shell around `engine.Engine`.

The trial's own folder (config["run"]["dir"]) is the source of truth, not Ray's checkpoints: setup takes up whatever
last.pt is there, and rows that Ray has not logged yet are reported without being trained again. The driver runs it with
`reuse_actors=True`: a reused actor keeps process, data and compiled graphs, and `reset_config` re-initialises in place.

A config without `run` is that of a Tuner of the user's own (docs/with-ray-tune.md): sections may be left out or be
incomplete, the trial's folder is Ray's working directory, and Ray's checkpoints hold the whole state.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from ray import tune
from ray._raylet import setproctitle  # type: ignore[attr-defined]

from trainables import checkpoint
from trainables.engine import Engine, Row
from trainables.errors import CheckpointError, MemoryShortError, TrainablesError
from trainables.objective import OUT_OF_PATIENCE, Objective, waited
from trainables.prediction import PREDICTION, PredictionPictures
from trainables.settings import TrialSettings, trial_settings
from trainables.tasks import get_task, short
from trainables.trial_folder import TrialFolder
from trainables.workers import Workers, is_out_of_memory, num_workers

logger = logging.getLogger(__name__)

MARKER = "trial.json"
PICTURE_EVERY = 5
"""Epochs between two pictures of a running trial, which are of its best epoch so far."""
IDENTITY = ("data", "model", "trainer", "task", "objective")
"""Sections that a checkpoint must share with the trial that takes it up, besides seed, loss and the data's fingerprint.
"""
FREE_SETTINGS = (
    "root",
    "split_file",
    "cache_dir",
    "compile",
    "checkpointing",
    "checkpoint_every",
    "keep_checkpoint_every",
)
"""Data, model and trainer settings that may change between the two: they do not change what is trained."""

RESOURCES = {"cpus_per_trial": 1, "gpus_per_trial": 0, "workers_per_trial": 0}
"""Of a trial that says nothing of them."""


class SegmentationTrial(tune.Trainable):
    """Trains config["loss"] on config["data"] for config["trainer"]["epochs"] epochs; one `step` is one epoch."""

    _workers: Workers | None = None
    _from_ray: checkpoint.Loaded | None = None
    """What Ray has given to go on from, where its checkpoints are the truth."""
    _pictures: PredictionPictures | None = None

    def setup(self, config: dict[str, Any]) -> None:
        """Build the engine for the trial of this config. Its folder is not touched before the first step."""
        self._folder: TrialFolder | None = None
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin another trial in this process. Always True: False would leave the sweep waiting for ever."""
        self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        self._time_setup = time.time()
        self._close_folder()
        self._from_ray, self._own = None, "run" in config
        self._trial = config = config if self._own else _completed(config, self.logdir)
        taken, settings = config["resources"], _settings(config)
        share, cores = min(1.0, taken["gpus_per_trial"]) or 1.0, max(1, int(taken["cpus_per_trial"]))
        if self._engine is None or not self._engine.fits(settings, config["loss"]["name"], share=share, cpus=cores):
            self._pictures = None  # they hold their engine
        self._prepare(settings, share, cores)

    def _prepare(self, settings: TrialSettings, share: float, cores: int, pieces: int = 1) -> None:
        """Have the workers, and in each of them the engine."""
        if self._workers is None:
            cuda = torch.cuda.is_available() and settings.hardware.device != "cpu"
            self._workers = Workers(self._trial["resources"], cuda=cuda)
        self._workers.prepare(settings, self._trial["loss"], self._trial["seed"], share, cores, pieces)
        self._prepared = settings, share, cores

    @property
    def _engine(self) -> Engine | None:
        """That of rank 0; None before the first trial and after the last."""
        return self._workers.engine if self._workers else None

    def _open_folder(self) -> None:
        """Take up what the trial's folder holds.

        Not in `setup`: Ray may start an actor for a trial that a reused actor has run meanwhile, and then hand the
        newcomer another trial by `reset_config`; it must leave the first one's folder alone.
        """
        assert self._engine is not None
        config, engine = self._trial, self._engine
        self._folder = folder = TrialFolder(config["run"]["dir"])
        folder.open_log()
        folder.write_config(config)
        loss, hardware = config["loss"], engine.hardware
        how = "compiled" if engine.train_step.compiled else "not compiled"
        logger.info(
            "Trial %s: loss %s %s, seed %s, on %s with %s threads, %s",
            config["run"].get("name", folder.path.name),
            loss["name"],
            loss["params"],
            config["seed"],
            hardware.device,
            hardware.threads,
            how,
        )
        self._take_up(engine, folder)
        self._reported = folder.last_reported() if self._own else engine.epoch
        self._pictured = -PICTURE_EVERY

    def _take_up(self, engine: Engine, folder: TrialFolder) -> None:
        """Go on from the folder's checkpoint; without a usable one start at epoch 0, and say so where one was lost."""
        try:
            found = checkpoint.read_latest(folder.path) if self._own else self._from_ray
        except CheckpointError as problem:
            logger.error("STARTING AGAIN AT EPOCH 0: %s", problem)
            found = None
        if found is None:
            folder.start([], None)
            return
        if found.warning:
            logger.warning("%s", found.warning)
        _require_same(found, identity(self._trial), engine.dataset.fingerprint)
        assert self._workers is not None
        self._workers.load_state_dict(found.state["engine"])
        folder.start(found.state["history"], engine.validation)
        logger.info("Going on after epoch %d, from %s", engine.epoch, found.path)

    def step(self) -> Row:
        """The next row Ray has not logged: from the history where it is there, else trained."""
        # Ray names an actor once, for all its trials; the process can be named anew, for ps, top and the list of a
        # node's workers in Ray's dashboard. Ray gives it the next title when this call ends.
        setproctitle(f"ray::SegmentationTrial.train {self._trial['run'].get('name', '')}")
        if self._folder is None:
            self._open_folder()
        assert self._folder is not None
        row = next((row for row in self._folder.history if row["epoch"] > self._reported), None)
        while row is None or row["epoch"] <= self._reported:
            if self._finished():  # Ray asks again for a trial that had ended: repeat its last word
                row = self._folder.history[-1]
                break
            row = self._train()
        self._reported = max(self._reported, row["epoch"])
        if self._ends(row):
            self._leave_prediction()
        return {**row, "training_iteration": row["epoch"], "done": self._ends(row)}

    def _train(self) -> Row:
        """One epoch, written to the folder before Ray hears of it."""
        times = {"time_setup": self._time_setup, "time_started": time.time()}
        row = self._epoch_that_fits() | times | {"time_ended": time.time()}
        engine, folder = self._engine, self._folder
        assert engine is not None
        assert folder is not None
        if engine.pieces > 1:
            row["pieces"] = engine.pieces
        trainer = engine.settings.trainer
        if trainer.patience and waited([*folder.history, row], engine.objective, trainer.min_delta) >= trainer.patience:
            row["stopped"] = OUT_OF_PATIENCE
        folder.append_count_updates(engine.count_updates)
        folder.append(row)
        folder.write_validation(engine.validation)
        every, best = trainer.keep_checkpoint_every, row["epoch"] == engine.kept_epoch
        kept = [checkpoint.BEST] if best else []
        if every and row["epoch"] % every == 0 and row["diagnosis"] != "nan":
            kept.append(checkpoint.KEPT.format(row["epoch"]))
        for name in kept:
            folder.save_weights(
                name,
                {
                    "model": engine.model.state_dict(),
                    "epoch": row["epoch"],
                    engine.objective.metric: row[engine.objective.metric],
                    "classes": list(engine.classes),
                    **engine.task.kept_of(engine.loss),
                },
            )
        if best and row["epoch"] >= self._pictured + PICTURE_EVERY and not self._ends(row):
            self._leave_prediction()
            self._pictured = row["epoch"]
        if self._own and (self._ends(row) or row["epoch"] % engine.settings.trainer.checkpoint_every == 0):
            folder.save(self._state())
        ending = f", diagnosis {row['diagnosis']}" if row["diagnosis"] else ""
        ending = f", {row['stopped']}" if "stopped" in row else ending
        best = f"best {short(row[f'best_{engine.objective.metric}'])} at {row['best_epoch']}"
        logger.info(
            "epoch %d/%d: %s, loss %.4f, %s, %.1f s%s",
            row["epoch"],
            engine.settings.trainer.epochs,
            engine.task.describe(row),
            row["loss"],
            best,
            row["seconds_epoch"],
            ending,
        )
        return row

    def _epoch_that_fits(self) -> Row:
        """The row of one epoch. Where memory does not suffice for it, batches go through the network in smaller pieces,
        from the last checkpoint on."""
        assert self._folder is not None
        while True:
            assert self._workers is not None
            assert self._engine is not None
            pieces = self._engine.pieces
            try:
                return self._workers.run_epoch(None if self._folder.history else self._folder.note_step)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                problem = str(error).splitlines()[0]
            # Only now is nothing left of the tensors that the error's stack held.
            self._go_on_in_smaller_pieces(pieces, problem)

    def _go_on_in_smaller_pieces(self, pieces: int, problem: str) -> None:
        """Build workers and engine anew. MemoryShortError where single patches did not fit."""
        settings, share, cores = self._prepared
        size = settings.trainer.batch_size // num_workers(self._trial["resources"])
        self._stop_workers()
        if size == pieces:
            raise MemoryShortError(
                f"data.patch={settings.data.patch}: not even one patch fits into the memory of a trial ({problem}). "
                "Use a smaller patch or model.width, model.checkpointing=true, or more of a card: "
                "resources.gpus_per_trial=1"
            )
        smaller = next(n for n in range(2 * pieces, size + 1) if size % n == 0)
        logger.warning(
            "OUT OF MEMORY with %d patches at once (%s): going on with %d, in %d passes to a batch",
            size // pieces,
            problem,
            size // smaller,
            smaller,
        )
        self._prepare(settings, share, cores, smaller)
        assert self._engine is not None
        assert self._folder is not None
        self._take_up(self._engine, self._folder)

    def _state(self) -> dict[str, Any]:
        assert self._engine is not None
        return {"engine": self._engine.state_dict(), "identity": identity(self._trial)}

    def _ends(self, row: Row) -> bool:
        return bool(row["epoch"] >= self._trial["trainer"]["epochs"] or row["diagnosis"] or row.get("stopped"))

    def _finished(self) -> bool:
        assert self._folder is not None
        return bool(self._folder.history) and self._ends(self._folder.history[-1])

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """In a sweep of ours a note of where the real checkpoint lies: Ray's copy would be a second truth. Else the
        whole state.

        A sweep of ours saves a trial where it pauses. This process lets go of its folder then: another may take it up
        while this one waits for its next trial.
        """
        assert self._engine is not None
        if not self._own:
            assert self._folder is not None
            checkpoint.rotate(Path(checkpoint_dir), {**self._state(), "history": self._folder.history})
            return
        note = {"dir": self._trial["run"]["dir"], "epoch": self._engine.epoch}
        (Path(checkpoint_dir) / MARKER).write_text(json.dumps(note))
        if self._folder is not None:
            if self._engine.epoch % self._engine.settings.trainer.checkpoint_every:
                self._folder.save(self._state())
            self._close_folder()
            (Path(self._trial["run"]["dir"]) / checkpoint.PREVIOUS).unlink(missing_ok=True)  # many trials may pause

    def load_checkpoint(self, checkpoint_dir: dict[str, Any] | str | None) -> None:
        """Keep what Ray gives until the first step; nothing in a sweep of ours, where that takes up the trial folder's
        newest checkpoint."""
        if not self._own:
            assert isinstance(checkpoint_dir, str)
            self._close_folder()
            self._from_ray = checkpoint.read_latest(Path(checkpoint_dir))

    def cleanup(self) -> None:
        """Let go of the log, the graphs and the device."""
        self._close_folder()
        self._stop_workers()

    def _stop_workers(self) -> None:
        self._pictures = None  # they hold their engine
        if self._workers is not None:
            self._workers.stop()
            self._workers = None

    def _close_folder(self) -> None:
        if self._folder is not None:
            if not self._finished():  # stopped early: what has ended by itself has left its prediction
                self._leave_prediction()
            self._folder.close_log()
            self._folder = None

    def _leave_prediction(self) -> None:
        """Write prediction.npz, of the best epoch so far. No trial fails for want of a picture."""
        engine, folder = self._engine, self._folder
        if engine is None or folder is None or not 0 < engine.kept_epoch <= engine.epoch:
            return
        try:
            if self._pictures is None or self._pictures.engine is not engine:
                self._pictures = PredictionPictures(engine)
            folder.write_arrays(PREDICTION, self._pictures.arrays(folder.path))
        except (OSError, RuntimeError, TrainablesError) as problem:
            logger.warning("no %s: %s", PREDICTION, problem)

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        """A bundle per worker, all on one node: resources.cpus_per_trial CPUs and a GPU each, or a fraction of one."""
        taken = RESOURCES | config.get("resources", {})
        workers, gpus = num_workers(taken), min(1, taken["gpus_per_trial"])
        bundle = {"CPU": taken["cpus_per_trial"]} | ({"GPU": gpus} if gpus else {})
        return tune.PlacementGroupFactory([bundle] * workers, strategy="PACK" if workers == 1 else "STRICT_PACK")

    def __repr__(self) -> str:
        # Ray reads it once, when the actor starts; a reused actor would go on bearing its first trial's name.
        return f"trial_slot_{os.getpid()}"


def _completed(config: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """A whole config from one that leaves out what has a default."""
    return {
        "seed": 0,
        **config,
        **asdict(trial_settings(config)),
        "resources": RESOURCES | config.get("resources", {}),
        "run": {"name": Path(folder).name, "dir": folder},
    }


def _settings(config: Mapping[str, Any]) -> TrialSettings:
    """The typed settings; a trial that asked for no GPU stays off one that happens to be visible."""
    settings = trial_settings(config)
    if not config["resources"]["gpus_per_trial"] and settings.hardware.device == "auto":
        settings.hardware = replace(settings.hardware, device="cpu")
    return settings


def identity(config: Mapping[str, Any]) -> str:
    """What is trained, as text: equal for two configs whose trials are the same training.

    Settings that a config does not name are there with their defaults, so an earlier version's config stays the same.
    Resources and hardware are not part of it: a trial may go on elsewhere.
    """
    typed = trial_settings(config)
    objective = Objective.from_config(typed.objective, get_task(typed.task.name, typed.task.options))
    settings = asdict(typed) | {"objective": asdict(objective)}
    parts = {"seed": config["seed"], "loss": config["loss"]}
    parts |= {name: {k: v for k, v in settings[name].items() if k not in FREE_SETTINGS} for name in IDENTITY}
    return json.dumps(parts, sort_keys=True, default=str)


def _require_same(found: checkpoint.Loaded, wanted: str, fingerprint: str) -> None:
    """CheckpointError, not a fresh start, where the checkpoint is another training's: nothing is overwritten."""
    saved, now = json.loads(identity(json.loads(found.state["identity"]))), json.loads(wanted)
    if saved != now:
        changed = ", ".join(f"{k} was {saved.get(k)} and is {now[k]}" for k in now if saved.get(k) != now[k])
        raise CheckpointError(f"{found.path} belongs to another configuration: {changed}. Use another trial folder")
    if found.state["engine"]["fingerprint"] != fingerprint:
        raise CheckpointError(f"{found.path} was trained on other data or another split. Use another trial folder")
