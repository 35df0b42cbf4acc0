"""The loss of every family: per-class Tversky with class weights, logit shifts and compensation held in buffers, and
beside it a share of cross-entropy and other terms.

Shapes: N batch, C classes, *S any number of space axes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from trainables.losses.terms import NUMBERS, TERMS, Maps, term_sums
from trainables.losses.tversky import (
    ClassSums,
    compensation,
    count_voxels,
    mean_over_annotated,
    over_batch,
    plane_sums,
    tversky_index,
    voxel_counts,
)
from trainables.losses.weighting import Counts, Factors, Rule

MakeRule = Callable[[str, Mapping[str, Any]], Rule]
SCALARS = ("fp_weight", "fn_weight", "compensation_gate", "compensation_exponent", "cross_entropy")


def without_autocast(device_type: str) -> AbstractContextManager[Any]:
    """Switches autocast off where it is on; does nothing where it is off already.

    A compiled graph with an autocast in it cannot be found in the on-disk cache (AOTAutograd bypasses it), and every
    process would trace it anew.
    """
    if torch.is_autocast_enabled(device_type):
        return torch.autocast(device_type=device_type, enabled=False)
    return nullcontext()


class WeightedTversky(nn.Module):
    """loss = mean over annotated classes of weight_c · compensation_c · (1 − Tversky_c(σ(z + shift_c))).

    With a share λ = cross_entropy > 0 it is (1 − λ) times that and λ times the mean binary cross-entropy of
    σ(z + shift_c) over all annotated voxels of all classes. That times `both`, and each term of `terms` with its weight
    added to it, is the loss.

    Every number is a buffer of the same name and shape for every family: one compiled graph serves them all, `reset`
    rewrites the buffers in place, and a state_dict is the whole state (name, parameters and counts included).
    Made by `trainables.losses.build`. Per batch: `forward`, `count` and `accumulate_`, `end_batch`.
    """

    weight: Tensor
    shift: Tensor
    inference_shift: Tensor
    fp_weight: Tensor
    fn_weight: Tensor
    compensation_gate: Tensor
    compensation_exponent: Tensor
    cross_entropy: Tensor
    both: Tensor
    term_weights: Tensor
    term_numbers: Tensor
    positive_count: Tensor
    known_count: Tensor
    average_positive: Tensor
    average_known: Tensor
    window_positive: Tensor
    window_known: Tensor
    num_batches: Tensor
    count_update_every: int = 50
    count_window: str = "50"

    def __init__(self, classes: Sequence[str], make_rule: MakeRule) -> None:
        super().__init__()
        self.classes, self._make_rule, num_classes = tuple(classes), make_rule, len(classes)
        for name in ("weight", "shift", "inference_shift"):
            self.register_buffer(name, torch.zeros(num_classes))
        for name in SCALARS:
            self.register_buffer(name, torch.zeros(()))
        for name, size in (("both", ()), ("term_weights", (len(TERMS),)), ("term_numbers", (len(NUMBERS),))):
            self.register_buffer(name, torch.zeros(size), persistent=False)  # they follow from name and parameters
        for name in (
            "positive_count",
            "known_count",
            "average_positive",
            "average_known",
            "window_positive",
            "window_known",
        ):
            self.register_buffer(name, torch.zeros(num_classes, dtype=torch.float64))
        self.register_buffer("num_batches", torch.zeros((), dtype=torch.int64))
        self._updates = list[tuple[int, Tensor]]()

    def forward(self, logits: Tensor, target: Tensor, maps: Maps | None = None) -> tuple[Tensor, Tensor]:
        """(loss, figures): loss 0-d float32; figures (C + T,) float32 detached, see `figure_names`.

        logits: (N, C, *S), any float dtype. target: (N, C, *S), 0, 1, NaN = not annotated. maps: only where a term
        needs them (`uses_maps`). A class not annotated in the batch leaves the mean and has a NaN (accumulate with
        nansum and a count of its own); a batch with no annotated voxel has loss 0 and zero gradient. Changes no state;
        compiles with fullgraph=True, dynamic=False.
        """
        return self._values(*self._summed(logits, target, maps)[1:])

    def with_counts(
        self, logits: Tensor, target: Tensor, maps: Maps | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(loss, figures, positive, known): `forward` and `count` in one reading of the target, for training."""
        sums, totals, extra = self._summed(logits, target, maps)
        return *self._values(totals, extra), *voxel_counts(sums)

    def totals(self, logits: Tensor, target: Tensor, maps: Maps | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """(sums, positive, known) of a batch: sums (S, C) float32, differentiable, is all that the loss depends on.

        Sums of several batches, or of the shares of several processes, add up to those of one large batch, of which
        `of_totals` makes the loss.
        """
        sums, totals, extra = self._summed(logits, target, maps)
        return torch.stack([*(x for x in totals if x is not None), *extra]), *voxel_counts(sums)

    def of_totals(self, sums: Tensor) -> tuple[Tensor, Tensor]:
        """(loss, figures) as `forward` has them, from sums (S, C)."""
        extra = sum(TERMS[name].num_sums for name in self._active)
        return self._values(ClassSums(*sums[: len(sums) - extra]), list(sums[len(sums) - extra :]))

    @property
    def figure_names(self) -> list[str]:
        """What the figures of a batch are called: per class 1 − Tversky before any weight, NaN where the class is not
        annotated in it, then each of the T terms that have a weight, before it."""
        return [*(f"loss/{name}" for name in self.classes), *(f"term/{name}" for name in self._active)]

    def training_figures(self, means: Sequence[float]) -> dict[str, float]:
        """What a row says of an epoch's training, from the means of the `figure_names` over its batches."""
        return dict(zip(self.figure_names, means))

    @property
    def uses_maps(self) -> bool:
        """Whether a term needs the maps of data.maps."""
        return any(TERMS[name].uses_maps for name in self._active)

    def check_maps(self, packed: bool) -> None:
        """See `Rule.check_maps`."""
        self._rule.check_maps(packed)

    def _summed(self, logits: Tensor, target: Tensor, maps: Maps | None) -> tuple[ClassSums, ClassSums, list[Tensor]]:
        """Sums (N, C), the same over the batch, (C,), and those (C,) of the summands of the active terms."""
        with without_autocast(logits.device.type):
            z = logits.float()
            sums = plane_sums(z, target, self.shift, cross_entropy=self._with_cross_entropy)
            if not self._active:
                return sums, over_batch(sums), []
            shifted = z + self.shift.view(1, -1, *(1,) * (z.dim() - 2))
            numbers = dict(zip(NUMBERS, self.term_numbers.unbind()))
            own = term_sums(shifted, target, self._active, numbers, iterations=self._iterations, maps=maps)
            return sums, over_batch(sums), own

    def _values(self, totals: ClassSums, extra: list[Tensor]) -> tuple[Tensor, Tensor]:
        """(loss, figures) from sums (C,) in float32; nothing here is of full size or touched by autocast."""
        losses = 1.0 - tversky_index(totals, self.fp_weight, self.fn_weight)
        factor = self.weight * compensation(totals, self.compensation_gate, self.compensation_exponent)
        loss = mean_over_annotated(factor * losses, totals.known)
        if totals.cross_entropy is not None:
            mean = totals.cross_entropy.sum() / totals.known.sum().clamp_min(1.0)
            loss = loss.lerp(mean, self.cross_entropy)
        figures = [torch.where(totals.known > 0, losses, torch.nan)]
        if self._scaled:
            loss = self.both * loss
        if self._active:
            own = iter(extra)
            for index, name in enumerate(TERMS):
                if name in self._active:
                    sums = [next(own) for _ in range(TERMS[name].num_sums)]
                    per_class = TERMS[name].value(totals, torch.stack(sums) if sums else totals.known[:0])
                    value = mean_over_annotated(per_class, totals.known)
                    loss = loss + self.term_weights[index] * value
                    figures.append(value[None])
        return loss, (torch.cat(figures) if self._active else figures[0]).detach()

    @staticmethod
    def count(target: Tensor) -> tuple[Tensor, Tensor]:
        """(positive, known) voxels of a batch, each (C,) float64. Pure, for use inside a compiled step."""
        return count_voxels(target)

    @torch.no_grad()
    def accumulate_(self, positive: Tensor, known: Tensor) -> None:
        """Add a batch's counts, each (C,), to the open window. No sync."""
        self.window_positive += positive
        self.window_known += known

    def end_batch(self, sum_over_workers: Callable[[Tensor], object] | None = None) -> None:
        """Close a batch; after every `count_update_every` of them recompute weight and shifts from the counts.

        sum_over_workers: sums a (2, C) float64 tensor in place over the workers of one trial (all_reduce), called once
        per update by all of them alike. The step counter lives on the host: no sync.
        """
        self._batches += 1
        self.num_batches += 1
        if self._batches % self.count_update_every == 0:
            self._close_window(sum_over_workers)
            if self._rule.online:
                self._set_factors(self._rule.factors(self._counts()))
            counts = self._counts()
            noted = (counts.positive / counts.known, self.shift + self.inference_shift, self.weight)
            self._updates.append((self._batches, torch.stack([values.double() for values in noted])))

    def take_updates(self) -> list[tuple[int, list[list[float]]]]:
        """(batch, 3 × C figures) of every update since the last call, read from the device in one go.

        The figures: positive share of the annotated voxels in the counts that the rule uses, NaN where none is
        annotated; what is added to the logits in the loss (apply_at=inference: at validation); weight.
        """
        taken, self._updates = self._updates, []
        values = torch.stack([noted for _, noted in taken]).tolist() if taken else []
        return [(batch, figures) for (batch, _), figures in zip(taken, values)]

    @torch.no_grad()
    def _close_window(self, sum_over_workers: Callable[[Tensor], object] | None) -> None:
        """Fold the open window into the running total and the moving average per batch, then empty it."""
        window = torch.stack([self.window_positive, self.window_known])
        if sum_over_workers is not None:
            sum_over_workers(window)
        self.positive_count += window[0]
        self.known_count += window[1]
        # A plain mean until `count_window` batches are seen, an exponential moving average afterwards.
        span = self._batches if self.count_window == "all" else min(self._batches, int(self.count_window))
        momentum = min(1.0, self.count_update_every / span)
        self.average_positive.lerp_(window[0] / self.count_update_every, momentum)
        self.average_known.lerp_(window[1] / self.count_update_every, momentum)
        self.window_positive.zero_()
        self.window_known.zero_()

    @torch.no_grad()
    def gather_window(self, sum_over_workers: Callable[[Tensor], object], rank: int) -> None:
        """Move the counts of the open window to rank 0, whose state is that of all workers."""
        window = torch.stack([self.window_positive, self.window_known])
        sum_over_workers(window)
        window *= rank == 0
        self.window_positive.copy_(window[0])
        self.window_known.copy_(window[1])

    def _counts(self) -> Counts:
        """The counts the rule uses: per window (as many batches as `count_window`), or the total since the start."""
        if self._rule.windowed and self.count_window != "all":
            batches = int(self.count_window)
            return Counts(self.average_positive * batches, self.average_known * batches)
        return Counts(self.positive_count, self.known_count)

    def _take(self, rule: Rule) -> None:
        """A compiled step has a graph for every set of terms that a loss has, and keeps them."""
        self._rule, self._with_cross_entropy = rule, rule.cross_entropy > 0
        taught = ("dice",) if rule.curriculum_from or rule.curriculum_ramp else ()
        self._active = tuple(name for name in TERMS if rule.terms.get(name, 0.0) > 0 or name in taught)
        self._scaled = bool(self._active) or rule.both != 1.0
        self.begin_epoch(0.0)
        numbers = {name: rule.numbers.get(name, usual) for name, usual in NUMBERS.items()}
        self.term_numbers.copy_(torch.tensor([*numbers.values()]))
        self._iterations = int(numbers["cldice_iterations"])

    @torch.no_grad()
    def begin_epoch(self, elapsed: float) -> None:
        """Weigh the terms as the curriculum has it after so many epochs; without one nothing changes."""
        rule, share = self._rule, 1.0
        if rule.curriculum_from or rule.curriculum_ramp:
            since = elapsed - rule.curriculum_from
            share = min(1.0, (since + 1.0) / (rule.curriculum_ramp + 1.0)) if since >= 0 else 0.0
        whole = rule.both + sum(rule.terms.values())
        at_first = {"dice": whole} if share < 1 else {}
        weights = [share * rule.terms.get(name, 0.0) + (1 - share) * at_first.get(name, 0.0) for name in TERMS]
        self.both.fill_(share * rule.both)
        self.term_weights.copy_(torch.tensor(weights))

    @torch.no_grad()
    def _set_factors(self, factors: Factors) -> None:
        for name, value in factors._asdict().items():
            getattr(self, name).copy_(value)

    @torch.no_grad()
    def reset(
        self,
        name: str,
        params: Mapping[str, Any],
        *,
        count_update_every: int | None = None,
        count_window: str | None = None,
    ) -> None:
        """Become a freshly built loss of this family, in place: same storage, so compiled graphs stay valid.

        count_update_every (batches), count_window (batches or `all`): None keeps the present ones.
        Raises SettingsError for an unknown family or parameter; then nothing has changed.
        """
        rule = self._make_rule(name, params)
        self.name, self.params = name, dict(params)
        self.count_update_every = count_update_every or self.count_update_every
        self.count_window = count_window or self.count_window
        for buffer in self.buffers():
            buffer.zero_()
        self._batches, self._updates = 0, []
        self._take(rule)
        for field in SCALARS:
            getattr(self, field).fill_(getattr(rule, field))
        self._set_factors(rule.factors(Counts(self.positive_count, self.known_count)))

    def get_extra_state(self) -> dict[str, Any]:
        """What no tensor holds; plain values, so `torch.load(weights_only=True)` reads it."""
        return {
            "name": self.name,
            "params": self.params,
            "count_update_every": self.count_update_every,
            "count_window": self.count_window,
        }

    def set_extra_state(self, state: Any) -> None:
        """Become the loss that was saved, whatever family this one was."""
        self._take(self._make_rule(state["name"], state["params"]))
        self.name, self.params = state["name"], dict(state["params"])
        self.count_update_every, self.count_window = state["count_update_every"], state["count_window"]

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As nn.Module's, in place; also restores the family, its parameters and the position in the window."""
        earlier = {"cross_entropy": torch.zeros(())}  # not in the states of earlier versions
        result = super().load_state_dict(earlier | dict(state_dict), strict=strict, assign=assign)
        self._batches, self._updates = int(self.num_batches), []
        return result
