"""What a frozen encoder makes of every volume, computed once and kept on disk: then only the head is trained.

Of each training crop K augmented views are kept, and of every crop the plain one. The file is named by all that decides
its content, the weights of the encoder included, and lies in the cache folder; whoever needs it first makes it under a
lock, and all trials of a sweep, seeds and ranks that have the same encoder read it.

Shapes: M crops, K views, E channels of the encoder, N batch, P packed bytes.
"""

from __future__ import annotations

import hashlib
import json
import logging
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor, nn

from trainables.data import PackedBatch, PackedDataset, PatchSampler, augment
from trainables.data.cache import cache_folder, cache_written
from trainables.files import replacing
from trainables.hardware import Hardware
from trainables.steps import normalise

logger = logging.getLogger(__name__)

VERSION = 1
VIEW_STREAM = 5
AUGMENTATION = ("mirror", "mirror_y", "mirror_z", "transpose", "rotate_degrees", "gain", "intensity", "train_on")


class Embeddings:
    """The embeddings of a data set by a frozen encoder, made where they are not there yet.

    views: K. The seed of the augmentation is data.split_seed, not the trial's: all trials share the views.
    """

    def __init__(self, encoder: nn.Module, dataset: PackedDataset, views: int, hardware: Hardware) -> None:
        self.dataset, self.views, self.device = dataset, views, hardware.device
        place = cache_folder(dataset.settings) / "embeddings"
        path = place / f"{self.key(encoder, dataset, views, hardware)}.npy"
        with cache_written(place):
            place.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_suffix(".lock")):
                if not path.is_file():
                    table = self._computed(encoder, hardware)
                    with replacing(path) as file:
                        np.save(file, table)
        self.table = torch.from_numpy(np.load(path)).to(self.device)
        """(M, 1 + K, E) float32, view 0 the plain one; 0 for the views of crops that do not train."""

    @staticmethod
    def key(encoder: nn.Module, dataset: PackedDataset, views: int, hardware: Hardware) -> str:
        """Hex name of the file: data, weights of the encoder, views, seed, augmentation and precision."""
        settings = dataset.settings
        about = [
            VERSION,
            dataset.fingerprint,
            views,
            settings.split_seed,
            str(hardware.autocast),
            type(encoder).__name__,
        ]
        digest = hashlib.sha256(json.dumps([*about, [getattr(settings, n) for n in AUGMENTATION]]).encode())
        for name, value in encoder.state_dict().items():
            digest.update(f"{name} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()[:32]

    @torch.no_grad()
    def _computed(self, encoder: nn.Module, hardware: Hardware) -> np.ndarray:
        """By the encoder in evaluation mode, a crop with its views at a time."""
        settings, crops = self.dataset.settings, self.dataset.crops
        logger.info("Computing embeddings of %d volumes, %d views of those that train (once).", len(crops), self.views)
        sampler = PatchSampler(self.dataset, batch_size=self.views, seed=settings.split_seed)
        training, rows, mode = set(sampler.members.tolist()), list[Tensor](), encoder.training
        encoder.eval()
        for index in range(len(crops)):
            batches = [sampler.views(index, plain=True)] + [sampler.views(index)] * (index in training)
            images = [augment(batch.to(self.device), settings.patch)[0] for batch in batches]
            found = [self._of(encoder, normalise(image, settings.intensity), hardware) for image in images]
            empty = found[0].new_zeros(0 if index in training else self.views, found[0].shape[1])
            rows.append(torch.cat([*found, empty]).cpu())
        encoder.train(mode)
        return torch.stack(rows).numpy()

    @staticmethod
    def _of(encoder: nn.Module, image: Tensor, hardware: Hardware) -> Tensor:
        with torch.autocast(image.device.type, dtype=hardware.autocast, enabled=hardware.autocast is not None):
            found: Tensor = encoder(image)
        return found.float()

    def batch(self, members: np.ndarray, views: np.ndarray) -> PackedBatch:
        """Embeddings (N, E) in the place of images, and labels (N, P, 1, 1, 1). views: 0 the plain one."""
        crops = self.dataset.crops
        labels = np.stack([crops[m].labels[:, :1, :1, :1] for m in members.tolist()])
        index = torch.from_numpy(np.asarray(members, dtype=np.int64))
        em = self.table[index.to(self.device), torch.from_numpy(np.asarray(views)).to(self.device)]
        return PackedBatch(em, torch.from_numpy(labels).to(self.device), index)

    def training_batch(self, sampler: PatchSampler, step: int) -> PackedBatch:
        """The crops of batch `step` of a sampler, each in one of its views."""
        members = sampler.chosen(step)
        rng = np.random.default_rng([VIEW_STREAM, sampler.seed, step])
        drawn = rng.integers(1, self.views + 1, sampler.batch_size)[sampler.share]
        return self.batch(members, drawn)


def embeds(model: Any) -> bool:
    """Whether a network is an encoder and a head, so that what the encoder makes of a volume can be kept."""
    return hasattr(model, "encoder") and hasattr(model, "classified")
