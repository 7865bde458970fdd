from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from zoo.catalog import recipe_names
from zoo.classes import IGNORE
from zoo.errors import RecipeError
from zoo.models.decoders.decoder import resize_logits
from zoo.train.blocks.losses import cross_entropy
from zoo.train.method import Batch, Progress, progress_at
from zoo.train.methods.s4gan import OFFICIAL, S4Gan, S4GanConfig
from zoo.train.recipe.read import load_recipe

if TYPE_CHECKING:
    from collections.abc import Callable

    Build = Callable[..., S4Gan]

STREAMS = {"labeled": 2, "strong": 0}

STILL = {"dropout": 0.0}
NOW = Progress(10, 100, "train", 10)


@pytest.fixture
def build_s4gan(build: Callable[..., Any]) -> Build:
    return partial(build, "s4gan")


def with_score(method: S4Gan, score: float) -> S4Gan:
    """Make the discriminator give every image this logit."""
    nn.init.zeros_(method.discriminator.head.weight)
    nn.init.constant_(method.discriminator.head.bias, score)
    return method


def gradients(module: nn.Module) -> list[Tensor | None]:
    return [p.grad for p in module.parameters()]


def total(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(losses.values())).sum()


def test_the_terms_are_those_of_the_formula_step_by_step(build_s4gan: Build, batch: Batch) -> None:
    method = with_score(build_s4gan(), 1.0).eval()
    with torch.no_grad():
        losses = method(batch, NOW)
        (image_l, image_r), (label_l, label_r) = batch.image_l.chunk(2), batch.label_l.chunk(2)
        logits_l, logits_u = (
            resize_logits(method.student(image).logits, (32, 32)) for image in (image_l, batch.weak[0])
        )
        std, mean = torch.tensor([0.229, 0.224, 0.225]), torch.tensor([0.485, 0.456, 0.406])
        inputs = []
        for scores, image in ((None, image_r), (logits_u.softmax(dim=1), batch.weak[0])):
            if scores is None:
                scores = torch.stack([label_r == k for k in range(3)], dim=1).float()
            inputs.append(torch.cat([scores, image * std.view(3, 1, 1) + mean.view(3, 1, 1)], dim=1))
        features_r, features_f = (method.discriminator.body(each).mean(dim=(2, 3)) for each in inputs)
    expected = {
        "ce": cross_entropy(logits_l, label_l),
        "fm": 0.1 * (features_r.mean(dim=0) - features_f.mean(dim=0)).abs().mean(),
        "st": cross_entropy(logits_u, logits_u.argmax(dim=1)),
        "d": (torch.tensor(1.0).sigmoid().log() + (1 - torch.tensor(1.0).sigmoid()).log()) / -2,
    }
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value)


