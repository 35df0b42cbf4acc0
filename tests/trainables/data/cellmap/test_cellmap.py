"""Reading the CellMap layout: positions, resampling, encodings, what is unknown, and what is broken."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from volume_writer import INSTANCE, container, write_em, write_label, write_multiscale, write_small

from trainables.data.cellmap.ngff import choose_level, read_levels
from trainables.data.cellmap.reader import crop_grid, discover_crops, mask_missing_em, read_em, read_labels, to_uint8
from trainables.data.cellmap.resample import average, nearest_taps, pick, smooth_taps
from trainables.data.expand import class_masks
from trainables.errors import DataError

VOXEL = (8.0, 8.0, 8.0)


def read_nuc(root: Path, voxel=VOXEL, resampling="nearest", classes=("nuc",)):
    source = discover_crops(root)[0]
    grid = crop_grid(source, classes, voxel)
    return class_masks(read_labels(source, classes, grid, resampling), 0, len(classes))


def em_of(root: Path, voxel=VOXEL, margin=(0, 0, 0)):
    source = discover_crops(root)[0]
    grid = crop_grid(source, ("nuc",), voxel)
    return read_em(source, grid, margin)


def test_translation_is_the_voxel_centre(tmp_path):
    """A crop that begins at voxel 5 of 4 nm EM (corner 20 nm, centre 22 nm) shows exactly voxels 5…8."""
    em = np.broadcast_to(np.arange(16) + 1, (16, 16, 16)).astype(np.uint8)
    write_em(tmp_path, "a", em, (4, 4, 4))
    write_label(tmp_path, "a", "crop1", "nuc", np.ones((4, 4, 4), np.uint8), (4, 4, 4), (20, 20, 20))
    values, box, _, _ = em_of(tmp_path, (4, 4, 4))
    assert box == ((0, 0, 0), (4, 4, 4))
    np.testing.assert_array_equal(values[0, 0], [6, 7, 8, 9])


def test_levels_written_as_centres_share_one_corner(tmp_path):
    """Translations of s0 and s1 differ by half the difference of the scales; read as corners they would not meet."""
    fine = np.zeros((8, 8, 8), np.uint8)
    write_multiscale(tmp_path / "g", [fine, fine[::2, ::2, ::2]], [(4, 4, 4), (8, 8, 8)], (20, 20, 20))
    s0, s1 = read_levels(tmp_path / "g")
    assert np.array(s1.translation) - np.array(s0.translation) == pytest.approx([2, 2, 2])
    np.testing.assert_allclose(s0.corner, s1.corner)


def test_em_is_averaged_over_the_target_voxel(tmp_path):
    rng = np.random.default_rng(0)
    fine = rng.integers(1, 255, (8, 8, 8), dtype=np.uint8)
    write_em(tmp_path, "a", fine, (4, 4, 4))
    write_label(tmp_path, "a", "crop1", "nuc", np.ones((8, 8, 8), np.uint8), (4, 4, 4))
    blocks = fine.reshape(4, 2, 4, 2, 4, 2).mean(axis=(1, 3, 5), dtype=np.float64)
    np.testing.assert_allclose(em_of(tmp_path)[0], blocks, atol=0.51)


def test_anisotropic_volume_is_interpolated_in_z_and_averaged_in_plane(tmp_path):
    """z at 16 nm is read linearly between slice centres, y and x at 4 nm are averaged."""
    em = np.repeat(np.array([10, 50, 90, 130], np.uint8), 64).reshape(4, 8, 8)
    write_em(tmp_path, "a", em, (16, 4, 4))
    write_label(tmp_path, "a", "crop1", "nuc", (em > 70).astype(np.uint8), (16, 4, 4))
    values = em_of(tmp_path)[0]
    assert values.shape == (8, 4, 4)
    np.testing.assert_array_equal(values[:, 0, 0], [10, 20, 40, 60, 80, 100, 120, 130])
    np.testing.assert_array_equal(read_nuc(tmp_path)[0][:, 1, 1], [0, 0, 0, 0, 1, 1, 1, 1])


def test_coarsest_level_that_is_not_coarser(tmp_path):
    scales = [(2.62, 2, 2), (5.24, 4, 4), (10.48, 8, 8)]
    write_multiscale(tmp_path / "a", [np.ones((8, 8, 8), np.uint8)] * 3, scales)
    levels = read_levels(tmp_path / "a")
    assert choose_level(levels, VOXEL).path.name == "s1"
    assert choose_level(levels, (16, 16, 16)).path.name == "s2"
    assert choose_level(levels, (1, 1, 1)).path.name == "s0"
    write_multiscale(tmp_path / "b", [np.ones((8, 8, 8), np.uint8)] * 2, [(20, 4, 4), (20, 8, 8)])
    assert choose_level(read_levels(tmp_path / "b"), VOXEL).path.name == "s1"


def test_taps_against_the_integral():
    """Area taps equal the overlap of intervals, computed one by one in float64."""
    centres = 3.0 + (np.arange(7) + 0.5) * 8
    taps = smooth_taps(centres, 8.0, 0.7, 2.62, 40)
    for k, centre in enumerate(centres):
        edges = 0.7 + 2.62 * np.arange(41)
        overlap = np.clip(np.minimum(edges[1:], centre + 4) - np.maximum(edges[:-1], centre - 4), 0, None)
        dense = np.zeros(40)
        np.add.at(dense, taps.index[k], taps.weight[k])
        np.testing.assert_allclose(dense, overlap / overlap.sum(), atol=1e-6)


@pytest.mark.parametrize(("voxel", "scale", "corner"), [(8, 4, 0), (8, 2, 0), (4, 4, 2), (6, 4, -1), (8, 4 / 3, 0)])
def test_nearest_voxels_are_the_nearest_and_ties_do_not_shift_them(voxel, scale, corner):
    """Ties at every target voxel, with a half-voxel offset, at every second target voxel only, and by thirds."""
    centres = (np.arange(40) + 0.5) * voxel
    off = (nearest_taps(centres, corner, scale, 400).index[:, 0] + 0.5) * scale + corner - centres
    assert np.abs(off).max() <= scale / 2 + 1e-4
    tied = off[np.isclose(np.abs(off), scale / 2)]
    assert len(tied) in (20, 40)
    assert tied.mean() == pytest.approx(0, abs=1e-9)


def test_classes_whose_arrays_begin_elsewhere_break_ties_alike(tmp_path):
    write_em(tmp_path, "a", np.ones((4, 4, 16), np.uint8), (4, 4, 4))
    values = np.random.default_rng(0).integers(0, 2, (4, 4, 16), dtype=np.uint8)
    write_label(tmp_path, "a", "crop1", "nuc", values, (4, 4, 4))
    write_label(tmp_path, "a", "crop1", "pm", values[..., 2:], (4, 4, 4), (0, 0, 8))
    source = discover_crops(tmp_path)[0]
    labels = read_labels(source, ("nuc", "pm"), crop_grid(source, ("nuc", "pm"), VOXEL), "nearest")
    nuc, pm = (class_masks(labels, index, 2)[0] for index in range(2))
    np.testing.assert_array_equal(pm[..., 1:], nuc[..., 1:])
    np.testing.assert_array_equal(nuc, values[np.ix_([1, 2], [1, 2], [1, 2, 5, 6, 9, 10, 13, 14])])


@pytest.mark.parametrize("slab", [1, 60, 1 << 17])
def test_average_against_a_dense_float64_product(slab, monkeypatch):
    """Even and uneven steps, several taps per axis and one, whatever is averaged at once."""
    monkeypatch.setattr("trainables.data.cellmap.resample.SLAB_VOXELS", slab)
    source = np.random.default_rng(0).integers(0, 256, (15, 12, 11), dtype=np.uint8)
    sizes = ((8.0, 5.24), (8.0, 4.0), (3.0, 3.0))
    taps = [smooth_taps((np.arange(int(n * s / v)) + 0.5) * v, v, 0.0, s, n) for n, (v, s) in zip(source.shape, sizes)]
    dense = source.astype(np.float64)
    for axis, t in enumerate(taps):
        matrix = np.zeros((len(t.index), source.shape[axis]))
        np.add.at(matrix, (np.arange(len(t.index))[:, None], t.index), t.weight)
        dense = np.moveaxis(np.tensordot(matrix, dense, (1, axis)), 0, axis)
    np.testing.assert_allclose(average(source, tuple(taps), (0, 0, 0)), dense, rtol=1e-5)


def test_picking_evenly_spaced_voxels_copies_nothing():
    source = np.arange(6 * 9 * 12, dtype=np.uint16).reshape(6, 9, 12)
    even = [nearest_taps((np.arange(n // 3) + 0.5) * 12, 0.0, 4.0, n) for n in source.shape]
    picked = pick(source, tuple(even), (0, 0, 0))
    assert np.shares_memory(picked, source)
    np.testing.assert_array_equal(picked, source[1::3, 1::3, 1::3])
    repeated = nearest_taps((np.arange(12) + 0.5) * 2, 0.0, 4.0, 6)
    np.testing.assert_array_equal(pick(source, (repeated, *even[1:]), (0, 0, 0))[4], source[2, 1::3, 1::3])


@pytest.mark.parametrize("resampling", ["nearest", "majority"])
def test_reading_in_parts_changes_nothing(tmp_path, monkeypatch, resampling):
    rng = np.random.default_rng(0)
    write_em(tmp_path, "a", rng.integers(1, 255, (24, 8, 8), dtype=np.uint8), (3, 4, 4))
    write_label(tmp_path, "a", "crop1", "nuc", rng.integers(0, 2, (24, 8, 8), dtype=np.uint8), (3, 4, 4))
    whole = em_of(tmp_path)[0], *read_nuc(tmp_path, resampling=resampling)
    monkeypatch.setattr("trainables.data.cellmap.reader.PART_BYTES", 300)
    monkeypatch.setattr("trainables.data.cellmap.resample.SLAB_VOXELS", 100)
    parts = em_of(tmp_path)[0], *read_nuc(tmp_path, resampling=resampling)
    assert whole[0].shape == (9, 4, 4)
    for a, b in zip(whole, parts):
        np.testing.assert_array_equal(a, b)


def test_label_majority_and_nearest(tmp_path):
    """In the first 8 nm voxel 5 of 8 source voxels are present; in the second 3 of 8, its nearest one included."""
    fine = np.zeros((2, 2, 4), np.uint8)
    fine[:, :, 0] = 1
    fine[0, 0, 1] = 1
    fine[1, :, 2] = 1
    fine[1, 1, 3] = 1
    write_em(tmp_path, "a", np.ones((2, 2, 4), np.uint8), (4, 4, 4))
    write_label(tmp_path, "a", "crop1", "nuc", fine, (4, 4, 4))
    assert read_nuc(tmp_path, resampling="majority")[0].ravel().tolist() == [True, False]
    assert read_nuc(tmp_path, resampling="nearest")[0].ravel().tolist() == [False, True]


def test_255_is_unknown_and_not_present(tmp_path):
    values = np.array([0, 1, 255, 1], np.uint8).reshape(1, 1, 4)
    write_em(tmp_path, "a", np.ones((1, 1, 4), np.uint8))
    write_label(tmp_path, "a", "crop1", "nuc", values)
    present, known = read_nuc(tmp_path)
    assert present.ravel().tolist() == [False, True, False, True]
    assert known.ravel().tolist() == [True, True, False, True]


@pytest.mark.parametrize(
    ("encoding", "complement", "known_255", "known_top"),
    [
        ({"absent": 0, "unknown": 65535}, None, True, False),
        (INSTANCE, None, False, True),
        (INSTANCE, {"absent": 1, "unknown": 0}, True, True),
        ({"absent": 0}, None, True, True),
    ],
)
def test_wide_instance_ids(tmp_path, encoding, complement, known_255, known_top):
    """In uint16 the encoding decides about 255; ids above it are present whatever their low byte."""
    values = np.array([0, 1, 255, 256, 300, 65535], np.uint16).reshape(1, 1, 6)
    write_em(tmp_path, "a", np.ones((1, 1, 6), np.uint8))
    write_label(tmp_path, "a", "crop1", "nuc", values, encoding=encoding, complement=complement)
    present, known = read_nuc(tmp_path)
    assert known.ravel().tolist() == [True, True, known_255, True, True, known_top]
    assert present.ravel().tolist() == [False, True, known_255, True, True, known_top]


def test_uint8_instances_are_present(tmp_path):
    write_em(tmp_path, "a", np.ones((1, 1, 4), np.uint8))
    write_label(tmp_path, "a", "crop1", "nuc", np.array([0, 7, 254, 255], np.uint8).reshape(1, 1, 4), encoding=INSTANCE)
    present, known = read_nuc(tmp_path)
    assert present.ravel().tolist() == [False, True, True, False]
    assert known.ravel().tolist() == [True, True, True, False]


def test_unannotated_class_and_part_outside_its_array_are_unknown(tmp_path):
    write_em(tmp_path, "a", np.ones((2, 4, 8), np.uint8))
    write_label(tmp_path, "a", "crop1", "nuc", np.ones((2, 4, 8), np.uint8))
    write_label(tmp_path, "a", "crop1", "pm", np.ones((2, 4, 4), np.uint8), origin=(0, 0, 32))
    source = discover_crops(tmp_path)[0]
    classes = ("nuc", "pm", "golgi_mem")
    labels = read_labels(source, classes, crop_grid(source, classes, VOXEL), "nearest")
    known = [class_masks(labels, index, 3)[1] for index in range(3)]
    assert known[0].all()
    assert not known[2].any()
    np.testing.assert_array_equal(known[1][0, 0], [0, 0, 0, 0, 1, 1, 1, 1])


def test_missing_label_chunk_is_absent(tmp_path):
    write_em(tmp_path, "a", np.ones((8, 8, 16), np.uint8))
    write_label(tmp_path, "a", "crop1", "nuc", np.ones((8, 8, 16), np.uint8))
    (container(tmp_path, "a") / "labels/groundtruth/crop1/nuc/s0/0/0/1").unlink()
    present, known = read_nuc(tmp_path)
    assert known.all()
    np.testing.assert_array_equal(present[0, 0], [1] * 8 + [0] * 8)


def test_missing_em_chunk_masks_every_voxel_that_draws_on_it(tmp_path):
    """At 6 nm from 4 nm EM, target voxel 5 (30…36 nm) straddles the chunk border at 32 nm: unknown as well."""
    write_em(tmp_path, "a", np.full((16, 16, 16), 9, np.uint8), (4, 4, 4))
    write_label(tmp_path, "a", "crop1", "nuc", np.ones((16, 16, 16), np.uint8), (4, 4, 4))
    (container(tmp_path, "a") / "em/fibsem-uint8/s0/1/0/1").unlink()
    source = discover_crops(tmp_path)[0]
    grid = crop_grid(source, ("nuc",), (6, 6, 6))
    _, box, level, taps = read_em(source, grid, (2, 2, 2))
    labels = read_labels(source, ("nuc",), grid, "nearest")
    before = labels.copy()
    share = mask_missing_em(labels, box, level, taps)
    expected = np.zeros(grid.shape, bool)
    expected[5:, :6, 5:] = True
    np.testing.assert_array_equal(~class_masks(labels, 0, 1)[1], expected)
    np.testing.assert_array_equal(labels[0][~expected], before[0][~expected])
    assert share == pytest.approx(expected.mean())


def test_crop_that_leaves_the_volume_keeps_its_inside(tmp_path):
    write_em(tmp_path, "a", np.full((4, 4, 4), 9, np.uint8))
    write_label(tmp_path, "a", "crop1", "nuc", np.ones((4, 4, 4), np.uint8), origin=(0, 0, 16))
    source = discover_crops(tmp_path)[0]
    grid = crop_grid(source, ("nuc",), VOXEL)
    em, box, level, taps = read_em(source, grid, (0, 0, 2))
    assert box == ((0, 0, -2), (4, 4, 2))
    assert em.shape == (4, 4, 4)
    labels = read_labels(source, ("nuc",), grid, "nearest")
    mask_missing_em(labels, box, level, taps)
    np.testing.assert_array_equal(class_masks(labels, 0, 1)[1][0, 0], [1, 1, 0, 0])


def test_crop_outside_the_volume_is_an_error(tmp_path):
    write_em(tmp_path, "a", np.ones((4, 4, 4), np.uint8))
    write_label(tmp_path, "a", "crop1", "nuc", np.ones((4, 4, 4), np.uint8), origin=(0, 0, 800))
    with pytest.raises(DataError, match="outside the EM volume"):
        em_of(tmp_path)


def test_crop_thinner_than_a_target_voxel_keeps_one_slice(tmp_path):
    write_em(tmp_path, "a", np.ones((8, 8, 8), np.uint8), (2, 8, 8))
    write_label(tmp_path, "a", "crop1", "nuc", np.ones((1, 8, 8), np.uint8), (2, 8, 8), (4, 0, 0))
    present, known = read_nuc(tmp_path)
    assert present.shape == (1, 8, 8)
    assert present.all()
    assert known.all()


def test_em_context_beyond_the_crop_is_real(small_root):
    values, box, _, _ = em_of(small_root, margin=(0, 3, 5))
    assert box == ((0, -3, -5), (6, 27, 29))
    np.testing.assert_array_equal(values[0, 0], np.arange(3, 37) + 1)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([0, 65535], np.uint16), [0, 255]),
        (np.array([-32768, 32767], np.int16), [0, 255]),
        (np.array([np.nan, -1.0, 0.5, 7.0], np.float32), [0, 0, 128, 255]),
    ],
)
def test_em_is_scaled_by_its_dtype(values, expected):
    assert to_uint8(values).tolist() == expected


def break_zattrs(group: Path) -> str:
    (group / "nuc/.zattrs").write_text("{ not json")
    return "nuc/.zattrs cannot be read as JSON"


def drop_scale(group: Path) -> str:
    content = json.loads((group / "nuc/.zattrs").read_text())
    content["multiscales"][0]["datasets"][0]["coordinateTransformations"] = []
    (group / "nuc/.zattrs").write_text(json.dumps(content))
    return "nuc/.zattrs: no valid OME-NGFF 0.4"


def swap_axes(group: Path) -> str:
    content = json.loads((group / "nuc/.zattrs").read_text())
    content["multiscales"][0]["axes"].reverse()
    (group / "nuc/.zattrs").write_text(json.dumps(content))
    return "z, y, x are needed"


def break_encoding(group: Path) -> str:
    content = json.loads((group / "nuc/.zattrs").read_text())
    content["cellmap"]["annotation"]["annotation_type"]["encoding"] = {"absent": "no"}
    (group / "nuc/.zattrs").write_text(json.dumps(content))
    return "encoding must map"


def drop_array(group: Path) -> str:
    (group / "nuc/s0/.zarray").unlink()
    return "nuc/s0/.zarray is missing"


def cut_chunk(group: Path) -> str:
    path = group / "nuc/s0/0/1/2"
    path.write_bytes(path.read_bytes()[:20])
    return "nuc/s0/0/1/2 cannot be decoded"


@pytest.mark.parametrize("damage", [break_zattrs, drop_scale, swap_axes, break_encoding, drop_array, cut_chunk])
def test_damage_is_named_with_its_file_and_a_fix(small_root, damage):
    message = damage(container(small_root, "cells") / "labels/groundtruth/crop1")
    with pytest.raises(DataError, match=message):
        read_nuc(small_root)


def test_no_crop_under_the_root(tmp_path):
    with pytest.raises(DataError, match="no crop found"):
        discover_crops(tmp_path)


def test_discovery_lists_every_crop_and_leaves_the_combined_group_out(tmp_path):
    write_small(tmp_path, crops=2)
    write_label(tmp_path, "cells", "crop1", "all", np.ones((2, 2, 2), np.uint8))
    found = discover_crops(tmp_path)
    assert [(c.name, c.classes) for c in found] == [("cells/crop1", ("nuc", "pm")), ("cells/crop2", ("nuc", "pm"))]
