"""A volume predicted block by block; each block is recorded when it is written, so that a killed run can go on.

Shapes: C classes, D H W voxels of the prediction's grid.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from trainables.tiling import blended, block_shape, span
from tune_app.exporting.trained_model import Model
from tune_app.exporting.volume import Volume, place


def block_of(model: Model, overlap: float) -> tuple[int, int, int]:
    """Voxels of a block."""
    return block_shape(model.window, overlap, len(model.classes))


def predict_blocks(
    model: Model,
    volume: Volume,
    arrays: Sequence[zarr.Array],
    record: Path,
    *,
    overlap: float,
    batch_size: int,
    console: Console,
) -> NDArray[np.int64]:
    """Predict the blocks that `record` does not name into `arrays`; TP, FP, FN per class against the truth, (3, C)."""
    blocks = list(_blocks(volume.grid.shape, block_of(model, overlap)))
    done = read_record(record)
    if done:
        say(console, f"going on after {len(done)} of {len(blocks)} blocks")
    remaining = TimeRemainingColumn(elapsed_when_finished=True)
    columns = (TextColumn("predicting"), BarColumn(), TaskProgressColumn(), remaining)
    try:
        with Progress(*columns, console=console) as bar, record.open("a") as log:
            task = bar.add_task("", total=len(blocks), completed=len(done))
            for number, (start, stop) in enumerate(blocks):
                if number in done:
                    continue
                advance = partial(bar.advance, task)
                masks, truth = predict_block(model, volume, start, stop, overlap, batch_size, advance)
                place = tuple(slice(a, b) for a, b in zip(start, stop))
                for array, mask in zip(arrays, masks):
                    array[place] = mask
                done[number] = _counts(masks, truth, model).tolist()
                log.write(json.dumps([number, done[number]]) + "\n")
                log.flush()
                bar.update(task, completed=len(done))
    except BaseException:
        say(console, f"stopped after {len(done)} of {len(blocks)} blocks; the same command goes on from there")
        raise
    return np.array(list(done.values()), np.int64).sum(axis=0)


def say(console: Console, text: str) -> None:
    """A line as it is: paths and lists are no markup, and nothing breaks them."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def read_record(record: Path) -> dict[int, Any]:
    """Counts (3, C) by number of the block; what a kill cut short is taken out of the file."""
    text = record.read_text() if record.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        record.write_text(whole)
    return dict(map(json.loads, whole.splitlines()))


def _blocks(shape: Sequence[int], block: Sequence[int]) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """First and one past the last voxel of each block."""
    for start in itertools.product(*(range(0, n, b) for n, b in zip(shape, block))):
        yield start, tuple(min(a + b, n) for a, b, n in zip(start, block, shape))


def _counts(masks: NDArray[np.uint8], truth: NDArray[np.uint8] | None, model: Model) -> NDArray[np.int64]:
    """TP, FP, FN (3, C) of masks (C, D, H, W) against packed labels, where the network's task counts at all."""
    counts = np.zeros((3, len(masks)), np.int64)
    if truth is None:
        return counts
    labels = torch.from_numpy(truth)[None]
    for number, one in enumerate(labels.split(1, dim=2)):  # as float32 a block would take five times its masks
        target = model.task.target(one, model.data.classes)[0, :, 0]  # (C, H, W)
        predicted, present = torch.from_numpy(masks[:, number]) > 0, target == 1
        tp = (predicted & present).sum(dim=(1, 2))
        fp = (predicted & (target == 0)).sum(dim=(1, 2))
        counts += torch.stack([tp, fp, present.sum(dim=(1, 2)) - tp]).numpy()
    return counts


def predict_block(
    model: Model,
    volume: Volume,
    start: Sequence[int],
    stop: Sequence[int],
    overlap: float,
    batch_size: int,
    advance: Callable[[float], object],
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Masks (C, D, H, W) of one block, 0 or 1, and its packed labels where there are any.

    As in validation, windows lie inside a crop that is larger than one; a smaller crop is seen in the middle of a
    window, with the EM round it. Where there is no EM, nothing is predicted. advance: is told each further share of it.
    """
    masks = np.zeros((len(model.classes), *(b - a for a, b in zip(start, stop))), np.uint8)
    axes = list(zip(start, stop, volume.grid.shape, model.window))
    spans = [_span(a, b, length, window, overlap) for a, b, length, window in axes]
    seen = volume.see(start, stop, spans, model.data)
    if seen is None:
        return masks, None
    image, done = torch.from_numpy(seen.image).to(model.cut.device), 0
    low, row, column = (first - a for (first, _), a in zip(spans, start))
    for logits in blended(model.network, image, model.window, overlap, batch_size):
        place((logits > model.cut).cpu().numpy(), [0, done + low, row, column], masks)
        done += logits.shape[1]
        advance(logits.shape[1] / image.shape[1])
    seen.erase(masks)
    return masks, seen.truth


def _span(start: int, stop: int, length: int, window: int, overlap: float) -> tuple[int, int]:
    """`span` of a block, in voxels of the crop; a crop smaller than a window lies in the middle of one."""
    if length < window:
        first = -((window - length) // 2)
        return first, first + window
    return span(start, stop, length, window, overlap)
