"""The roofline of a training step, by hand on small layers and by the published cost of the whole network."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks.roofline import Work, layer_work, network_work, roofline_seconds, training_work
from trainables.models.unet import UNet


def meta(*shape: int) -> torch.Tensor:
    return torch.empty(shape, device="meta")


def test_one_patch_of_the_published_network_costs_289_gflop():
    network = UNet(spatial_dims=2, in_channels=1, num_classes=5, width=64, depth=4)
    work = network_work(network, (1, 1, 256, 256), 2)
    assert sum(w.flops for w in work) / 1e9 == pytest.approx(289, abs=0.5)
    twice = network_work(network, (2, 1, 256, 256), 2)
    assert sum(w.flops for w in twice) == 2 * sum(w.flops for w in work)
    assert sum(w.bytes for w in work) < sum(w.bytes for w in twice) < 2 * sum(w.bytes for w in work)  # weights


def test_a_convolution_by_hand():
    layer = nn.Conv2d(3, 4, 3, padding=1, bias=False)
    work = layer_work("c", layer, meta(2, 3, 8, 8), meta(2, 4, 8, 8), 2, first=False)
    operands = 2 * (2 * 3 * 64 + 2 * 4 * 64 + 4 * 3 * 9)
    assert work == [
        Work(f"c {which}", 2 * 2 * 64 * 4 * 3 * 9, operands)
        for which in ("forward", "weight gradient", "input gradient")
    ]
    assert len(layer_work("c", layer, meta(2, 3, 8, 8), meta(2, 4, 8, 8), 2, first=True)) == 2


def test_a_transposed_convolution_by_hand():
    layer = nn.ConvTranspose2d(6, 3, 2, stride=2)
    (forward, *_) = layer_work("u", layer, meta(1, 6, 4, 4), meta(1, 3, 8, 8), 4, first=False)
    assert forward.flops == 2 * 16 * 6 * 3 * 4
    assert forward.bytes == 4 * (6 * 16 + 3 * 64 + 6 * 3 * 4)


def test_batch_norm_reads_twice_and_pooling_once():
    x, y = meta(2, 4, 8, 8), meta(2, 4, 4, 4)
    assert [w.bytes for w in layer_work("b", nn.BatchNorm2d(4), x, x, 2, first=False)] == [3 * 1024, 5 * 1024]
    assert [w.bytes for w in layer_work("p", nn.MaxPool2d(2), x, y, 2, first=False)] == [1280, 1280]
    assert layer_work("r", nn.ReLU(), x, x, 2, first=False) == []


def test_loss_and_optimiser_are_in_the_step():
    network = nn.Sequential(nn.Conv2d(1, 5, 1, bias=False))
    *_, loss, adamw = training_work(network, (3, 1, 8, 8), num_classes=5, value_bytes=2)
    assert (loss.name, loss.bytes) == ("loss", 5 * 4 * 3 * 5 * 64)
    assert (adamw.name, adamw.bytes) == ("AdamW", 8 * 4 * 5)


def test_the_slower_of_arithmetic_and_traffic_counts_for_each_layer():
    work = [Work("a", flops=100, bytes=1), Work("b", flops=1, bytes=100)]
    assert roofline_seconds(work, flops_per_s=10, bytes_per_s=20) == 10 + 5


def test_a_layer_without_a_rule_is_named():
    with pytest.raises(ValueError, match=r"1: there is no rule .* GELU"):
        network_work(nn.Sequential(nn.Conv2d(1, 2, 1), nn.GELU()), (1, 1, 4, 4), 2)


def test_the_model_itself_is_left_alone():
    network = nn.Sequential(nn.Conv2d(1, 2, 1))
    network_work(network, (1, 1, 4, 4), 2)
    assert network[0].weight.device.type == "cpu"
    assert not network[0]._forward_hooks
