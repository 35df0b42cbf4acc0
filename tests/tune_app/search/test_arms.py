"""Planned arms: presets first, what narrowing leaves of them, grids, compare, and arms that are one and the same."""

from __future__ import annotations

import itertools
import math

import pytest
from planned import COUNTS, PAPER_COUNTS, settings_of

from search_spaces import (
    PUBLISHED,
    ClassCounts,
    Float,
    all_presets,
    families,
    get_family,
    parameters_of,
    together_in_all,
)
from tune_app.errors import InputError
from tune_app.search.arms import (
    Arm,
    distinct,
    end_arms,
    grid,
    left_out,
    planned_arms,
    same_arms,
    searched_space,
    with_baseline,
)


def planned(*words: str) -> list[Arm]:
    settings = settings_of(*words)
    return planned_arms(settings, searched_space(settings))


def labels(*words: str) -> list[str]:
    return [arm.label for arm in planned(*words)]


@pytest.mark.parametrize("family", list(families()))
def test_a_search_begins_with_the_presets_of_its_family(family):
    arms = planned(f"family={family}", "search.num_samples=99")
    assert {arm.preset for arm in arms} == set(get_family(family).presets)
    published = [name for name in PUBLISHED if name in get_family(family).presets]
    assert [arm.preset for arm in arms][: len(published)] == published


def test_families_take_turns():
    order = [arm.family for arm in planned("family=all")]
    losses = list(together_in_all())
    assert order[: len(losses)] == list(dict.fromkeys(order)), "each once before any comes again"
    assert sorted(order) == sorted(preset.family for preset in all_presets().values() if preset.family in losses)
    of_each = {family: [a.preset for a in planned("family=all") if a.family == family] for family in losses}
    assert of_each == {family: labels(f"family={family}") for family in losses}, "within a family in its own order"


@pytest.mark.parametrize("family", ["static", "all", "compare"])
def test_weights_that_were_written_for_other_classes_are_left_out(family):
    words = (f"family={family}", "data.classes=[nuc,pm]")
    assert "weight_manual" in labels(f"family={family}")
    assert "weight_manual" not in labels(*words)
    assert len(labels(*words)) == len(labels(f"family={family}")) - 1
    assert left_out(settings_of(*words)) == ["weight_manual"]
    assert left_out(settings_of(f"family={family}")) == []


def test_presets_can_be_left_out_and_are_cut_to_the_number_of_trials():
    assert planned("family=seesaw", "search.presets_first=false") == []
    arms, _ = planned_with_baseline("family=seesaw", "search.num_samples=2", "search.baseline=false")
    assert [arm.label for arm in arms] == ["seesaw_default", "seesaw_strong_mitigate"]


@pytest.mark.parametrize("search", ["optuna", "random"])
def test_a_search_trains_the_same_weights_once(search):
    words = ("family=all", f"search={search}", "search.num_samples=99")
    arms, _ = planned_with_baseline(*words, counts=PAPER_COUNTS)
    signatures = [arm.signature(PAPER_COUNTS, 1e9) for arm in arms]
    every = planned(*words)
    assert len(set(signatures)) == len(signatures) < len(every)
    assert set(signatures) == {arm.signature(PAPER_COUNTS, 1e9) for arm in every}


def test_narrowing_drops_the_presets_outside():
    assert labels("family=seesaw", "space.q=[1.5,2.5]") == ["seesaw_default", "seesaw_strong_mitigate"]
    assert labels("family=seesaw", "space.p=0.8") == ["seesaw_default", "seesaw_strong_compensate"]
    assert labels("family=seesaw", "space.p=[1.5,2]") == []


def test_compare_is_the_fifteen_names_in_order_once_per_seed():
    assert labels("family=compare") == list(PUBLISHED)
    assert len(PUBLISHED) == 15
    arms = planned("family=compare", "seeds=3", "seed=5")
    assert [(arm.seed, arm.preset) for arm in arms] == list(itertools.product((5, 6, 7), PUBLISHED))


def test_compare_and_all_are_those_of_the_families_that_an_experiment_names():
    words = ("families=[focal_tversky,bce_dice]", "data.classes=[nuc]", "task.name=binary")
    presets = [*get_family("focal_tversky").presets, *get_family("bce_dice").presets]
    assert sorted(labels("family=compare", *words)) == sorted(presets)
    assert sorted(labels("family=all", "search.num_samples=99", *words)) == sorted(presets)
    arms, baseline = planned_with_baseline("family=all", *words, counts=ClassCounts(("nuc",), (5.0,), (100.0,)))
    assert (arms[0].preset, baseline) == ("bce", "bce")
    assert arms[0].searched == {"family": "bce_dice", "bce_dice.dice": 0.0}


def test_five_of_the_fifteen_are_one_at_the_published_counts():
    """With so many voxels the effective number of samples has saturated: the weights are uniform."""
    groups = same_arms(planned("family=compare"), PAPER_COUNTS)
    together = next(group for group in groups if "weight_uniform" in group)
    assert sorted(together) == sorted(
        ["weight_uniform", "weight_effective_num", "cb_beta_0.99", "cb_beta_0.999", "cb_beta_0.9999"]
    )
    assert len(groups) == 1


