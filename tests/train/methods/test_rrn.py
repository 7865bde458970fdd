from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from zoo.bundle.bundle import load_config
from zoo.bundle.weights import load_bundle
from zoo.catalog import recipe_names
from zoo.errors import RecipeError
from zoo.models.decoders.decoder import resize_logits
from zoo.models.deployable import FusedEnsemble, Student
from zoo.train.blocks.losses import cross_entropy, ohem_cross_entropy
from zoo.train.blocks.mixing import cutmix, toggled_boxes
from zoo.train.loop.hardware import Hardware
from zoo.train.methods.rrn import OFFICIAL, Rrn, RrnConfig
from zoo.train.recipe.read import load_recipe
from zoo.train.session import start
from zoo.train.strip import strip

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from zoo.train.method import Batch, Progress

    Build = Callable[..., Rrn]
    At = Callable[..., Progress]

STREAMS = {"unlabeled": 2, "strong": 0}

CPS = {"sup_1", "sup_2", "cps_1", "cps_2"}
GAME = {"fm_1", "fm_2", "d_1", "d_2"}
STILL = {"dropout": 0.0}


def seeded(method: Rrn, batch: Batch, progress: Progress) -> dict[str, Tensor]:
    """Return the losses under a mask of boxes that is always the same."""
    torch.manual_seed(7)
    return method(batch, progress)


def test_self_training_comes_with_the_second_phase(build_rrn: Build, batch: Batch, at: At) -> None:
    method = build_rrn()
    assert set(method(batch, at("cross"))) == CPS | GAME
    assert set(method(batch, at("full"))) == CPS | GAME | {"st_1", "st_2"}
    assert [(phase.name, phase.steps) for phase in method.phases(10)] == [("cross", 3), ("full", 7)]


def test_a_first_phase_that_leaves_nothing_for_self_training_is_refused(build_rrn: Build) -> None:
    with pytest.raises(RecipeError, match=r"method\.cross_steps is 3, expected less than the 3 steps"):
        build_rrn().phases(3)


def test_plain_cps_has_neither_discriminators_nor_a_second_phase(build_rrn: Build) -> None:
    method = build_rrn(self_training="none")
    assert not method.discriminators
    assert [phase.name for phase in method.phases(2)] == ["cross"]
    assert len(method.optimizers()) == 2


def test_without_its_terms_on_unlabeled_images_it_is_two_networks_of_labels_alone(
    build_rrn: Build, make_batch: Callable[..., Batch], at: At
) -> None:
    method = build_rrn(self_training="none", lambda_cps=0)
    assert [phase.unlabeled for phase in method.phases(9)] == [0]
    batch = make_batch(unlabeled=0)
    losses = method.eval()(batch, at("cross"))
    assert set(losses) == {"sup_1", "sup_2"}
    for number, branch in enumerate(method.branches, start=1):
        logits = resize_logits(branch(batch.image_l).logits, batch.label_l.shape[-2:])
        assert torch.equal(losses[f"sup_{number}"], cross_entropy(logits, batch.label_l))


def test_the_branches_start_apart_and_so_do_the_discriminators(build_rrn: Build) -> None:
    method = build_rrn()
    for first, second in (method.branches, method.discriminators):
        weights = [(p, q) for p, q in zip(first.parameters(), second.parameters(), strict=True) if p.ndim > 1]
        assert not any(torch.equal(p, q) for p, q in weights)


def test_each_branch_learns_the_mixed_classes_of_the_other(build_rrn: Build, batch: Batch, at: At) -> None:
    method = build_rrn(self_training="none").eval()  # BatchNorm does not depend on the passes
    losses = seeded(method, batch, at("cross"))
    first, second = batch.weak[0].chunk(2)
    mask = toggled_boxes(batch.draws.chunk(2)[0], (32, 32))
    for learner, teacher, name in (
        (method.branch_1, method.branch_2, "cps_1"),
        (method.branch_2, method.branch_1, "cps_2"),
    ):
        labels = (resize_logits(teacher(image).logits, (32, 32)).argmax(dim=1) for image in (first, second))
        logits = resize_logits(learner(cutmix(first, second, mask)).logits, (32, 32))
        torch.testing.assert_close(losses[name], cross_entropy(logits, cutmix(*labels, mask)))


