"""The data and the bookkeeping of the input benchmark: the enlarged phantom, what is read, the peer's process."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import zarr

from benchmarks.enlarged import decoded_bytes, enlarge
from benchmarks.input_pipeline import boxes_of, one_core
from benchmarks.peers.cellmap_data import Peer, PeerError
from benchmarks.peers.cellmap_data_worker import CropSampler, stay_in_plane
from trainables.data import open_packed, packed, packing
from trainables.data.cellmap import reader as cellmap
from trainables.data.phantom import generate as phantom
from trainables.data.sources import open_source
from trainables.settings import DataSettings

TIMES, COPIES = 4, 3
PLAN = phantom.Plan(volumes=(replace(phantom.VOLUMES[0], shape=(40, 128, 128), sides=("validate", "train")),))


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A small phantom and its enlargement."""
    folder = tmp_path_factory.mktemp("enlarged")
    source = phantom.make(folder / "phantom", plan=PLAN)
    return source, enlarge(source, folder / "large", times=TIMES, copies=COPIES)


def settings_of(root: Path, cache: Path) -> DataSettings:
    return DataSettings(name="cellmap", root=str(root), cache_dir=str(cache), patch=[1, 32, 32])


def test_every_copy_of_a_crop_is_the_crop(roots, tmp_path):
    """EM in and round a copy, and its labels, are those of the original: it lies in the same place of another tile."""
    small, large = (open_packed(settings_of(root, tmp_path)) for root in roots)
    originals = {crop.name: crop for crop in small.crops}
    assert len(large.crops) == COPIES * len(originals)
    for crop in large.crops:
        original = originals[crop.name.rpartition("x")[0]]
        assert crop.side == original.side
        inner = tuple(slice(-o, n - o) for o, n in zip(crop.offset, crop.shape))
        expected = tuple(slice(-o, n - o) for o, n in zip(original.offset, original.shape))
        np.testing.assert_array_equal(crop.em[inner], original.em[expected])
        np.testing.assert_array_equal(crop.labels, original.labels)


def test_the_volume_is_tiled_in_the_slice_plane(roots):
    source, large = (root / f"phantom_a/phantom_a.zarr/{phantom.EM_PATH}/s0" for root in roots)
    volume, tiled = (zarr.open_array(path, mode="r")[:] for path in (source, large))
    np.testing.assert_array_equal(tiled, np.tile(volume, (1, TIMES, TIMES)))
    labels = decoded_bytes(roots[0]) - volume.nbytes
    assert decoded_bytes(roots[1]) == tiled.nbytes + COPIES * labels


def test_boxes_are_what_the_build_reads(roots, tmp_path, monkeypatch):
    settings = settings_of(roots[0], tmp_path)
    source = open_source(settings)
    sources = packed.usable_items(source)
    expected = [box for source in sources for box in boxes_of(settings, source)]
    read, real = [], cellmap.read_box
    monkeypatch.setattr(packing, "MAX_THREADS", 1)
    monkeypatch.setattr(cellmap, "read_box", lambda *box: read.append(box) or real(*box))
    packing.write_cache(source, sources, tmp_path)
    assert read == expected
    assert len({level.path for level, *_ in read}) > len(sources)


def test_one_core_is_given_back():
    before = os.sched_getaffinity(0)
    with one_core() as core:
        assert os.sched_getaffinity(0) == {core}
    assert os.sched_getaffinity(0) == before


def test_the_peers_crops_are_drawn_alike_whatever_their_size():
    drawn = np.array(list(islice(iter(CropSampler([1, 101, 111], seed=0)), 3000)))
    shares = [np.mean((a <= drawn) & (drawn < b)) for a, b in ((0, 1), (1, 101), (101, 111))]
    np.testing.assert_allclose(shares, 1 / 3, atol=0.03)
    assert len(np.unique(drawn)) == 111


def test_the_peers_transpose_stays_in_the_slice_plane():
    class Dataset:
        def __init__(self) -> None:
            self._rng = np.random.default_rng(0)

        def _generate_spatial_transforms(self) -> dict[str, object]:
            return {"transpose": [2, 1, 0], "mirror": {"y": True}}

    dataset = Dataset()
    stay_in_plane(dataset)
    drawn = [dataset._generate_spatial_transforms() for _ in range(20)]
    assert {tuple(d["transpose"]) for d in drawn} == {(0, 1, 2), (0, 2, 1)}
    assert all(d["mirror"] == {"y": True} for d in drawn)


def test_a_peer_that_cannot_start_says_why():
    with pytest.raises(PeerError, match=r"ended with 1:(.|\n)*Error"), Peer(Path(sys.executable), {}):
        pass