def test_one_backward_gives_the_very_gradients_of_one_for_each_player(
    build_s4gan: Build, batch: Batch
) -> None:
    got = []
    for names in (("ce", "fm", "st", "d"), ("ce", "fm", "st"), ("d",)):
        torch.manual_seed(3)
        method = with_score(build_s4gan(), 1.0)
        losses = method(batch, NOW)
        torch.stack([losses[name] for name in names]).sum().backward()
        got.append(method)
    together, generator, discriminator = got
    for part, alone in (("student", generator), ("discriminator", discriminator)):
        pairs = zip(gradients(getattr(together, part)), gradients(getattr(alone, part)), strict=True)
        assert all(one is not None and torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("loss", ["fm", "sgan"])
def test_the_generators_terms_leave_the_discriminator_alone(
    loss: str, build_s4gan: Build, batch: Batch
) -> None:
    method = with_score(build_s4gan(loss=loss), 1.0)
    losses = method(batch, NOW)
    total({name: term for name, term in losses.items() if name != "d"}).backward()
    assert all(grad is None for grad in gradients(method.discriminator))
    assert all(grad is not None for grad in gradients(method.student))


def test_the_discriminators_term_leaves_the_student_alone(build_s4gan: Build, batch: Batch) -> None:
    method = build_s4gan()
    method(batch, NOW)["d"].backward()
    assert all(grad is None for grad in gradients(method.student))
    assert all(grad is not None for grad in gradients(method.discriminator))


@pytest.mark.parametrize("name", ["fm", "adv"])
def test_the_discriminator_teaches_the_student(name: str, build_s4gan: Build, batch: Batch) -> None:
    method = build_s4gan(loss="fm" if name == "fm" else "sgan")
    method(batch, NOW)[name].backward()
    assert any(grad is not None and grad.any() for grad in gradients(method.student.decoder))


@pytest.mark.parametrize(("score", "trains"), [(0.0, False), (0.41, True)])
def test_only_images_whose_score_passes_the_threshold_train_the_student(
    score: float, trains: bool, build_s4gan: Build, batch: Batch
) -> None:
    method = with_score(build_s4gan(threshold=0.6), score)  # sigmoid(0.41) = 0.601
    loss = method(batch, NOW)["st"]
    loss.backward()
    assert (loss.item() > 0) is trains
    assert all(grad is not None for grad in gradients(method.student))
    assert any(bool(grad.any()) for grad in gradients(method.student) if grad is not None) is trains


def test_a_score_of_just_the_threshold_is_not_enough(build_s4gan: Build, batch: Batch) -> None:
    assert with_score(build_s4gan(threshold=0.5), 0.0)(batch, NOW)["st"].item() == 0


def test_the_first_step_of_a_run_has_no_self_training(build_s4gan: Build, batch: Batch) -> None:
    method = with_score(build_s4gan(), 5.0)
    assert method(batch, Progress(0, 100, "train", 0))["st"].item() == 0
    assert method(batch, Progress(1, 100, "train", 1))["st"].item() > 0


def test_self_training_waits_for_its_phase(build_s4gan: Build, batch: Batch) -> None:
    method = with_score(build_s4gan(adversarial_steps=3), 5.0)
    phases = method.phases(10)
    assert [(phase.name, phase.steps, phase.labeled) for phase in phases] == [
        ("adversarial", 3, 2),
        ("train", 7, 2),
    ]
    assert set(method(batch, progress_at(2, phases))) == {"ce", "fm", "d"}
    assert method(batch, progress_at(3, phases))["st"] > 0
    assert [phase.name for phase in build_s4gan().phases(10)] == ["train"]
    with pytest.raises(RecipeError, match="adversarial_steps is 3, expected less than the 3 steps"):
        method.phases(3)


@pytest.mark.parametrize(("dropout", "kinds"), [(True, {False, True}), (False, {False})])
def test_dropout_of_the_discriminator_selects_by_setting_alone(
    dropout: bool, kinds: set[bool], build_s4gan: Build, batch: Batch
) -> None:
    method = build_s4gan(selection_dropout=dropout)
    method.discriminator.requires_grad_(False)
    nn.init.normal_(method.discriminator.head.weight, std=100.0)
    pairs, valid = torch.rand(2, 6, 32, 32), batch.weak[1]
    with torch.no_grad():
        method.discriminator.head.bias.zero_()
        method.discriminator.eval()
        method.discriminator.head.bias.sub_(method.discriminator(pairs, valid).score.max() + 0.5)
        method.train()
        chosen = {
            bool(method.fooled(method.discriminator(pairs, valid).score, pairs, valid).any())
            for _ in range(30)
        }
    assert chosen == kinds
    assert all(module.training for module in method.discriminator.modules())


def test_short_runs_wait_with_self_training_and_have_no_dropout_in_the_discriminator() -> None:
    for name in (each for each in recipe_names() if each.startswith("s4gan")):
        method = load_recipe(name).method
        is_paper = name not in ("s4gan", "s4gan_shapes")
        assert (method.adversarial_steps == 0) == is_paper
        assert method.selection_dropout == is_paper
        assert method.discriminator.dropout == (0.5 if is_paper else 0.0)


def test_padded_pixels_take_no_part_in_self_training(build_s4gan: Build, batch: Batch) -> None:
    half = torch.ones(2, 32, 32, dtype=torch.bool)
    half[:, :, 16:] = False
    method = with_score(build_s4gan(discriminator=STILL), 5.0).eval()
    logits = resize_logits(method.student(batch.weak[0]).logits, (32, 32))
    expected = cross_entropy(logits, logits.argmax(dim=1).where(half, IGNORE))
    torch.testing.assert_close(method(batch._replace(valid_u=half), NOW)["st"], expected)


def test_real_pairs_come_from_the_second_labeled_stream(build_s4gan: Build, batch: Batch) -> None:
    losses = []
    for changed in (
        batch,
        batch._replace(label_l=torch.cat([batch.label_l[:2], (batch.label_l[2:] + 1) % 3])),
    ):
        torch.manual_seed(0)
        losses.append(build_s4gan(discriminator=STILL)(changed, NOW))
    assert torch.equal(losses[0]["ce"], losses[1]["ce"])
    assert not torch.equal(losses[0]["d"], losses[1]["d"])
    assert not torch.equal(losses[0]["fm"], losses[1]["fm"])


def test_each_phase_asks_for_a_second_labeled_stream(build_s4gan: Build) -> None:
    assert [phase.labeled for phase in build_s4gan(adversarial_steps=2).phases(5)] == [2, 2]


def test_the_weights_of_the_terms_are_factors(build_s4gan: Build, batch: Batch) -> None:
    losses = []
    for factor in (1, 3):
        torch.manual_seed(5)
        method = with_score(build_s4gan(lambda_fm=factor, lambda_st=factor), 1.0)
        losses.append(method(batch, NOW))
    for name in ("fm", "st"):
        torch.testing.assert_close(losses[1][name], 3 * losses[0][name])
    for name in ("ce", "d"):
        assert torch.equal(losses[1][name], losses[0][name])


def test_a_step_makes_no_more_passes_than_it_must(build_s4gan: Build, batch: Batch) -> None:
    method = build_s4gan()
    passes = {"student": 0, "discriminator": 0}

    def count(name: str) -> None:
        passes[name] += 1

    for name in passes:
        getattr(method, name).register_forward_hook(lambda *_, name=name: count(name))
    total(method(batch, NOW)).backward()
    assert passes == {"student": 2, "discriminator": 3}  # frozen on fake and on real, then trained on both


def test_the_scales_of_the_student_can_be_frozen(build_s4gan: Build) -> None:
    method = build_s4gan(train_bn_affine=False)
    norms = [m for m in method.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert not any(p.requires_grad for m in norms for p in m.parameters())
    assert all(p.requires_grad for p in method.discriminator.parameters())


def test_a_single_changed_rate_keeps_the_other_settings_of_the_optimizers() -> None:
    config = load_recipe("s4gan_voc", ["method.optimizer.lr=1e-3", "method.optimizer_d.lr=1e-5"]).method
    assert (config.optimizer.name, config.optimizer.weight_decay, config.optimizer.schedule) == (
        "sgd",
        5e-4,
        "poly",
    )
    assert (config.optimizer_d.name, config.optimizer_d.betas) == ("adam", (0.9, 0.99))
    assert config.optimizer_d.schedule == "poly"


REPORTED = {  # methods.md, D8: s4GAN, s4GAN + MLMT, labels only
    "s4gan_voc_1-50": (58.1, 60.4, 48.3),
    "s4gan_voc_1-20": (60.9, 62.9, 56.8),
    "s4gan_voc_1-8": (65.4, 67.3, 62.0),
    "s4gan_voc_v3plus_1-50": (None, 62.6, None),
    "s4gan_voc_v3plus_1-20": (None, 66.6, None),
    "s4gan_voc_v3plus_1-8": (None, 70.4, 63.5),
    "s4gan_cityscapes_1-8": (59.3, None, 56.2),
    "s4gan_cityscapes_1-4": (61.9, None, 60.2),
    "s4gan_context_1-8": (34.4, 35.3, 32.1),
    "s4gan_context_1-4": (37.1, 37.8, 35.4),
}


def test_the_reported_figures_are_those_of_the_paper_and_of_its_rows_alone() -> None:
    recipes = {name: load_recipe(name) for name in recipe_names() if name.startswith("s4gan")}
    figures = {
        name: recipe.reported
        for name, recipe in recipes.items()
        if {"miou", "with_mlmt"} & set(recipe.reported or ())
    }
    keys = ("miou", "with_mlmt", "labels_only")
    assert {name: tuple(each.get(key) for key in keys) for name, each in figures.items()} == REPORTED
    for name in REPORTED:
        assert recipes[name].data.partition == name.rpartition("_")[2].replace("-", "/")
        assert recipes[name].network.encoder.startswith("resnet101")


@pytest.mark.parametrize(
    ("name", "rates", "official_rates", "frozen"),
    [
        ("s4gan_voc_1-8", (6, 12, 18, 24), (6, 12), True),
        ("s4gan_cityscapes_1-8", (6, 12, 18, 24), (6, 12), True),
        ("s4gan_voc_v3plus_1-8", (6, 12, 18), (6, 12, 18), False),
    ],
)
def test_the_authors_settings_use_two_dilations_of_deeplabv2(
    name: str, rates: tuple[int, ...], official_rates: tuple[int, ...], frozen: bool
) -> None:
    default, official = load_recipe(name), load_recipe(name, ["preset=official"])
    assert (default.network.decoder.rates, official.network.decoder.rates) == (rates, official_rates)
    assert default.method.train_bn_affine is not frozen
    assert official.method.optimizer.encoder_lr_mult == pytest.approx(0.3)


def test_the_official_settings_differ_from_the_defaults() -> None:
    default, official = S4GanConfig(), S4GanConfig.model_validate(OFFICIAL)
    assert (default.image_norm, official.image_norm) == ("fixed", "batch_minmax")
    assert official.optimizer.encoder_lr_mult == pytest.approx(3 * default.optimizer.encoder_lr_mult)


def test_only_whole_images_are_judged() -> None:
    with pytest.raises(ValueError, match="level"):
        S4GanConfig.model_validate({"discriminator": {"level": "patch"}})
