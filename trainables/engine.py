"""One trial's training, without Ray: compiled mixed-precision steps, an epoch, validation, a state to resume from.

    from trainables.engine import Engine
    from trainables.settings import trial_settings

    settings = trial_settings({
        "data": {"patch": [1, 64, 64]}, "model": {"width": 8, "depth": 2}, "hardware": {},
        "trainer": {"epochs": 3, "iterations_per_epoch": 20, "batch_size": 4, "validation_batches": 4},
    })
    engine = Engine(settings, {"name": "seesaw", "params": {"p": 0.8, "q": 2.0}}, seed=0)
    while engine.epoch < settings.trainer.epochs:
        row = engine.run_epoch()
        print(row["epoch"], row[engine.objective.metric])

Shapes: N batch, K input channels, C classes, D H W space, P packed bytes, K validation crops.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from trainables import losses, models
from trainables.data import PackedBatch, PackedDataset, PatchSampler, augment, open_packed
from trainables.embeddings import Embeddings, embeds
from trainables.evaluation import ValidationRecord, Validator
from trainables.hardware import CompileClock, Hardware, prepare_process, require_cpu_precision, resolve
from trainables.objective import Objective
from trainables.optim import Optimisation, sum_as_one
from trainables.settings import TrainerSettings, TrialSettings, require
from trainables.steps import (
    Forward,
    LogitsOf,
    Step,
    TrainingSums,
    Waiting,
    can_compile,
    load_ahead,
    no_reduction,
    prepare_ahead,
)
from trainables.tasks import Task, get_task, require_labels_for

logger = logging.getLogger(__name__)

Row = dict[str, Any]
FIXED_TRAINER_SETTINGS = ("batch_size", "validation_batches", "compile")
"""What an engine is built for: shapes of the compiled graphs and the validation patches."""
UPDATED = ("class_frequency", "logit_adjustment", "class_weight")
"""Figures of each class at an update of the class counts, see `WeightedTversky.take_updates`."""


class Moment(NamedTuple):
    """A point in time: the clock, and how much of the time before it went into compiling, both in seconds."""

    clock: float
    compiled: float


class Engine:
    """Trains one configuration after another on the same data, model shape and hardware.

    settings: data, model, trainer, hardware, task, objective. loss: {"name", "params"}. seed: decides the initial
    weights and the patches, so equal seeds pair trials. dataset: opened from settings.data when None. share: part of
    one GPU this trial owns, in (0, 1]. cpus: CPUs it asked for. rank, world: which of how many processes of the trial
    this is. Each has its share of every batch, and `reduce` sums a tensor in place over all of them: losses, gradients,
    counts and scores are then those of one process, whose batch it is. pieces: in how many parts a process's share of a
    batch goes through the network, one after the other: a divisor of it. Loss and counts are those of the whole batch,
    so the training is the same, in less memory and more time, where no layer mixes the patches of a batch (batch norm).
    Raises SettingsError or DataError for what cannot be trained.
    """

    def __init__(
        self,
        settings: TrialSettings,
        loss: Mapping[str, Any],
        seed: int,
        *,
        dataset: PackedDataset | None = None,
        share: float = 1.0,
        cpus: int = 1,
        rank: int = 0,
        world: int = 1,
        reduce: Callable[[Tensor], object] = no_reduction,
        pieces: int = 1,
    ) -> None:
        batch_size, each = settings.trainer.batch_size, f"each of {world} ranks needs the same share of it"
        require(batch_size % world == 0, "trainer.batch_size", batch_size, each, f"Use a multiple of {world}")
        self.rank, self.world, self.reduce, self.pieces = rank, world, reduce, pieces
        self.settings = settings
        self.hardware = resolve(settings.hardware, share=share, cpus=cpus)
        if not self.hardware.cuda:
            require_cpu_precision(settings.hardware.precision, settings.data.patch)
        prepare_process(self.hardware, settings.data)
        self.dataset = open_packed(settings.data) if dataset is None else dataset
        self.task = get_task(settings.task.name, settings.task.options)
        self.classes = self.task.outputs(self.dataset.classes)
        device = self.hardware.device
        self.model = self._new_model().to(device)
        _set_memory_format(self.model, self.hardware)
        require_labels_for(loss["name"], self.task, settings.task.name)
        require_fitting(self.model, self.task, settings.model.name, settings.task.name)
        self.loss = losses.build(loss["name"], loss["params"], self.classes).to(device)
        ranks = {"rank": rank, "world": world}
        of_pieces = replace(
            settings.trainer,
            batch_size=batch_size // pieces,
            validation_batches=settings.trainer.validation_batches * pieces,
        )
        self.validator = Validator(self.task, self.dataset, of_pieces, settings.data.split_seed, self.hardware, **ranks)
        self.record = ValidationRecord(self.task, self.validator.crops, self.classes)
        self._build_steps()
        self.reset(loss, seed, settings.trainer, settings.objective)

    def _new_model(self) -> torch.nn.Module:
        data = self.settings.data
        return models.build(
            self.settings.model, in_channels=self.dataset.in_channels, num_classes=len(self.classes), patch=data.patch
        )

    def _build_steps(self) -> None:
        """The graphs of this engine. Every trial and family goes through them: training and evaluation, and for a loss
        over several batches or ranks the sums that it is made of."""
        task, loss = self.task, self.loss
        self.forward = forward = Forward(
            *(self.model, task, self.dataset.classes, self.hardware, self.settings.data.intensity),
            maps=self.settings.data.maps,
        )

        def training_step(em: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            return loss.with_counts(*forward(em, labels))

        def sums_step(em: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return loss.totals(*forward(em, labels))

        def evaluation_step(em: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            logits, target, *maps = forward(em, labels)
            return *task.evaluate(loss, logits, target, *maps), target

        compiled = can_compile(self.settings.trainer.compile)
        self.train_step = Step(training_step, compiled=compiled, cuda=self.hardware.cuda)
        self.sums_step = Step(sums_step, compiled=compiled, cuda=self.hardware.cuda)
        self.evaluation_step = Step(evaluation_step, compiled=compiled, cuda=self.hardware.cuda)
        self.compile_clock = CompileClock(running=compiled)

    def fits(self, settings: TrialSettings, loss: str, *, share: float = 1.0, cpus: int = 1) -> bool:
        """Whether a trial with these settings, and the loss of this name, can be run by `reset` alone."""
        mine, other = self.settings, settings
        return (
            losses.is_exclusive(loss) == losses.is_exclusive(self.loss.name)
            and all(getattr(mine, name) == getattr(other, name) for name in ("data", "model", "hardware", "task"))
            and all(getattr(mine.trainer, f) == getattr(other.trainer, f) for f in FIXED_TRAINER_SETTINGS)
            and resolve(other.hardware, share=share, cpus=cpus) == self.hardware
        )

    def reset(
        self, loss: Mapping[str, Any], seed: int, trainer: TrainerSettings, objective: Mapping[str, Any] | None = None
    ) -> None:
        """Become a fresh engine for this loss, seed, trainer and objective (None: the task's), in place.

        No parameter or buffer changes its storage, because compiled graphs (CUDA graphs by address) read them.
        SettingsError where `fits` would be False.
        """
        for name in FIXED_TRAINER_SETTINGS:
            value, built = getattr(trainer, name), getattr(self.settings.trainer, name)
            require(
                value == built, f"trainer.{name}", value, f"this engine was built for {built}", "Build a new Engine"
            )
        self.loss.reset(
            loss["name"],
            loss["params"],
            count_update_every=trainer.count_update_every,
            count_window=trainer.count_window,
        )
        self.loss.check_maps(self.settings.data.maps)
        self.sums = TrainingSums(len(self.loss.figure_names), self.hardware.device)
        self.settings.trainer, self.seed, self.epoch = trainer, seed, 0
        self.compile_clock.counting = True
        self.objective = Objective.from_config(objective, self.task)
        torch.manual_seed(seed)
        self.model.load_state_dict(self._new_model().state_dict())  # drawn on the CPU: the same on every device
        if self.settings.model.output_bias == "prior":
            models.set_output_bias(self.model, self._class_shares)
        self.optim = Optimisation(self.model, trainer, self.hardware, self.objective.mode)
        self._first_weight_norm = self._weight_norm()
        self.sampler = PatchSampler(
            self.dataset,
            side="train",
            batch_size=trainer.batch_size,
            seed=seed,
            learnt=self.classes,
            rank=self.rank,
            world=self.world,
        )
        self.record.reset()
        self.validator.embeddings = None  # of another encoder
        self.diagnosis, self.count_updates = "", list[dict[str, Any]]()
        self._step_patches = list[tuple[Tensor, Tensor]]()

    def park(self) -> None:
        """Let go of all but the network and its graphs: a fresh engine begins with `reset`."""
        del self.optim, self.sampler
        self.record.reset()
        self.compile_clock.counting = False

    @cached_property
    def _class_shares(self) -> Tensor:
        """Positive share of the annotated voxels of the training patches, float32 (C,); NaN where none is annotated."""
        sampler = PatchSampler(self.dataset, batch_size=1, seed=0, learnt=self.classes)
        positive, known = (torch.from_numpy(voxels) for voxels in sampler.expected_voxels())
        share = dict(zip(self.dataset.classes, (positive / known).tolist()))
        return torch.tensor([share.get(name, math.nan) for name in self.classes]).to(self.hardware.device)

    @property
    def validation(self) -> dict[str, np.ndarray]:
        """The arrays of validation.npz up to the present epoch."""
        return self.record.arrays()

    @property
    def kept_epoch(self) -> int:
        """The epoch whose weights are to be kept, as far as is known by now; 0 before there is one."""
        return self.settings.trainer.keep_epoch or self.record.best_epoch

    def run_epoch(self, on_step: Callable[[int, int], None] | None = None) -> Row:
        """Train one epoch and validate: the flat row of metrics. NaN in loss or weights makes `diagnosis` "nan".

        on_step(done, of): called before each step with the epoch's steps done and all of them, as the host counts
        them, which may be some steps ahead of a GPU.

        What else may have gone wrong is for the reader of the rows to say: skipped_share is that of steps whose
        gradient was not finite, grad_scale is 0 where gradients are not scaled, weight_growth is the norm of all
        weights ÷ that before the first step. count_updates are then those of the epoch: {"epoch", "step" (optimiser
        steps since the start), and of UPDATED each {class: figure}}.
        """
        started = self._now()
        seconds_load = self._train_epoch(on_step)
        # The host waits here, for the first time.
        training, finite = self.sums.read(self.reduce), self._weights_are_finite()
        self.count_updates = [
            {"epoch": self.epoch + 1, "step": step}
            | {name: dict(zip(self.classes, values)) for name, values in zip(UPDATED, figures)}
            for step, figures in self.loss.take_updates()
        ]
        trainer = self.settings.trainer
        if trainer.swa_from and self.epoch + 1 >= trainer.epochs_here(trainer.swa_from):
            seen = prepare_ahead(self._batches(), self._patches, self.hardware.device)
            self.optim.put_average(LogitsOf(self.forward), ((patches,) for patches in seen))
        if self.world > 1:
            self._agree()
        trained = self._now()
        self.model.eval()
        result = self.validator.run(self.evaluation_step, self.reduce)
        finished = self._now()
        self.epoch += 1
        row = {"epoch": self.epoch, **self.task.scores(result, self.classes), **self._training_metrics(training)}
        figures = self.objective.figures
        if searched := [name for name in figures if name not in row and name in self.task.searched(self.classes)]:
            score = self.task.at_thresholds(result, self.classes)
            row |= {name: score(name) for name in searched}
        for name in figures:
            key = "objective.metric" if name == self.objective.metric else "objective"
            fix = f"Choose a figure of the rows: {', '.join(row)}"
            require(name in row, key, name, f"no epoch of {self.settings.task.name} has it", fix)
        if not (finite and math.isfinite(row["loss"])):
            self.diagnosis = "nan"
            row |= dict.fromkeys((*self.task.summary, self.objective.metric), math.nan)
        self.record.add(self.epoch, result, row, self.objective.better)
        self.optim.take_figure(row[self.objective.metric], trainer)
        row |= {f"best_{name}": self.record.best_row.get(name, math.nan) for name in figures}
        row["best_epoch"] = self.record.best_epoch
        return row | self._timing(started, trained, finished, seconds_load) | {"diagnosis": self.diagnosis}

    def _train_epoch(self, on_step: Callable[[int, int], None] | None = None) -> float:
        """All steps of one epoch, without host synchronisation; returns the seconds spent waiting for patches."""
        trainer = self.settings.trainer
        self.optim.take_up(self.epoch + 1)
        self.optim.add_noise(self.epoch + 1, self.seed, trainer)
        self.loss.begin_epoch(self.epoch * (trainer.published_epochs or trainer.epochs) / trainer.epochs)
        self._take_embeddings()
        self.model.train()
        self.sums.zero_()
        batches = Waiting(self._batches())
        prepared = prepare_ahead(batches, self._patches, self.hardware.device)
        numbers = self._epoch_batches()
        for (em, labels), number in zip(prepared, numbers):
            if on_step:
                on_step(number - numbers.start, len(numbers))
            self.train_on(em, labels, number)
        return batches.seconds

    def _take_embeddings(self) -> None:
        """What the encoder makes of all volumes, while it is frozen and trainer.cached_views says so."""
        wanted = self.optim.frozen and self.settings.trainer.cached_views > 0 and embeds(self.model)
        if not wanted:
            self.validator.embeddings = None
        elif self.validator.embeddings is None:
            encoder, views = self.model.encoder, self.settings.trainer.cached_views
            self.validator.embeddings = Embeddings(encoder, self.dataset, views, self.hardware)  # type: ignore[arg-type]

    def _epoch_batches(self) -> range:
        """Numbers of the epoch's batches: trainer.accumulate of them to an optimiser step."""
        count = self.settings.trainer.iterations_per_epoch * self.settings.trainer.accumulate
        return range(self.epoch * count, (self.epoch + 1) * count)

    def _batches(self) -> Iterator[PackedBatch]:
        """The epoch's patches. On CUDA one thread gathers and pins them while the device computes."""

        if (kept := self.validator.embeddings) is not None:
            yield from (kept.training_batch(self.sampler, number) for number in self._epoch_batches())
            return

        def load(number: int) -> PackedBatch:
            batch = self.sampler.batch(number)
            return batch.pin_memory() if self.hardware.cuda else batch

        yield from load_ahead(load, self._epoch_batches(), depth=3 if self.hardware.cuda else 0)

    def _patches(self, host: PackedBatch) -> tuple[Tensor, Tensor]:
        """The batch on the device, augmented: em and labels, uint8 (N, K, D, H, W) and (N, P, D, H, W)."""
        if host.em.dim() == 2:
            return host.em, host.labels
        return augment(host.to(self.hardware.device), self.settings.data.patch)

    def train_on(self, em: Tensor, labels: Tensor, number: int) -> None:
        """Batch `number` on patches of the device: em uint8 (N, K, D, H, W), labels uint8 (N, P, D, H, W).

        The last batch of a step updates the weights. What a graph returns is used up before the next call, as CUDA
        graphs require.
        """
        trainer = self.settings.trainer
        parts = trainer.accumulate
        step, part = divmod(number, parts)
        last = part == parts - 1
        size = len(em) // self.pieces
        patches = list(zip(em.split(size), labels.split(size)))
        if parts > 1 and trainer.pool_accumulated:
            self._step_patches += patches
            if not last:
                return
            loss, figures = self._pooled_gradient(self._step_patches, number - part)
            self._step_patches = []
        elif self.world > 1 or self.pieces > 1:
            loss, figures = self._pooled_gradient(patches, number, part=part, parts=parts)
        else:
            self._begin_pass(number)
            loss, figures, positive, known = self.train_step(em, labels)
            self.optim.backward(loss, part=part, parts=parts)
            self.loss.accumulate_(positive, known)
        if last and self.world > 1:
            self.optim.sum_gradients(self.reduce)
        norm = self.optim.step(step, trainer) if last else None
        self.sums.add_(loss.detach(), figures, norm)
        if last:
            self.loss.end_batch(None if self.world == 1 else self.reduce)

    def _pooled_gradient(
        self, patches: list[tuple[Tensor, Tensor]], number: int, *, part: int = 0, parts: int = 1
    ) -> tuple[Tensor, Tensor]:
        """Loss (0-d) and its figures (F,) of all patches of all ranks together, and its gradient.

        The loss depends on sums over voxels alone. So these are summed up, the loss is differentiated with respect to
        them, and all patches go through the network with that slope, piece by piece. All pieces but the last go through
        it twice: the sums must be known before the first gradient. number: that of the first batch. part, parts: the
        gradient is added to that of the parts of the step before, divided by their number.
        """
        several, pooled = len(patches), torch.zeros(())
        for index, (em, labels) in enumerate(patches):
            self._begin_pass(number, index)
            with torch.set_grad_enabled(index == several - 1):
                sums, positive, known = self.sums_step(em, labels)
            pooled = pooled + sums.detach()
        loss, figures, slope = self._loss_of_sums(pooled)
        for done, index in enumerate((several - 1, *range(several - 1))):
            if done:
                self._begin_pass(number, index)
                sums, positive, known = self.sums_step(*patches[index])
            self.optim.backward(sums, slope / parts, part=part * several + done, parts=parts * several)
            self.loss.accumulate_(positive, known)
        return loss, figures

    def _loss_of_sums(self, sums: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, its figures, and the slope of the loss, from the sums (S, C) of all ranks."""
        if self.world > 1:
            self.reduce(sums)
        sums.requires_grad_()
        loss, figures = self.loss.of_totals(sums)
        (slope,) = torch.autograd.grad(loss, sums)
        return loss, figures, slope

    def _begin_pass(self, number: int, index: int = 0) -> None:
        """Before piece `index`, counted from batch `number` on, goes through the network, for the first or the second
        time.

        Dropout is a pure function of the seed, the batch and its piece, too, and another one on each rank.
        """
        self.optim.optimizer.zero_grad(set_to_none=True)
        batches, piece = divmod(index, self.pieces)
        drawn_from = [self.seed, number + batches, self.rank, *[piece] * (self.pieces > 1)]
        torch.manual_seed(int(np.random.SeedSequence(drawn_from).generate_state(1)[0]))

    def _agree(self) -> None:
        """Give all ranks the mean of their running statistics (batch norm), and of weights that rounding has parted.
        What each has counted is gathered at rank 0: its state is then all that a resumed trial needs."""
        floats = [tensor for tensor in self.model.state_dict().values() if tensor.is_floating_point()]
        sum_as_one(floats, self.reduce, 1 / self.world)
        self.loss.gather_window(self.reduce, self.rank)

    def _weights_are_finite(self) -> bool:
        """One sync: whether every weight and running statistic is finite."""
        tensors = [t for t in self.model.state_dict().values() if t.is_floating_point()]
        return bool(torch.stack([t.isfinite().all() for t in tensors]).all())

    def _weight_norm(self) -> float:
        """√Σ w² over all parameters that are trained; one sync."""
        return float(torch.stack(torch._foreach_norm([p.detach() for p in self.optim.parameters])).norm())

    def _training_metrics(self, training: dict[str, Any]) -> Row:
        per_class = {"weight": self.loss.weight.tolist(), "shift": self.loss.shift.tolist()}
        row = {name: training[name] for name in ("loss", "grad_norm", "skipped_share")}
        row |= {
            "grad_scale": self.optim.scaler.get_scale() if self.optim.scaler.is_enabled() else 0.0,
            "weight_growth": self._weight_norm() / self._first_weight_norm,
            "lr": self.optim.optimizer.param_groups[0]["lr"],
        }
        row |= self.loss.training_figures(training["figures"])
        for name, values in per_class.items():
            row |= {f"{name}/{c}": v for c, v in zip(self.classes, values)}
        return row

    def _now(self) -> Moment:
        return Moment(time.perf_counter(), self.compile_clock.seconds)

    def _timing(self, started: Moment, trained: Moment, finished: Moment, seconds_load: float) -> Row:
        """load + compute + validate + compile = epoch, in seconds: compiling counts as none of the others."""
        trainer = self.settings.trainer
        compiled, compiled_training = finished.compiled - started.compiled, trained.compiled - started.compiled
        seconds_training = trained.clock - started.clock - compiled_training
        row = {
            "seconds_load": seconds_load,
            "seconds_compute": seconds_training - seconds_load,
            "seconds_validate": finished.clock - trained.clock - (compiled - compiled_training),
            "seconds_compile": compiled,
            "seconds_epoch": finished.clock - started.clock,
            "patches_per_s": len(self._epoch_batches()) * trainer.batch_size / seconds_training,
            "compiled_graphs": self.compile_clock.graphs,
        }
        if self.hardware.cuda:
            row["gpu_memory_mb"] = torch.cuda.max_memory_reserved(self.hardware.device) / 2**20
        return row

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed trial needs to go on bit for bit; patches and learning rate follow from the epoch."""
        return {
            "epoch": self.epoch,
            "seed": self.seed,
            "diagnosis": self.diagnosis,
            "fingerprint": self.dataset.fingerprint,
            "model": self.model.state_dict(),
            **self.optim.state_dict(),
            "loss": self.loss.state_dict(),
            "record": self.record.state_dict(),
            "random": torch.get_rng_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; weights and buffers are copied in place. The trainer settings stay those of `reset`."""
        self.model.load_state_dict(state["model"])
        self.optim.load_state_dict(state)
        self.loss.load_state_dict(state["loss"])
        if self.rank > 0:
            self.loss.gather_window(no_reduction, self.rank)
        self.record.load_state_dict(state["record"])
        self.epoch, self.seed, self.diagnosis = state["epoch"], state["seed"], state["diagnosis"]
        torch.set_rng_state(state["random"])


def require_fitting(model: torch.nn.Module, task: Task, model_name: str, task_name: str) -> None:
    """SettingsError where the network gives a label for each voxel and the task wants one for each image, or the other
    way round."""
    per_image, places = getattr(model, "per_image", False), {True: "image", False: "voxel"}
    require(
        per_image == task.whole_crops,
        "model.name",
        model_name,
        f"has a label for each {places[per_image]}, and task.name={task_name} learns one for each "
        f"{places[task.whole_crops]}",
        f"Use for example model.name={'volume_classifier' if task.whole_crops else 'unet'}",
    )


def _set_memory_format(model: torch.nn.Module, hardware: Hardware) -> None:
    """Lay out convolution weights (4-d and 5-d parameters) as the hardware likes them; others stay as they are."""
    for parameter in model.parameters():
        if parameter.dim() in (4, 5):
            memory_format = hardware.memory_format(parameter.dim() - 2)
            parameter.data = parameter.data.contiguous(memory_format=memory_format)
