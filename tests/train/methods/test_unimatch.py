from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from zoo.classes import IGNORE
from zoo.models.config import NetworkConfig
from zoo.train.method import DRAW_RANGE, DRAWS
from zoo.train.methods.unimatch import UniMatchConfig, complementary_dropout, confident_cross_entropy
from zoo.train.recipe.read import load_recipe

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoo.train.method import Batch, Progress

    Build = Callable[..., Any]
    At = Callable[..., Progress]

STREAMS = {"strong": 2}

BOTH = pytest.mark.parametrize("name", ["fixmatch", "unimatch"])
CPU = torch.device("cpu")


def literal_loss(logits: Tensor, prob: Tensor, valid: Tensor, threshold: float) -> Tensor:
    """The loss of one strong view, pixel by pixel: -log p of the teacher's class where it is confident."""
    total, count = logits.new_zeros(()), 0
    for b in range(logits.shape[0]):
        for y in range(logits.shape[2]):
            for x in range(logits.shape[3]):
                if not valid[b, y, x]:
                    continue
                count += 1
                confidence, label = prob[b, :, y, x].max(dim=0)
                if confidence >= threshold:
                    total = total - logits[b, :, y, x].log_softmax(dim=0)[label]
    return total / count


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.8])
def test_the_unlabeled_loss_is_that_of_the_paper(threshold: float, assert_same: Callable[..., None]) -> None:
    logits = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    prob = (2 * torch.randn(2, 4, 5, 6, dtype=torch.float64)).softmax(dim=1)
    valid = torch.rand(2, 5, 6) > 0.3
    confidence, label = prob.max(dim=1)
    label = label.where((confidence >= threshold) & valid, IGNORE)
    assert_same(
        lambda value: confident_cross_entropy(value, label, valid),
        lambda value: literal_loss(value, prob, valid, threshold),
        logits,
    )


def test_without_a_confident_or_a_valid_pixel_the_loss_is_zero() -> None:
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    nowhere = torch.full((1, 4, 4), IGNORE)
    for valid in (torch.ones(1, 4, 4, dtype=torch.bool), torch.zeros(1, 4, 4, dtype=torch.bool)):
        loss = confident_cross_entropy(logits, nowhere, valid)
        assert loss.item() == 0
        assert torch.autograd.grad(loss, logits)[0].abs().sum() == 0


def test_each_channel_is_kept_in_one_of_the_two_views_at_twice_its_value() -> None:
    first, second = complementary_dropout(6, 400, CPU).chunk(2)
    dropped = (first != 1).any(dim=1)
    assert torch.equal(first + second, torch.full((6, 400), 2.0))
    assert set(first[dropped].unique().tolist()) == {0.0, 2.0}
    assert first[dropped].mean(dim=1).tolist() == pytest.approx([1.0] * 3, abs=0.3)


@pytest.mark.parametrize(("images", "whole"), [(1, 0), (2, 1), (5, 2), (8, 4)])
def test_half_of_the_images_keep_all_channels_in_both_views(images: int, whole: int) -> None:
    views = complementary_dropout(images, 64, CPU).chunk(2)
    for view in views:
        assert (view == 1).all(dim=1).sum() == whole
    assert torch.equal(*[(view == 1).all(dim=1) for view in views])
    kept = {tuple((complementary_dropout(8, 64, CPU)[:8] == 1).all(dim=1).tolist()) for _ in range(20)}
    assert len(kept) > 1


def seen_by_decoder(method: Any, run: Callable[[], object]) -> list[Tensor]:
    """Return the features that the student's decoder is first called with, those of strong views."""
    seen: list[list[Tensor]] = []
    hook = method.student.decoder.register_forward_hook(lambda module, args, output: seen.append(args[0]))  # noqa: ARG005
    run()
    hook.remove()
    assert len(seen) == 2  # then labeled images
    return seen[0]


