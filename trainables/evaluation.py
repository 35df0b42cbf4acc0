"""The validation pass and what is kept of it. What is counted and scored, a task says.

Shapes: K validation crops (the units of evidence), C outputs of the network, E epochs so far.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainables.data import PackedBatch, PackedDataset, ValidationSet, validation_set
from trainables.embeddings import Embeddings
from trainables.hardware import Hardware
from trainables.settings import TrainerSettings
from trainables.steps import Step, load_ahead, no_reduction
from trainables.tasks import Result, Task


class Validator:
    """The fixed validation patches of a data set, and one pass over them: every world-th batch from `rank` on."""

    def __init__(
        self,
        task: Task,
        dataset: PackedDataset,
        trainer: TrainerSettings,
        split_seed: int,
        hardware: Hardware,
        *,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.rank, self.world = rank, world
        members = [i for i, crop in enumerate(dataset.crops) if crop.side == "validate"]
        self.task, self.hardware = task, hardware
        self.crops = tuple(dataset.crops[i].name for i in members)
        self.outputs = task.outputs(dataset.classes)
        slot = torch.full((len(dataset.crops),), -1, dtype=torch.int64)
        slot[members] = torch.arange(len(members))
        patches = validation_set(
            dataset,
            batch_size=trainer.batch_size,
            num_batches=trainer.validation_batches,
            seed=split_seed,
            whole_crops=task.whole_crops,
        )
        self.batches = Batches(patches, slot)
        self.embeddings: Embeddings | None = None
        """Of the encoder while it is frozen: then a pass reads them and no volume."""

    @torch.no_grad()
    def run(self, step: Step, reduce: Callable[[Tensor], object] = no_reduction) -> Result:
        """One pass, read once at its end: what the task makes of its counts, and `val_loss`.

        step: (em, labels) → (loss 0-d, logits (N, C, *S) as scored, target (N, C, *S)). reduce: sums a tensor in place
        over the ranks, so that all of them have the result of the whole pass.
        """
        device = self.hardware.device
        counts = self.task.zeros(len(self.crops), len(self.outputs), device)
        loss_sum = torch.zeros((), device=device)
        for number, host in zip(self._numbers(), self._loaded()):
            batch = host.to(device)
            loss, logits, target = step(batch.em, batch.labels)
            loss_sum += loss
            self.task.count_(counts, logits, target, batch.crop, number)
        for total in (loss_sum, *counts.values()):
            reduce(total)
        result = self.task.result({name: value.cpu() for name, value in counts.items()})
        return {**result, "val_loss": float(loss_sum) / len(self.batches)}

    def _numbers(self) -> range:
        return range(self.rank, len(self.batches), self.world)

    def _loaded(self) -> Iterator[PackedBatch]:
        """The batches in order. On CUDA one thread cuts and pins them while the device computes, as in training."""
        if self.embeddings is not None:
            yield from (self.batches.embedded(number, self.embeddings) for number in self._numbers())
            return

        def load(number: int) -> PackedBatch:
            return self.batches[number].pin_memory() if self.hardware.cuda else self.batches[number]

        yield from load_ahead(load, self._numbers(), depth=3 if self.hardware.cuda else 0)


class Batches(Sequence[PackedBatch]):
    """A validation set with its crops numbered among the validation crops. A batch is cut anew whenever it is read."""

    def __init__(self, patches: ValidationSet, slot: Tensor) -> None:
        self._patches, self._slot = patches, slot
        self.batch_size = patches.batch_size

    def __len__(self) -> int:
        return len(self._patches)

    def embedded(self, number: int, embeddings: Embeddings) -> PackedBatch:
        """A batch with what the encoder has made of its volumes in their place."""
        members = self._patches.members(number)
        batch = embeddings.batch(members, np.zeros_like(members))
        return PackedBatch(batch.em, batch.labels, self._slot[batch.crop])

    def __getitem__(self, number: Any) -> Any:
        batch = self._patches[number]
        return PackedBatch(batch.em, batch.labels, self._slot[batch.crop])


class ValidationRecord:
    """What a task wants kept of the epochs, and which of them was the best: the source of thresholds and bootstraps."""

    def __init__(self, task: Task, crops: Sequence[str], outputs: Sequence[str]) -> None:
        self.task, self.crops, self.outputs = task, tuple(crops), tuple(outputs)
        self.reset()

    def reset(self) -> None:
        """Forget everything: a new trial."""
        nothing = self.task.result(self.task.zeros(len(self.crops), len(self.outputs), torch.device("cpu")))
        self.epochs: list[int] = []
        self._shapes = {name: nothing[name].shape for name in self.task.of_every_epoch}
        self._every: dict[str, list[np.ndarray]] = {name: [] for name in self.task.of_every_epoch}
        self._newest = {name: nothing[name] for name in self.task.of_newest_epoch}
        self._best = {name: nothing[name] for name in self.task.of_best_epoch}
        self.best_epoch, self.best_row = 0, dict[str, float]()

    def add(
        self,
        epoch: int,
        result: Result,
        row: Mapping[str, float],
        better: Callable[[Mapping[str, Any], Mapping[str, Any] | None], bool],
    ) -> None:
        """Take in one epoch with its row; better(row, best row so far or None) says whether it becomes the best."""
        self.epochs.append(epoch)
        for name, values in self._every.items():
            values.append(result[name])
        self._newest = {name: result[name] for name in self._newest}
        if better(row, self.best_row or None):
            self.best_epoch, self.best_row = epoch, dict(row)
            self._best = {name: result[name] for name in self._best}

    def arrays(self) -> dict[str, np.ndarray]:
        """What validation.npz holds: epochs (E,), the task's arrays, best_epoch, crops (K,), classes (C,)."""
        every = {
            name: np.array(values, np.int64).reshape(len(self.epochs), *self._shapes[name])
            for name, values in self._every.items()
        }
        return {
            "epochs": np.array(self.epochs, np.int64),
            **every,
            **self._newest,
            **self._best,
            "best_epoch": np.array(self.best_epoch, np.int64),
            "crops": np.array(self.crops),
            "classes": np.array(self.outputs),
        }

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers, so that a checkpoint can be read without running code from it."""
        arrays = {k: torch.from_numpy(v.copy()) for k, v in self.arrays().items() if k not in ("crops", "classes")}
        return {"arrays": arrays, "best_row": self.best_row}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become what was saved. A state of an earlier version knows its best epoch by the task's metric alone."""
        arrays = {name: value.numpy() for name, value in state["arrays"].items()}
        self.epochs, self.best_epoch = arrays["epochs"].tolist(), int(arrays["best_epoch"])
        self._every = {name: list(arrays[name]) for name in self._every}
        self._newest = {name: arrays[name] for name in self._newest}
        self._best = {name: arrays[name] for name in self._best}  # edges, too: an earlier version may have had others
        metric, earlier = self.task.metric, f"best_{self.task.metric}"
        best = {metric: float(state[earlier])} if earlier in state else state["best_row"]
        self.best_row = dict(best) if self.best_epoch else {}