def test_repeats_with_other_seeds_are_not_listed_as_two_names():
    assert same_arms(planned("preset=seesaw_default", "seeds=3"), COUNTS) == []


@pytest.mark.parametrize("family", [name for name in families() if name not in ("static", "surface")])
def test_a_grid_has_every_combination_once(family):
    settings = settings_of(f"family={family}", "search=grid", "search.grid_points=3")
    space = searched_space(settings)
    points = list(grid(space, 3))
    axes = [parameter.grid(3) for parameter in space.values()]
    assert len(points) == math.prod(len(axis) for axis in axes)
    assert {tuple(point.values()) for point in points} == set(itertools.product(*axes))
    tried = [tuple(sorted(arm.searched.items())) for arm in planned_arms(settings, space) if arm.searched]
    assert len(tried) == len(set(tried)), "a preset on the grid is not run twice"
    assert set(tried) >= {tuple(sorted(point.items())) for point in points}


def test_a_logarithmic_axis_has_a_logarithmic_grid():
    space = {"x": Float(1e-6, 1e-2, log=True), "y": Float(0.0, 1.0)}
    points = list(grid(space, 5))
    xs = sorted({point["x"] for point in points})
    assert xs == pytest.approx([1e-6, 1e-5, 1e-4, 1e-3, 1e-2])
    assert sorted({point["y"] for point in points}) == pytest.approx([0, 0.25, 0.5, 0.75, 1])


def test_the_grid_of_all_families_is_conditional():
    settings = settings_of("family=all", "search=grid", "search.grid_points=2", "space.family=[seesaw,tversky]")
    space = searched_space(settings)
    points = list(grid(space, 2))
    assert {point["family"] for point in points} == {"seesaw", "tversky"}
    for point in points:
        own = parameters_of(space, point["family"])
        assert set(point) == {"family", *own}
    assert len(points) == sum(
        math.prod(len(p.grid(2)) for p in parameters_of(space, f).values()) for f in ("seesaw", "tversky")
    )
    for arm in planned_arms(settings, space):
        assert arm.trial(COUNTS)["loss"]["name"] in ("seesaw", "tversky")


def test_all_families_begin_with_the_presets_of_the_chosen_ones():
    arms = planned("family=all", "space.family=[seesaw,tversky]", "search.num_samples=99")
    assert {arm.family for arm in arms} == {"seesaw", "tversky"}
    assert all(arm.searched.get("family") == arm.family for arm in arms if arm.searched)
    seesaw = next(arm for arm in arms if arm.preset == "seesaw_default")
    assert seesaw.searched == {"family": "seesaw", "seesaw.p": 0.8, "seesaw.q": 2.0}


def test_narrowing_one_family_of_all_keeps_the_presets_of_the_others():
    arms = planned("family=all", "space.seesaw.p=[1.5,2]", "search.num_samples=99")
    names = {arm.preset for arm in arms}
    assert not any(name.startswith("seesaw") for name in names)
    assert set(get_family("tversky").presets) <= names


def test_every_planned_arm_is_a_loss_that_can_be_built():
    from trainables.losses import build

    for arm in planned("family=compare"):
        loss = arm.trial(COUNTS)["loss"]
        assert build(loss["name"], loss["params"], COUNTS.classes) is not None


def test_labels_tell_family_and_values():
    arm = Arm(family="seesaw", point={"q": 2.0, "p": 0.123456}, seed=0)
    assert arm.label == "seesaw_p0.1235_q2"
    joint = Arm(family="all", point={"family": "seesaw", "seesaw.p": 0.5, "seesaw.q": 1.0}, seed=0)
    assert joint.label == "seesaw_p0.5_q1"


def test_an_exported_trial_is_one_arm_with_its_loss(tmp_path):
    text = "loss: {name: seesaw, params: {p: 0.3, q: 1.0}}\nseed: 7\nname: 0004_x\ndata: {}\nmodel: {}\ntrainer: {}\n"
    (tmp_path / "config.yaml").write_text(text)
    (arm,) = planned(f"trial={tmp_path}/config.yaml")
    assert (arm.label, arm.trial(COUNTS)["loss"]) == ("0004_x", {"name": "seesaw", "params": {"p": 0.3, "q": 1.0}})
    assert arm.preset == "", "it was searched: nobody has published it"
    assert planned(f"trial={tmp_path}") == [arm], "the folder of an export does too"
    assert [arm.seed for arm in planned(f"trial={tmp_path}", "seed=3", "seeds=2")] == [3, 4]
    (tmp_path / "config.yaml").write_text(text + "preset: seesaw_default\n")
    assert [(arm.label, arm.preset) for arm in planned(f"trial={tmp_path}")] == [("0004_x", "seesaw_default")]


