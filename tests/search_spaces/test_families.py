"""Contract of every family, found by discovery, and the published presets."""

from __future__ import annotations

import itertools
import json
import math
from functools import partial
from pathlib import Path

import pytest
import torch

import search_spaces
from search_spaces import (
    PUBLISHED,
    Choice,
    ClassCounts,
    Simplex,
    all_families_space,
    all_presets,
    effective_signature,
    families,
    get_family,
    get_preset,
    loss_of,
    parameters_of,
    preset_loss,
    space_of,
    together_in_all,
    trial_of,
    trial_signature,
    tune_space,
    untuned,
)
from trainables.losses import SettingsError, build
from trainables.losses.terms import Maps

COUNTS = ClassCounts.published()
FAMILIES = families()
OTHER = ClassCounts(("mito", "er", "vesicle"), (5000, 0, 20), (90000, 0, 800))


def loss_is_finite(config: dict, counts: ClassCounts) -> None:
    """Builds, sees a batch, updates its counts, and has a finite non-zero loss and gradient before and after."""
    assert json.loads(json.dumps(config)) == config
    loss = build(config["name"], config["params"], counts.classes, count_update_every=1)
    generator = torch.Generator().manual_seed(0)
    target = (torch.rand(2, len(counts.classes), 8, 8, generator=generator) < 0.2).float()
    target[:, 0, :2] = math.nan
    skeleton = torch.where(torch.rand(target.shape, generator=generator) < 0.5, target.nan_to_num(), 0.0)
    maps = [Maps(3.0 * torch.randn(target.shape, generator=generator), skeleton)] if loss.uses_maps else []
    for _ in range(2):
        logits = torch.randn(target.shape, generator=generator, requires_grad=True)
        value, _ = loss(logits, target, *maps)
        value.backward()
        assert torch.isfinite(value)
        assert value > 0 or "boundary" in config["params"], "that one is of signed distances"
        assert torch.isfinite(logits.grad).all()
        assert torch.count_nonzero(logits.grad) > 0
        loss.accumulate_(*loss.count(target))
        loss.end_batch()


def corners(space: dict) -> list[dict]:
    axes = [parameter.grid(2) for parameter in space.values()]
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*axes)]


BINARY = ("bce_dice", "focal_tversky")
SURFACE_OUTSIDE = set(FAMILIES["surface"].presets) - {f"surface_{name}" for name in ("dice_only", "v2")}
"""Attempts that are more than a point of the space, or whose weights have another sum."""
LOSSES = {"static", "class_balanced", "balanced_softmax", "seesaw", "tversky"}


def test_the_families_are_found_by_their_files() -> None:
    files = {path.stem for path in Path(search_spaces.__file__).parent.glob("[!_]*.py")}
    others = {"optimiser", "networks", "l40s_losses", "surface", "one_class_collapse", *BINARY}
    assert set(FAMILIES) == files == LOSSES | others
    assert set(together_in_all()) == LOSSES


def test_an_experiment_names_what_all_searches_and_the_first_of_them_brings_the_baseline() -> None:
    space = space_of("all", {"family": ["bce_dice"], "bce_dice.dice": [0.0, 0.5]}, BINARY)
    assert list(space) == ["family", "bce_dice.dice"]
    assert {key.split(".")[0] for key in space_of("all", {}, BINARY)} == {"family", *BINARY}
    assert untuned("all", BINARY).name == untuned("compare", BINARY).name == "bce"
    assert untuned("seesaw", BINARY).name == "weight_uniform"
    for names, said in ((["optimiser"], "optimiser is no family of losses"), (["sesaw"], "Did you mean seesaw")):
        with pytest.raises(SettingsError, match=said):
            space_of("all", {}, names)


def test_what_is_the_same_sum_of_terms_is_one_arm_whatever_its_numbers_are_that_play_no_part() -> None:
    counts = ClassCounts(classes=("a",), positive=(5.0,), known=(100.0,))
    of = partial(effective_signature, counts=counts)
    bce = loss_of("bce_dice", {"dice": 0.0}, counts)
    assert of(bce) == of({"name": "composite", "params": {"cross_entropy": 1.0, "fp_weight": 0.9, "focal_gamma": 3.0}})
    assert of(bce) != of(loss_of("bce_dice", {"dice": 0.1}, counts))
    focal = {"focal": 0.5, "focal_gamma": 2.0, "focal_alpha": 0.25, "fp_weight": 0.5}
    assert len({of(loss_of("focal_tversky", focal | {key: 0.75}, counts)) for key in focal}) == 4


