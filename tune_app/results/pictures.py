"""Pictures of patches: EM, truth and prediction, and what a trial left of them in prediction.npz.

Legend: M patches, C classes, H W space.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from trainables.data.expand import class_masks

TOL_MUTED = ("#CC6677", "#332288", "#DDCC77", "#117733", "#88CCEE", "#882255", "#44AA99", "#999933", "#AA4499")
"""Paul Tol's muted scheme (personal.sron.nl/~pault), for classes: no colour of theirs is one of a family."""


TOL_NAMES = ("rose", "indigo", "sand", "green", "cyan", "wine", "teal", "olive", "purple")


Masks = NDArray[np.bool_]


GREY_LEVELS = 16
"""Grey values of the EM under colours; with more, the images would take twice the space."""


MAX_SIDE = 320
"""Voxels of a patch that are shown along each side: 256 and, in 3D, the planes beside it."""


DRAWN_SIDE, LINE = 192, 2
"""Pixels of an outlined picture along its longer side, at least, and of a line."""


@dataclass(frozen=True, kw_only=True)
class Patches:
    """What prediction.npz holds. em uint8 (M, H, W); present, known, predicted bool (M, C, H, W)."""

    em: NDArray[np.uint8]
    present: Masks
    known: Masks
    predicted: Masks
    crops: tuple[str, ...]
    classes: tuple[str, ...]
    best_epoch: int


def read_patches(path: Path) -> Patches | None:
    """A prediction.npz; None where it is missing, cut short or something else."""
    with suppress(OSError, ValueError, KeyError, EOFError, IndexError, BadZipFile):
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in ("em", "labels", "predicted", "crops", "classes", "best_epoch")}
        classes = tuple(map(str, found["classes"]))
        planes = found["labels"][..., :MAX_SIDE, :MAX_SIDE].swapaxes(0, 1)
        masks = [class_masks(planes, c, len(classes)) for c in range(len(classes))]
        bits = np.unpackbits(found["predicted"], axis=1, bitorder="little", count=len(classes)).astype(bool)
        patches = Patches(
            em=found["em"][..., :MAX_SIDE, :MAX_SIDE],
            predicted=bits[..., :MAX_SIDE, :MAX_SIDE],
            present=np.stack([present for present, _ in masks], axis=1),
            known=np.stack([known for _, known in masks], axis=1),
            crops=tuple(map(str, found["crops"])),
            classes=classes,
            best_epoch=int(found["best_epoch"]),
        )
        fits = (
            patches.em.ndim == 3
            and patches.em[:, None].shape == patches.predicted[:, :1].shape == patches.known[:, :1].shape
        )
        return patches if fits and len(patches.crops) == len(patches.em) else None
    return None


def sheet(patches: Patches) -> tuple[bytes, tuple[int, int]]:
    """All patches as one PNG, with its height and width: a column per patch; EM, truth and prediction as rows."""
    order = drawn_classes(patches)
    rows = ([grown(grey(em)) for em in patches.em], truth(patches), outlined(patches, patches.predicted, order))
    whole = np.concatenate([np.concatenate(row, axis=1) for row in map(list, rows)])
    return png(whole), (whole.shape[0], whole.shape[1])


def drawn_classes(patches: Patches) -> list[int]:
    """The classes that take a colour, at most as many as there are, in the order of drawing: those with most voxels
    first, so that outlines of small things lie on top."""
    voxels = (patches.present & patches.known).sum(axis=(0, 2, 3))
    return [int(c) for c in np.argsort(-voxels, kind="stable")[: len(TOL_MUTED)]]


def places(order: Sequence[int]) -> dict[int, int]:
    """{class: place of its colour}, in the order of the classes: that of the class where all are drawn."""
    return {c: place for place, c in enumerate(sorted(order))}


def truth(patches: Patches) -> list[NDArray[np.uint8]]:
    """The truth outlined over the EM, one picture per patch; dark where no class is annotated."""
    pictures = outlined(patches, patches.present & patches.known, drawn_classes(patches))
    for picture, known in zip(pictures, np.asarray(patches.known.any(axis=1))):
        picture[~grown(known)] //= 3
    return pictures


def outlined(patches: Patches, masks: Masks, order: Sequence[int]) -> list[NDArray[np.uint8]]:
    """The outlines of masks (M, C, H, W) over the EM, one picture (H', W', 3) per patch.

    The outline of a class that fills the patch runs along its border.
    """
    pictures, place = [], places(order)
    for em, mask in zip(patches.em, masks):
        picture = grown(grey(em // 2 + 64))  # paler: lines stand out
        for c in order:
            picture[outline(grown(mask[c]))] = rgb(TOL_MUTED[place[c]])
        pictures.append(picture)
    return pictures


def outline(mask: Masks) -> Masks:
    """What of a mask (H, W) lies within LINE pixels of its edge."""
    inside = np.pad(mask, 1)
    for _ in range(LINE):
        core = inside[1:-1, 1:-1]
        inside = np.pad(core & inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:], 1)
    return mask & ~inside[1:-1, 1:-1]


def grown(picture: NDArray[Any]) -> NDArray[Any]:
    """A patch (H, W, …) with every voxel as a square, so large that lines are thin on it."""
    times = -(-DRAWN_SIDE // max(picture.shape[:2]))
    return picture.repeat(times, axis=0).repeat(times, axis=1)


def grey(em: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """em (H, W) as colours (H, W, 3) of few levels."""
    step = 256 // GREY_LEVELS
    return np.repeat((em // step * step)[..., None], 3, axis=-1)


def paint(picture: NDArray[np.uint8], em: NDArray[np.uint8], mask: Masks, shade: tuple[int, int, int]) -> None:
    """Lay a colour over the voxels of a mask (H, W); a third of the grey shows through."""
    under = grey(em)[mask] // 3
    picture[mask] = under + (np.array(shade) * 2 // 3).astype(np.uint8)


def rgb(name: str) -> tuple[int, int, int]:
    return int(name[1:3], 16), int(name[3:5], 16), int(name[5:7], 16)


def png(image: NDArray[np.uint8]) -> bytes:
    """image (H, W) grey or (H, W, 3) colours, uint8, as PNG; with a palette where there are at most 256 colours."""
    picture = PIL.Image.fromarray(image)
    if image.ndim == 3 and picture.getcolors(256) is not None:
        picture = picture.quantize(256, dither=PIL.Image.Dither.NONE)
    with io.BytesIO() as file:
        picture.save(file, "PNG", optimize=True)
        return file.getvalue()