def test_repeats_are_for_fixed_arms():
    with pytest.raises(InputError, match="seeds=2"):
        planned("family=seesaw", "seeds=2")


def planned_with_baseline(*words: str, counts: ClassCounts = COUNTS) -> tuple[list[Arm], str]:
    settings = settings_of(*words)
    space = searched_space(settings)
    return with_baseline(settings, planned_arms(settings, space), space, counts, 1e9)


@pytest.mark.parametrize("family", ["seesaw", "static", "all"])
@pytest.mark.parametrize("search", ["optuna", "random", "grid"])
def test_a_search_begins_with_the_untuned_baseline(family, search):
    arms, baseline = planned_with_baseline(f"family={family}", f"search={search}", "search.grid_points=2")
    assert [arm.label for arm in arms].index("weight_uniform") == 0
    assert [arm.label for arm in arms].count("weight_uniform") == 1
    assert baseline == "weight_uniform"
    others = planned(f"family={family}", f"search={search}", "search.grid_points=2")
    others = others if search == "grid" else distinct(others, COUNTS, 1e9)
    kept = [arm for arm in others if arm.label != "weight_uniform"]
    assert arms[1:] == (kept if search == "grid" else kept[: len(arms) - 1])


@pytest.mark.parametrize(
    ("words", "label", "counts"),
    [
        ("family=tversky", "tversky_0.6_0.4", COUNTS),
        ("family=class_balanced", "cb_beta_0.99", PAPER_COUNTS),
        ("family=balanced_softmax search=grid", "balanced_softmax_tau0", COUNTS),
    ],
)
def test_an_arm_that_comes_out_as_uniform_weights_is_the_baseline(words, label, counts):
    arms, baseline = planned_with_baseline(*words.split(), counts=counts)
    assert (arms[0].label, baseline) == (label, label)
    assert {arm.label for arm in arms} <= set(labels(*words.split()))


def test_the_sampler_learns_from_the_baseline_where_it_lies_in_the_space():
    assert planned_with_baseline("family=static")[0][0].searched == {"kappa": 0.0}
    assert planned_with_baseline("family=static", "search.presets_first=false")[0][0].searched == {"kappa": 0.0}
    assert planned_with_baseline("family=static", "space.kappa=[0.5,1]")[0][0].searched == {}
    assert planned_with_baseline("family=seesaw")[0][0].searched == {}
    joint = planned_with_baseline("family=all")[0][0]
    assert joint.searched == {"family": "static", "static.kappa": 0.0}
    assert planned_with_baseline("family=all", "space.family=[seesaw,tversky]")[0][0].label == "tversky_0.6_0.4"


def test_the_baseline_is_one_of_the_trials_and_can_be_left_out():
    arms, _ = planned_with_baseline("family=seesaw", "search.num_samples=2")
    assert [arm.label for arm in arms] == ["weight_uniform", "seesaw_default"]
    arms, baseline = planned_with_baseline("family=seesaw", "search.num_samples=1")
    assert ([arm.label for arm in arms], baseline) == (["seesaw_default"], ""), "one trial is not spent on it"
    arms, baseline = planned_with_baseline("family=seesaw", "search.baseline=false")
    assert (arms, baseline) == (planned("family=seesaw"), "")


def test_fixed_lists_keep_their_order_and_get_the_baseline_only_when_asked():
    assert planned_with_baseline("family=compare") == (planned("family=compare"), "weight_uniform")
    words = ("preset=seesaw_default", "seeds=2")
    assert planned_with_baseline(*words) == (planned(*words), "")
    arms, baseline = planned_with_baseline(*words, "seed=4", "search.baseline=true")
    assert [(arm.label, arm.seed) for arm in arms] == [
        ("seesaw_default", 4),
        ("seesaw_default", 5),
        ("weight_uniform", 4),
        ("weight_uniform", 5),
    ]
    assert baseline == "weight_uniform"
    assert planned_with_baseline("preset=weight_uniform", "search.baseline=true")[0] == planned("preset=weight_uniform")


def test_the_baseline_of_another_family_is_its_own() -> None:
    arms, baseline = planned_with_baseline("family=optimiser", "search.num_samples=4")
    assert baseline == "optimiser_published"
    assert arms[0].label == baseline
    assert {arm.own_family for arm in arms} == {"optimiser"}
    assert arms[0].searched == arms[0].point == arms[0].trial(COUNTS)["trainer"]
    seesaw, _ = planned_with_baseline("family=seesaw", "search.num_samples=4")
    assert seesaw[0].label == "weight_uniform"


def test_the_ends_of_every_axis_are_tried_out_before_a_search() -> None:
    settings = settings_of("family=optimiser", "space.lr=[1e-4,1e-2]", "space.pct_start=0.1")
    points = [arm.point for arm in end_arms(settings, searched_space(settings))]
    assert {point["lr"] for point in points} == {1e-4, 1e-2}
    assert {point["batch_size"] for point in points} == {8, 16, 24, 32}
    assert {point["pct_start"] for point in points} == {0.1}