def test_pseudo_labels_are_made_without_dropout_and_in_training_mode(build_rrn: Build, batch: Batch) -> None:
    method = build_rrn()
    dropouts, norms = (
        [each for each in method.branch_1.modules() if isinstance(each, kind)]
        for kind in (nn.Dropout, nn.BatchNorm2d)
    )
    modes = []
    method.branch_1.register_forward_pre_hook(
        lambda *_: modes.append([each.training for each in (*dropouts, *norms)])
    )
    method.mixed(batch)
    pseudo_labels, mixed_images = modes
    assert pseudo_labels == [False] * len(dropouts) + [True] * len(norms)
    assert all(mixed_images)


def test_each_branch_learns_the_classes_of_the_other_one(build_rrn: Build, batch: Batch, at: At) -> None:
    method = build_rrn(self_training="none").eval()
    assert method.phases(5)[0].unlabeled == 2
    losses = method(batch, at("cross"))
    _, _, logits, pseudo_label = method.mixed(batch)
    torch.testing.assert_close(losses["cps_1"], cross_entropy(logits[0], pseudo_label[1]))
    torch.testing.assert_close(losses["cps_2"], cross_entropy(logits[1], pseudo_label[0]))


def test_the_weight_of_cross_supervision_ramps_up_as_in_laine_and_aila(
    build_rrn: Build, batch: Batch, at: At
) -> None:
    terms = {}
    for ramp in (0, 20):
        torch.manual_seed(0)
        method = build_rrn(self_training="none", lambda_cps=2.0, cps_ramp_steps=ramp).eval()
        terms[ramp] = [seeded(method, batch, at("cross", step=step))["cps_1"] for step in (0, 10, 20, 50)]
    shares = torch.stack(terms[20]) / torch.stack(terms[0])
    torch.testing.assert_close(shares, torch.tensor([math.exp(-5), math.exp(-5 / 4), 1.0, 1.0]))
    assert all(torch.equal(term, terms[0][0]) for term in terms[0])


def test_the_papers_rows_keep_the_dropout_of_the_discriminators_and_a_constant_weight() -> None:
    for name in (each for each in recipe_names() if each.startswith("rrn")):
        method = load_recipe(name).method
        is_paper = name not in ("rrn", "rrn_shapes")
        assert method.selection_dropout == is_paper
        assert method.discriminator.dropout == (0.5 if is_paper else 0.0)
        assert method.cps_ramp_steps == (6000 if name == "rrn" else 0)


def test_hard_pixels_alone_train_the_labeled_images_by_setting(
    build_rrn: Build, batch: Batch, at: At
) -> None:
    torch.manual_seed(0)
    method = build_rrn(self_training="none", ohem_threshold=0.3, ohem_min_kept=20).eval()
    logits = method.logits(batch.image_l)[0]
    expected = ohem_cross_entropy(logits, batch.label_l, 0.3, 40)  # two images
    torch.testing.assert_close(method(batch, at("cross"))["sup_1"], expected)
    assert not torch.isclose(expected, cross_entropy(logits, batch.label_l))


def test_every_network_group_has_its_optimizer(build_rrn: Build) -> None:
    names = [type(optimizer).__name__ for optimizer in build_rrn().optimizers()]
    assert names == ["SGD", "SGD", "Adam", "Adam"]


def test_biases_and_scales_of_the_branches_do_not_decay(build_rrn: Build) -> None:
    for optimizer in build_rrn().optimizers()[:2]:
        for group in optimizer.param_groups:
            assert all((p.ndim > 1) == (group["weight_decay"] > 0) for p in group["params"])


@pytest.mark.parametrize(
    ("eni", "kind", "name"), [(True, FusedEnsemble, "fused"), (False, Student, "branch_1")]
)
def test_the_average_is_deployed_unless_ensembling_is_off(
    eni: bool, kind: type, name: str, build_rrn: Build
) -> None:
    method = build_rrn(eni=eni)
    assert method.default_weights == name
    assert isinstance(method.deployable(), kind)