@pytest.mark.parametrize("decoder", ["deeplabv3plus", "deeplabv2"])
def test_the_decoder_sees_half_of_the_channels_of_every_level_of_a_strong_view(
    decoder: str, build: Build, batch: Batch, at: At
) -> None:
    method = build("unimatch", cutmix_probability=0.0)
    method.student = type(method.student)(
        NetworkConfig(encoder="resnet10t", num_classes=3, decoder={"name": decoder})  # type: ignore[arg-type]
    )
    same = batch._replace(image_u_s=torch.cat([batch.image_u, batch.image_u]))
    whole: list[Tensor] = []
    method.student.encoder.register_forward_hook(lambda module, args, output: whole.extend(output))  # noqa: ARG005
    features = seen_by_decoder(method, lambda: method(same, at("train")))
    levels = len(features)
    assert len(whole) == 2 * levels > 2
    kept = []
    for level, original in zip(features, whole[:levels], strict=True):
        (first, second), (plain, _) = level.chunk(2), original.chunk(2)
        torch.testing.assert_close((first + second) / 2, plain)
        in_both = (first == plain).all(dim=(1, 2, 3))
        assert in_both.sum() == 1  # one of two images keeps all
        dropped = first[~in_both][0]
        is_zero, is_double = ((dropped == n * plain[~in_both][0]).all(dim=(1, 2)) for n in (0, 2))
        assert (is_zero | is_double).all()
        kept.append(is_double & ~is_zero)
    # one mask, cut to the channels of each level; channels that are zero anyway do not show it
    assert 0.2 < kept[-1].float().mean() < 0.8


def test_fixmatch_drops_no_channel(build: Build, make_batch: Callable[..., Batch], at: At) -> None:
    method = build("fixmatch")
    whole: list[Tensor] = []
    method.student.encoder.register_forward_hook(lambda module, args, output: whole.extend(output))  # noqa: ARG005
    features = seen_by_decoder(method, lambda: method(make_batch(), at("train")))
    assert all(torch.equal(*pair) for pair in zip(features, whole[: len(features)], strict=True))


def confident_teacher(method: Any, bias: list[float]) -> Any:
    """Return the method with a teacher that says the same of every pixel."""
    head = method.teacher.decoder.segment[-1]
    nn.init.zeros_(head.weight)
    with torch.no_grad():
        head.bias.copy_(torch.tensor(bias))
    return method


@BOTH
@pytest.mark.parametrize(("confidence", "learned"), [(0.94, False), (0.96, True)])
def test_below_the_threshold_nothing_is_learned(
    confidence: float, learned: bool, name: str, build: Build, make_batch: Callable[..., Batch], at: At
) -> None:
    # of three classes, the two others share what is left
    bias = float(torch.tensor(2 * confidence / (1 - confidence)).log())
    method = confident_teacher(build(name, threshold=0.95), [0.0, bias, 0.0])
    losses = method(make_batch(strong=method.strong_views), at("train"))
    assert (losses["u"].item() > 0) == learned
    losses["u"].backward()
    gradient = sum(p.grad.abs().sum() for p in method.student.parameters() if p.grad is not None)
    assert bool(gradient > 0) == learned
    assert all(p.grad is None for p in method.teacher.parameters())


