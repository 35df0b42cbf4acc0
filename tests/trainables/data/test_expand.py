"""Packed labels to targets, against a loop over bits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from trainables.data import expand_labels
from trainables.data.expand import class_masks, pack_class, packed_bytes


def brute_force(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Target of one voxel (P,) bit by bit."""
    number = sum(int(byte) << (8 * i) for i, byte in enumerate(labels))
    present = [(number >> c) & 1 for c in range(num_classes)]
    known = [(number >> (num_classes + c)) & 1 for c in range(num_classes)]
    return np.array([float(p) if k else math.nan for p, k in zip(present, known)])


@pytest.mark.parametrize("num_classes", [1, 4, 5, 8, 9, 14, 16])
def test_against_brute_force(num_classes):
    count = packed_bytes(num_classes)
    assert count == math.ceil(num_classes / 4)
    generator = torch.Generator().manual_seed(num_classes)
    labels = torch.randint(0, 256, (2, count, 1, 5, 6), dtype=torch.uint8, generator=generator)
    target = expand_labels(labels, num_classes)
    assert target.dtype == torch.float32
    assert target.shape == (2, num_classes, 1, 5, 6)
    for n, y, x in np.ndindex(2, 5, 6):
        expected = brute_force(labels[n, :, 0, y, x].numpy(), num_classes)
        np.testing.assert_array_equal(target[n, :, 0, y, x].numpy(), expected)


def test_pack_and_expand_are_inverse():
    rng = np.random.default_rng(0)
    present, known = rng.random((2, 5, 3, 4, 4)) < 0.5
    planes = np.zeros((packed_bytes(5), 3, 4, 4), np.uint8)
    for index in range(5):
        pack_class(planes, index, 5, present[index], known[index])
    for index in range(5):
        found = class_masks(planes, index, 5)
        np.testing.assert_array_equal(found[0], present[index] & known[index])
        np.testing.assert_array_equal(found[1], known[index])
    target = expand_labels(torch.from_numpy(planes)[None], 5)[0].numpy()
    np.testing.assert_array_equal(target, np.where(known, present, np.nan).astype(np.float32))


def test_zero_bytes_are_unknown():
    assert expand_labels(torch.zeros(1, 2, 1, 3, 3, dtype=torch.uint8), 5).isnan().all()


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("num_classes", [5, 14])
def test_compiles_into_one_kernel_that_reads_bytes_and_writes_targets(num_classes, caplog):
    """By Inductor's own account: no temporary between the packed bytes and the floats, and no second kernel."""
    from torch._functorch import config as autograd_config
    from torch._inductor import compile_fx, config, metrics

    caplog.set_level("INFO", logger=compile_fx.inductor_metrics_log.name)  # else it does not count bytes
    shape = (2, packed_bytes(num_classes), 1, 8, 8)
    labels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    torch._dynamo.reset()
    metrics.reset()
    with config.patch(fx_graph_cache=False), autograd_config.patch(enable_autograd_cache=False):
        compiled = torch.compile(expand_labels, fullgraph=True, dynamic=False)(labels, num_classes)
    assert metrics.num_bytes_accessed == labels.nbytes + compiled.nbytes
    assert metrics.generated_kernel_count == 1
    torch.testing.assert_close(compiled, expand_labels(labels, num_classes), rtol=0, atol=0, equal_nan=True)