@pytest.mark.parametrize(
    ("eni", "name", "other"), [(True, "fused", "branch_2"), (False, "branch_1", "fused")]
)
def test_the_bundle_holds_what_was_scored_and_others_lie_beside_it(
    eni: bool, name: str, other: str, tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zoo.train.session.write_curves", lambda *_: None)
    path = tmp_path / "recipe.toml"
    table = (
        f'name = "rrn"\ncross_steps = 1\neni = {str(eni).lower()}\ndiscriminator = {{width = 2, cell = 1}}'
    )
    path.write_text(tiny_recipe.read_text().partition("[method]")[0] + "[method]\n" + table)
    metrics = start(load_recipe(str(path), ["steps=2"]), tmp_path / "run", Hardware("cpu"))
    assert metrics["bundle"] == str(tmp_path / "run" / "bundle")
    deployable, config = load_bundle(tmp_path / "run" / "bundle")
    assert config.weights == name
    assert config.metrics["val"]["miou"] == metrics["val"]["miou"]
    assert isinstance(deployable, FusedEnsemble) is eni
    beside = strip(tmp_path / "run", other)
    assert beside == tmp_path / "run" / f"bundle-{other}"
    assert load_config(beside).metrics == {}


def test_the_branches_can_be_weighed(build_rrn: Build, batch: Batch) -> None:
    method = build_rrn(weight_1=0.8).eval()
    with torch.no_grad():
        first, second = (branch(batch.image_l).logits for branch in method.branches)
        got = method.deployable().eval().decoder_logits(batch.image_l)
    torch.testing.assert_close(got, 0.8 * first + 0.2 * second)


REPORTED = {  # methods.md, B8: RRN, CPS
    "rrn_voc_1-16": (73.38, 71.98),
    "rrn_voc_1-8": (74.91, 73.67),
    "rrn_voc_1-4": (76.80, 74.90),
    "rrn_voc_1-2": (77.04, 76.15),
    "rrn_cityscapes_1-16": (75.42, 74.47),
    "rrn_cityscapes_1-8": (77.34, 76.61),
    "rrn_cityscapes_1-4": (78.38, 77.83),
    "rrn_cityscapes_1-2": (79.09, 78.77),
}


def test_the_reported_figures_are_those_of_the_paper_and_of_its_rows_alone() -> None:
    recipes = {name: load_recipe(name) for name in recipe_names() if name.startswith("rrn")}
    figures = {name: recipe.reported for name, recipe in recipes.items() if "miou" in (recipe.reported or {})}
    assert {name: (each["miou"], each["cps"]) for name, each in figures.items()} == REPORTED
    for name in REPORTED:
        recipe = recipes[name]
        assert recipe.data.partition == name.rpartition("_")[2].replace("-", "/")
        assert recipe.steps % recipe.method.cross_steps == 0  # whole epochs
        assert 44_000 < recipe.steps < 53_000
        assert recipe.network.encoder.startswith("resnet50")


def test_cityscapes_has_its_own_settings() -> None:
    recipe, voc = load_recipe("rrn_cityscapes_1-8"), load_recipe("rrn_voc_1-8")
    assert (recipe.accumulate, recipe.data.batch_l, recipe.data.imgsz) == (2, 4, (800, 800))
    for each, expected in ((recipe, (0.7, 5.0, 0.7, 0.02)), (voc, (0.6, 1.0, None, 2.5e-3))):
        c = each.method
        assert (c.threshold, c.lambda_cps, c.ohem_threshold, c.optimizer.lr) == expected
    assert recipe.method.optimizer.name == "sgd"


def test_the_official_settings_differ_from_the_defaults_in_every_key() -> None:
    default, official = RrnConfig().model_dump(), RrnConfig.model_validate(OFFICIAL).model_dump()
    assert OFFICIAL
    assert all(official[key] != default[key] for key in OFFICIAL)


def test_a_single_changed_rate_keeps_the_other_settings_of_the_optimizers() -> None:
    config = load_recipe("rrn_voc", ["method.optimizer.lr=1e-3"]).method
    assert (config.optimizer.name, config.optimizer.decay) == ("sgd", "weights")
    assert (config.optimizer.weight_decay, config.optimizer.schedule) == (1e-4, "poly")
    assert (config.optimizer_d.name, config.optimizer_d.schedule) == ("adam", "constant")