@BOTH
def test_a_step_is_half_the_labeled_loss_and_half_the_mean_over_the_views(
    name: str, build: Build, make_batch: Callable[..., Batch], at: At, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = build(name, threshold=0.36, cutmix_probability=1.0).eval()  # no dropout of the decoder
    monkeypatch.setattr(type(method), "perturbed", lambda self, features: features)  # noqa: ARG005
    batch = make_batch(strong=method.strong_views)
    batch.valid_u[0, :8] = False
    losses = method(batch, at("train"))

    upsampled = nn.Upsample((32, 32), mode="bilinear", align_corners=True)
    prob = upsampled(method.teacher(batch.image_u).logits).softmax(dim=1)
    expected = []
    for number, view in enumerate(batch.strong.chunk(method.strong_views)):
        box = literal_box(batch.draws[:, 5 * number : 5 * number + 5], 32)
        image, valid, target = (take(value, box) for value in (view, batch.valid_u, prob))
        logits = upsampled(method.student(image).logits)
        expected.append(literal_loss(logits, target, valid, 0.36))
    torch.testing.assert_close(losses["u"], sum(expected) / len(expected) / 2)
    logits = upsampled(method.student(batch.image_l).logits)
    x = nn.functional.cross_entropy(logits, batch.label_l, ignore_index=IGNORE)
    torch.testing.assert_close(losses["x"], x / 2)


def take(value: Tensor, box: Tensor) -> Tensor:
    """Return each of two images or maps with the box of the other."""
    return torch.where(box if value.ndim == 3 else box.unsqueeze(1), value.flip(0), value)


def literal_box(draws: Tensor, side: int) -> Tensor:
    """Return the box of each image of a square size from its five numbers, whose chance is certain."""
    mask = torch.zeros(len(draws), side, side, dtype=torch.bool)
    for b, (_, part, shape, place_y, place_x) in enumerate(draws):
        share = 0.02 + 0.38 * part
        flattest, tallest = max(0.3, share), min(1 / 0.3, 1 / share)
        ratio = flattest + (tallest - flattest) * shape
        height, width = (
            round(float((share * ratio).sqrt() * side)),
            round(float((share / ratio).sqrt() * side)),
        )
        y, x = int(place_y * (side - height + 1)), int(place_x * (side - width + 1))
        mask[b, y : y + height, x : x + width] = True
    return mask


@BOTH
def test_each_view_has_boxes_of_its_own(
    name: str, build: Build, make_batch: Callable[..., Batch], at: At
) -> None:
    method = build(name, cutmix_probability=1.0)
    batch = make_batch(strong=method.strong_views)
    batch = batch._replace(draws_u=(torch.rand(2, DRAWS) * DRAW_RANGE).int())
    seen: list[Tensor] = []
    method.student.encoder.register_forward_pre_hook(lambda module, args: seen.append(args[0]))  # noqa: ARG005
    method(batch, at("train"))
    views = seen[0].chunk(method.strong_views)
    boxes = [
        (view != plain).any(dim=1)
        for view, plain in zip(views, batch.strong.chunk(method.strong_views), strict=True)
    ]
    assert all(box.any(dim=(1, 2)).all() for box in boxes)
    assert len(boxes) == method.strong_views
    assert all(not torch.equal(boxes[0], box) for box in boxes[1:])


@BOTH
def test_the_teacher_is_the_mean_of_all_students_until_its_decay_is_reached(
    name: str, build: Build, at: At
) -> None:
    method = build(name, ema_decay=0.75)
    student, teacher = (next(each.parameters()) for each in (method.student, method.teacher))
    seen = []
    with torch.no_grad():
        for step, value in enumerate((1.0, 2.0, 3.0, 8.0, 8.0)):
            student.fill_(value)
            method.after_step(at("train", step, step=step))
            seen.append(teacher.flatten()[0].item())
    assert seen == pytest.approx([1, 1.5, 2, 3.5, 0.75 * 3.5 + 0.25 * 8])


@BOTH
def test_the_teacher_averages_the_statistics_of_batch_norm_and_is_never_in_training_mode(
    name: str, build: Build, make_batch: Callable[..., Batch], at: At
) -> None:
    method = build(name)
    modes: list[bool] = []
    method.teacher.register_forward_hook(lambda module, args, output: modes.append(module.training))  # noqa: ARG005
    own, other = (
        next(each for each in network.modules() if isinstance(each, nn.BatchNorm2d)).running_mean
        for network in (method.teacher, method.student)
    )
    before = own.clone()
    method(make_batch(strong=method.strong_views), at("train"))
    assert torch.equal(own, before)
    assert not torch.equal(other, before)
    method.after_step(at("train", step=1))
    torch.testing.assert_close(own, (before + other) / 2)
    assert modes == [False]


@BOTH
def test_the_teacher_starts_as_the_student(name: str, build: Build, at: At) -> None:
    method = build(name)
    for parameter in method.student.parameters():
        nn.init.uniform_(parameter)
    method.start_phase(at("train"))
    pairs = zip(method.student.state_dict().values(), method.teacher.state_dict().values(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


def test_the_defaults_are_those_of_the_paper() -> None:
    config = UniMatchConfig()
    rates = config.optimizer
    assert (config.threshold, config.cutmix_probability, config.ema_decay) == (0.95, 0.5, 0.996)
    assert (rates.name, rates.lr * rates.encoder_lr_mult, rates.lr) == ("adamw", pytest.approx(5e-6), 2e-4)
    assert (rates.weight_decay, rates.betas, rates.schedule) == (0.01, (0.9, 0.999), "poly")


REPORTED = {  # partition, mIoU, labels only, steps
    "unimatch_voc_92": ("92", 86.3, 76.86, 39_300),
    "unimatch_voc_183": ("183", 87.9, 82.07, 39_000),
    "unimatch_voc_366": ("366", 88.9, 85.27, 38_280),
    "unimatch_voc_732": ("732", 90.0, 87.15, 36_900),
    "unimatch_voc_1464": ("1464", 90.8, 88.30, 34_200),
    "fixmatch_voc_183": ("183", 87.37, 82.07, 39_000),
    "fixmatch_voc_732": ("732", 89.88, 87.15, 36_900),
    "unimatch_cityscapes_1-16": ("1/16", 83.6, 80.79, 62_820),
    "unimatch_cityscapes_1-8": ("1/8", 84.3, 82.65, 58_500),
    "unimatch_cityscapes_1-4": ("1/4", 84.5, None, 50_220),
    "unimatch_cityscapes_1-2": ("1/2", 85.1, 84.39, 33_480),
    "unimatch_ade20k_316": ("316", 38.7, 32.06, 149_220),
    "unimatch_ade20k_631": ("631", 45.0, None, 146_820),
    "unimatch_ade20k_1263": ("1263", 46.7, 42.82, 142_080),
    "unimatch_ade20k_2526": ("2526", 49.8, 46.41, 132_600),
    "unimatch_coco_232": ("232", 47.9, None, 147_560),
    "unimatch_coco_463": ("463", 55.8, 45.77, 147_280),
    "unimatch_coco_925": ("925", 58.7, 52.13, 146_700),
    "unimatch_coco_1849": ("1849", 60.4, None, 145_540),
    "unimatch_coco_3697": ("3697", 63.3, 59.50, 143_240),
}
SETTINGS = {
    "voc": (518, 16, None),
    "cityscapes": (798, 8, 0.7),
    "ade20k": (518, 8, None),
    "coco": (518, 16, None),
}
"""Crop, batch and threshold of the hard pixels of each data set."""


@pytest.mark.parametrize("name", REPORTED)
def test_the_papers_rows_have_its_figures_partition_length_and_network(name: str) -> None:
    recipe = load_recipe(name)
    reported, data = recipe.reported, recipe.data
    assert reported is not None
    found = (data.partition, reported["miou"], reported.get("labels_only"), recipe.steps)
    assert found == REPORTED[name]
    side, batch, threshold = SETTINGS[name.split("_")[1]]
    assert (data.imgsz, data.batch_l, data.batch_u) == ((side, side), batch, batch)
    assert recipe.method.ohem_threshold == threshold
    assert recipe.network.encoder == "vit_base_patch14_dinov2.lvd142m"
    assert (recipe.network.decoder.name, recipe.network.decoder.decoder_channels) == ("dpt", 128)
    assert recipe.method.optimizer == UniMatchConfig().optimizer


@BOTH
def test_the_recipe_on_shapes_differs_from_the_baseline_in_its_method_and_strong_views(name: str) -> None:
    recipes = [load_recipe(f"{each}_shapes").model_dump() for each in (name, "supervised")]
    ours, baseline = (recipe | {"method": recipe["method"]["optimizer"]} for recipe in recipes)
    for recipe in (ours, baseline):
        del recipe["recipe"], recipe["score"], recipe["data"]["batch_u"], recipe["data"]["labeled_view"]
        augment = recipe["data"]["augment"]
        recipe["data"]["augment"] = {key: augment[key] for key in ("scale", "flip")}
    assert ours == baseline
