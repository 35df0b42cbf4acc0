"""Where the loss meets tensors of full size: values, gradients, layouts, and what is kept between the two."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch.nn.functional import binary_cross_entropy_with_logits

from trainables.losses import WeightedTversky, build
from trainables.losses.tversky import count_voxels, over_batch, plane_sums, voxel_counts

CLASSES = ("a", "b", "c")
SHAPES = [(2, 3, 6, 5), (3, 3, 4, 3, 5)]
FULL = (2, 3, 32, 32)
INDUCTOR = pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")


def make_batch(shape: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, target with NaN, shift."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(shape, generator=generator) * 3
    target = (torch.rand(shape, generator=generator) < 0.4).float()
    target[torch.rand(shape, generator=generator) < 0.3] = math.nan
    return logits, target, torch.tensor([0.3, -1.0, 0.0])


def plain_sums(logits: Tensor, target: Tensor, shift: Tensor) -> list[Tensor]:
    """The definition in float64, left to automatic differentiation: five (N, C)."""
    z = logits.double() + shift.double().view(1, -1, *(1,) * (logits.ndim - 2))
    known = ~target.isnan()
    m, t = known.double(), torch.where(known, target.double(), 0.0)
    entropy = m * binary_cross_entropy_with_logits(z, t, reduction="none")
    return [x.flatten(2).sum(dim=2) for x in (m * z.sigmoid(), t, t * z.sigmoid(), m, entropy)]


def seesaw() -> WeightedTversky:
    loss = build("seesaw", {"p": 0.8, "q": 2.0}, CLASSES, count_update_every=1)
    loss.accumulate_(*loss.count(make_batch(FULL, seed=5)[1]))
    loss.end_batch()
    return loss


@pytest.mark.parametrize("cross_entropy", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_sums_and_gradient_equal_the_definition(shape: tuple[int, ...], cross_entropy: bool) -> None:
    logits, target, shift = make_batch(shape)
    ours, plain = logits.clone().requires_grad_(), logits.double().requires_grad_()
    sums = plane_sums(ours, target, shift, cross_entropy=cross_entropy)
    got, wanted = [x for x in sums if x is not None], plain_sums(plain, target, shift)[: 5 if cross_entropy else 4]
    for mine, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-5, atol=1e-5)
    factors = torch.randn(3, *shape[:2], generator=torch.Generator().manual_seed(1))
    for ones in (got, wanted):
        sum((f * x).sum() for f, x in zip(factors, ones[0::2])).backward()
    torch.testing.assert_close(ours.grad.double(), plain.grad, rtol=1e-5, atol=1e-7)
    assert not sums.positive.requires_grad
    assert not sums.known.requires_grad


@pytest.mark.parametrize("transposed", ["logits", "target", "both"])
def test_the_layout_in_memory_changes_nothing(transposed: str) -> None:
    logits, target, shift = make_batch((2, 3, 6, 5))
    results = []
    for chosen in ("none", transposed):
        z = logits.contiguous(memory_format=layout(chosen in ("logits", "both"))).requires_grad_()
        t = target.contiguous(memory_format=layout(chosen in ("target", "both")))
        sums = over_batch(plane_sums(z, t, shift))
        (gradient,) = torch.autograd.grad((sums.predicted * sums.overlap).sum(), z)
        results.append((*sums, gradient.contiguous()))
        logits = logits.detach().clone()
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def layout(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format


@pytest.mark.parametrize("shape", SHAPES)
def test_counts_beside_the_loss_are_the_counts(shape: tuple[int, ...]) -> None:
    logits, target, shift = make_batch(shape)
    loss = seesaw()
    value, per_class, positive, known = loss.with_counts(logits, target)
    torch.testing.assert_close((value, per_class), loss(logits, target), rtol=1e-6, atol=1e-7)
    for counts in (loss.count(target), count_voxels(target), voxel_counts(plane_sums(logits, target, shift))):
        assert torch.equal(positive, counts[0])
        assert torch.equal(known, counts[1])
    assert positive.tolist() == [float((target[:, c] == 1).sum()) for c in range(3)]
    assert positive.dtype == known.dtype == torch.float64


def test_counts_are_exact_where_float32_sums_over_the_batch_are_not() -> None:
    """17 samples of 2**20 + 1 voxels: 17 · (2**20 + 1) needs 25 bits."""
    target = torch.ones(17, 1, 2**20 + 1)
    _, _, positive, known = build("static", {"weights": [1.0]}, ["a"]).with_counts(torch.zeros_like(target), target)
    assert positive.item() == known.item() == 17 * (2**20 + 1)


def test_nothing_of_full_size_is_kept_but_logits_and_target() -> None:
    logits, target, _ = make_batch(FULL)
    logits.requires_grad_()
    kept: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        kept.append(x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        seesaw().with_counts(logits, target)
    large = {x.data_ptr() for x in kept if x.numel() >= logits.numel()}
    assert large == {logits.data_ptr(), target.data_ptr()}


def graphs_of(step: Callable[..., tuple[Tensor, ...]], *inputs: Tensor) -> list[torch.fx.GraphModule]:
    """Forward and backward graph that the compiler is handed, after it was decided what to keep."""
    torch._dynamo.reset()
    graphs: list[torch.fx.GraphModule] = []

    def spy(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., object]:
        graphs.append(graph)
        return make_boxed_func(graph.forward)

    backend = aot_autograd(fw_compiler=spy, partition_fn=min_cut_rematerialization_partition)
    torch.compile(step, backend=backend, fullgraph=True, dynamic=False)(*inputs)[0].backward()
    return graphs


def test_the_compiled_loss_reads_once_per_direction_and_keeps_nothing() -> None:
    logits, target, _ = make_batch(FULL)
    forward, backward = graphs_of(seesaw().with_counts, logits.requires_grad_(), target)
    output = next(iter(forward.graph.find_nodes(op="output")))
    kept = [node for node in output.args[0] if node.meta["val"].numel() >= logits.numel()]
    assert all(lies_in_an_input(node) for node in kept)
    assert len(sums_of_full_size(forward, logits.numel())) == 4  # Σmp, Σmt, Σmpt, Σm, and no second count
    assert sums_of_full_size(backward, logits.numel()) == []


def lies_in_an_input(node: torch.fx.Node) -> bool:
    """Whether the node is an input of the graph or another shape of one."""
    while node.op != "placeholder" and "view" in str(node.target):
        node = node.args[0]
    return node.op == "placeholder"


def sums_of_full_size(graph: torch.fx.GraphModule, numel: int) -> list[torch.fx.Node]:
    sums = graph.graph.find_nodes(op="call_function", target=torch.ops.aten.sum.dim_IntList)
    return [node for node in sums if node.args[0].meta["val"].numel() >= numel]


@pytest.mark.slow
@INDUCTOR
@pytest.mark.parametrize("channels_last", [False, True])
def test_inductor_gives_the_same_loss_and_gradient(channels_last: bool) -> None:
    logits, target, _ = make_batch(FULL)
    loss = seesaw()
    torch._dynamo.reset()
    results = []
    for step in (loss.with_counts, torch.compile(loss.with_counts, fullgraph=True, dynamic=False)):
        z = logits.clone().contiguous(memory_format=layout(channels_last)).requires_grad_()
        outputs = step(z, target)
        outputs[0].backward()
        results.append((*outputs, z.grad))
    for eager, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, eager)


@pytest.mark.slow
@INDUCTOR
def test_inductor_moves_five_passes_of_bytes(caplog: pytest.LogCaptureFixture) -> None:
    """By Inductor's own account of what its kernels read and write: logits and target twice, the gradient once."""
    from torch._functorch import config as autograd_config
    from torch._inductor import compile_fx, config, metrics

    caplog.set_level("INFO", logger=compile_fx.inductor_metrics_log.name)  # else it does not count
    logits, target, _ = make_batch((4, 3, 64, 64))
    torch._dynamo.reset()
    metrics.reset()
    step = torch.compile(seesaw().with_counts, fullgraph=True, dynamic=False)
    with config.patch(fx_graph_cache=False), autograd_config.patch(enable_autograd_cache=False):
        step(logits.requires_grad_(), target)[0].backward()  # what comes from a cache is not counted
    assert 5 * logits.nbytes <= metrics.num_bytes_accessed <= 5.1 * logits.nbytes