@pytest.mark.parametrize("name", FAMILIES)
def test_the_baseline_of_a_family_is_a_preset(name: str) -> None:
    assert untuned(name).name == FAMILIES[name].baseline
    assert untuned("all") == untuned("compare") == untuned("gone") == get_preset("weight_uniform")


def test_a_point_of_the_optimiser_is_settings_of_the_trainer_under_uniform_weights() -> None:
    point = {"lr": 1e-3, "batch_size": 16}
    assert trial_of("optimiser", point, COUNTS) == {"loss": preset_loss("weight_uniform", COUNTS), "trainer": point}


def test_the_signature_of_a_trial_is_that_of_its_loss_and_of_what_its_point_sets() -> None:
    loss = preset_loss("seesaw_default", COUNTS)
    alone = effective_signature(loss, COUNTS)
    assert trial_signature({"loss": loss}, COUNTS) == alone
    some = {"loss": loss, "trainer": {"lr": 1e-3}, "model": {"width": 8}}
    assert trial_signature(some, COUNTS) == f"{alone} model.width=8 trainer.lr=0.001"


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("counts", [COUNTS, OTHER], ids=["published", "with a class never seen"])
def test_every_corner_and_middle_of_a_space_is_a_loss(name: str, counts: ClassCounts) -> None:
    space = FAMILIES[name].space
    middle = {key: parameter.grid(3)[len(parameter.grid(3)) // 2] for key, parameter in space.items()}
    made = (loss_of(name, point, counts) for point in [*corners(space), middle])
    for loss in {json.dumps(loss): loss for loss in made}.values():  # axes of the trainer make the same one
        loss_is_finite(loss, counts)


@pytest.mark.parametrize("name", all_presets())
def test_every_preset_is_a_loss(name: str) -> None:
    loss_is_finite(preset_loss(name, COUNTS), COUNTS)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_says_what_it_is(name: str) -> None:
    family = FAMILIES[name]
    assert family.presets
    assert family.cite
    assert family.help
    assert all(parameter.help for parameter in (*family.space.values(), *family.optional.values()))


def test_the_published_fifteen_come_first_and_in_order() -> None:
    assert len(PUBLISHED) == 15
    assert tuple(all_presets())[:15] == PUBLISHED
    losses = [name for name, preset in all_presets().items() if preset.family in LOSSES]
    assert losses[15:] == ["tversky_0.6_0.4", "tversky_0.5_0.5", "tversky_0.3_0.7"]


@pytest.mark.parametrize(
    ("preset", "params"),
    [
        ("weight_manual", {"weights": [1.8, 1.3, 1.6, 1.6, 1.1]}),
        ("cb_beta_0.999", {"beta": 0.999}),
        ("balanced_softmax_tau_2.0", {"tau": 2.0, "apply_at": "train"}),
        ("seesaw_default", {"p": 0.8, "q": 2.0}),
        ("seesaw_strong_mitigate", {"p": 1.0, "q": 2.0}),
        ("seesaw_strong_compensate", {"p": 0.8, "q": 3.0}),
        ("tversky_0.3_0.7", {"fp_weight": 0.3, "fn_weight": 0.7}),
    ],
)
def test_presets_have_the_published_parameters(preset: str, params: dict) -> None:
    assert preset_loss(preset, COUNTS)["params"] == params


def test_static_presets_derive_from_the_counts_given() -> None:
    published = preset_loss("weight_inv_freq", COUNTS)["params"]["weights"]
    assert [round(w, 3) for w in published] == [0.152, 0.301, 0.323, 0.821, 1.0]
    own = preset_loss("weight_inv_freq", ClassCounts(("x", "y"), (10, 40), (100, 100)))["params"]["weights"]
    assert own == pytest.approx([1.0, 0.25])


def test_manual_weights_follow_the_class_order_and_are_for_the_published_classes_only() -> None:
    turned = COUNTS.select(COUNTS.classes[::-1])
    assert preset_loss("weight_manual", turned)["params"]["weights"] == [1.1, 1.6, 1.6, 1.3, 1.8]
    with pytest.raises(SettingsError, match=r"weight_manual.*nuc, mito_mem.*mito, er, vesicle[\s\S]*weight_inv_freq"):
        preset_loss("weight_manual", OTHER)


def test_exactly_the_five_collapsed_presets_share_an_effective_signature() -> None:
    signatures: dict[str, list[str]] = {}
    for name in PUBLISHED:
        signatures.setdefault(effective_signature(preset_loss(name, COUNTS), COUNTS), []).append(name)
    merged = [names for names in signatures.values() if len(names) > 1]
    assert merged == [["weight_uniform", "weight_effective_num", "cb_beta_0.99", "cb_beta_0.999", "cb_beta_0.9999"]]


def test_signature_of_searched_points() -> None:
    def signature(family: str, point: dict, **kwargs: float) -> str:
        return effective_signature(loss_of(family, point, COUNTS), COUNTS, **kwargs)

    uniform = signature("static", {"kappa": 0.0})
    assert signature("balanced_softmax", {"tau": 0.0}) == uniform
    assert signature("tversky", {"fp_weight": 0.6}) == uniform
    assert signature("static", {"kappa": 1.0}) == signature("static", {"weights": "inv_freq"})
    assert signature("class_balanced", {"one_minus_beta": 1e-6}) != uniform
    assert signature("seesaw", {"p": 0.0, "q": 0.0}) != uniform
    # In a window a thousand times smaller the middle β is a knob again.
    assert signature("class_balanced", {"beta": 0.9999}, window_voxels=29640.0) != uniform


@pytest.mark.parametrize("name", all_presets())
def test_a_preset_inside_the_space_is_the_same_loss_at_its_searched_point(name: str) -> None:
    preset = get_preset(name)
    point = get_family(preset.family).searched_point(name)
    outside = {"weight_manual", "weight_log_inv", "weight_effective_num", "l40s_dice_bce", *SURFACE_OUTSIDE}
    assert (point is None) == (name in outside)
    if point is not None:
        searched = trial_signature(trial_of(preset.family, point, COUNTS), COUNTS)
        published = trial_signature(trial_of(preset.family, preset.point, COUNTS), COUNTS)
        assert searched.split(" online ")[0] == published.split(" online ")[0]


def test_a_preset_outside_a_narrowed_space_has_no_searched_point() -> None:
    seesaw = get_family("seesaw")
    assert seesaw.searched_point("seesaw_default", seesaw.narrow({"p": [0.9, 1.1]})) is None
    assert seesaw.searched_point("seesaw_strong_mitigate", seesaw.narrow({"p": [0.9, 1.1]})) == {"p": 1.0, "q": 2.0}


def test_all_is_conditional_on_the_family() -> None:
    space = all_families_space()
    assert set(space["family"].options) == LOSSES
    assert set(parameters_of(space, "seesaw")) == {"seesaw.p", "seesaw.q"}
    for name, family in together_in_all().items():
        assert {key.split(".")[1] for key in parameters_of(space, name)} == set(family.space)
    point = {"family": "seesaw", "seesaw.p": 0.8, "seesaw.q": 2.0, "static.kappa": 1.0}
    assert loss_of("all", point, COUNTS) == loss_of("seesaw", {"p": 0.8, "q": 2.0}, COUNTS)


def test_all_is_narrowed_by_family_and_by_nested_or_dotted_names() -> None:
    space = space_of("all", {"family": ["seesaw", "static"], "seesaw": {"p": 0.8}, "static.weight_nuc": [0.1, 10]})
    assert space["family"] == Choice(("seesaw", "static"), help="loss family")
    assert set(space) == {"family", "seesaw.p", "seesaw.q", "static.weight_nuc"}
    assert space["seesaw.p"].fixed


def test_free_weights_are_one_for_classes_not_named_and_refuse_unknown_ones() -> None:
    assert loss_of("static", {"weight_pm": 3.0}, COUNTS)["params"]["weights"] == [1.0, 1.0, 1.0, 3.0, 1.0]
    with pytest.raises(SettingsError, match=r"space\.weight_golgi: there is no class golgi[\s\S]*golgi_mem"):
        loss_of("static", {"weight_golgi": 3.0}, COUNTS)


@pytest.mark.parametrize("weights", [{"kappa": 1.0}, *({"weights": r} for r in ("inv_freq", "sqrt_inv", "log_inv"))])
def test_derived_weights_all_use_one_count_raw_or_as_if_annotated_alike(weights: dict) -> None:
    """b is half as frequent as a, and annotated in half of the voxels: a quarter of the raw count."""
    counts = ClassCounts(("a", "b"), (4000, 1000), (40_000, 20_000))
    alike = ClassCounts(("a", "b"), (3000, 1500), (30_000, 30_000))
    count, default = (loss_of("static", weights | more, counts) for more in ({"frequency": "count"}, {}))
    share = loss_of("static", weights | {"frequency": "share"}, counts)
    formulas = {"sqrt_inv": lambda n: n**-0.5, "log_inv": lambda n: 1 / math.log(1 + n / sum(counts.positive))}
    raw = [formulas.get(weights.get("weights", ""), lambda n: 1 / n)(n) for n in counts.positive]
    assert count["params"]["weights"] == pytest.approx([w / max(raw) for w in raw])
    assert default == count
    assert share["params"]["weights"] == pytest.approx(loss_of("static", weights, alike)["params"]["weights"])


def test_tversky_complements_fp_weight_unless_fn_weight_is_free() -> None:
    assert loss_of("tversky", {"fp_weight": 0.7}, COUNTS)["params"] == {"fp_weight": 0.7, "fn_weight": 0.3}
    free = {"fp_weight": 0.7, "fn_weight": 0.7}
    assert loss_of("tversky", free, COUNTS)["params"] == free


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: get_family("sesaw"), r"family=sesaw[\s\S]*balanced_softmax.*seesaw.*all or compare"),
        (lambda: get_preset("seesaw"), r"preset=seesaw:[\s\S]*seesaw_default"),
        (lambda: loss_of("static", {"weights": "inverse"}, COUNTS), r"weights=inverse[\s\S]*inv_freq.*manual"),
        (lambda: loss_of("static", {}, COUNTS), r"names no weights[\s\S]*kappa"),
        (lambda: loss_of("seesaw", {"p": 1.0, "q": 1.0, "tau": 1.0}, COUNTS), r"tau.*no such parameter.*p, q"),
        (lambda: loss_of("all", {"kappa": 1.0}, COUNTS), r"family=None"),
    ],
)
def test_bad_names_list_the_choices(call, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        call()


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_a_space_of_ray_tune(name: str) -> None:
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch
    from ray.tune.search.variant_generator import generate_variants

    family = FAMILIES[name]
    space = family.tune_space()
    assert space.keys() == family.space.keys()
    for key, domain in space.items():
        kinds = {Choice: tune.search.sample.Categorical, Simplex: tune.search.sample.Function}
        assert isinstance(domain, kinds.get(type(family.space[key]), tune.search.sample.Float))
    ((_, point),) = generate_variants(space)
    assert all(family.space[key].contains(value) for key, value in point.items())
    loss_is_finite(loss_of(name, point, COUNTS), COUNTS)
    if any(isinstance(parameter, Simplex) for parameter in family.space.values()):
        return  # a function, which OptunaSearch does not take
    proposed = OptunaSearch(space, metric="mean_dice", mode="max").suggest("one")
    assert all(family.space[key].contains(value) for key, value in proposed.items())


@pytest.mark.parametrize("nested", [True, False])
def test_the_joint_space_is_conditional_in_ray_tune_too(nested: bool) -> None:
    from ray.tune.search.variant_generator import generate_variants

    seen = set()
    for _ in range(20):
        space = tune_space("all", {"family": ["seesaw", "tversky"], "seesaw": {"p": 0.8}})
        ((_, config),) = generate_variants({"point": space} if nested else space)
        point = config["point"] if nested else config
        live = {key for key, value in point.items() if value is not None}
        assert live == {"family", *parameters_of(space_of("all"), point["family"])}
        loss_is_finite(loss_of("all", point, COUNTS), COUNTS)
        seen.add(point["family"])
    assert seen == {"seesaw", "tversky"}
