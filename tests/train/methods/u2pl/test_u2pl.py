from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from zoo.classes import IGNORE
from zoo.errors import RecipeError
from zoo.train.blocks.losses import cross_entropy, ohem_cross_entropy
from zoo.train.method import Batch, Progress, progress_at
from zoo.train.methods.table import build_method
from zoo.train.methods.u2pl.u2pl import OFFICIAL, TeacherOutput, U2pl, U2plConfig

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoo.models.config import NetworkConfig

    Build = Callable[..., U2pl]
    At = Callable[..., Progress]


@pytest.fixture
def build_u2pl(build: Callable[..., Any]) -> Build:
    """Return a builder of tiny methods in training mode; keyword arguments change the settings."""
    return partial(build, "u2pl")


def some_output(seed: int = 0) -> TeacherOutput:
    """Return teacher outputs for two labeled and two unlabeled 6 x 6 images of 3 classes."""
    generator = torch.Generator().manual_seed(seed)
    valid = torch.ones(2, 6, 6, dtype=torch.bool)
    valid[1, :, 4:] = False
    reliable = (torch.rand(2, 6, 6, generator=generator) < 0.7) & valid
    label = torch.randint(3, (2, 6, 6), generator=generator)
    prob = torch.rand(4, 3, 6, 6, generator=generator)
    return TeacherOutput(
        torch.empty(4, 3, 6, 6), prob, torch.empty(4, 8, 6, 6), label, valid, ~reliable, reliable
    )


def test_a_run_starts_with_labels_alone(build_u2pl: Build, batch: Batch, at: At) -> None:
    method = build_u2pl()
    first, second = method.phases(20)
    assert (first.name, first.steps, first.unlabeled) == ("sup", 2, 0)
    assert (second.name, second.steps, second.unlabeled, second.strong) == ("semi", 18, 1, 0)
    assert set(method(Batch(*batch[:3]), at("sup"))) == {"s"}


def test_without_a_warm_start_there_is_one_phase(build_u2pl: Build) -> None:
    assert [phase.name for phase in build_u2pl(warm_start_steps=0).phases(5)] == ["semi"]


def test_a_warm_start_as_long_as_the_run_is_an_error(build_u2pl: Build) -> None:
    with pytest.raises(RecipeError, match=r"warm_start_steps is 5, expected less than the 5 steps"):
        build_u2pl(warm_start_steps=5).phases(5)


@pytest.mark.parametrize(
    ("start", "step", "expected"),
    [("semi", 40, 0.2), ("semi", 55, 0.15), ("semi", 70, 0.1), ("start", 40, 0.12), ("start", 99, 0.002)],
)
def test_the_share_of_unreliable_pixels_falls_to_zero_from_the_start_of_self_training_or_of_the_run(
    start: str, step: int, expected: float, build_u2pl: Build
) -> None:
    progress = progress_at(step, build_u2pl(warm_start_steps=40).phases(100))
    assert build_u2pl(alpha_from=start).alpha(progress) == pytest.approx(expected)
    assert build_u2pl(dynamic_partition=False).alpha(progress) == 0.2


def literal_unsupervised(logits: Tensor, output: TeacherOutput, eta: float, over: str = "valid") -> Tensor:
    """Eq. (3) with Eq. (8), one pixel at a time, padding left out of the loss, by setting of its weight."""
    total, kept, pixels = logits.new_zeros(()), 0, 0
    for b, y, x in torch.cartesian_prod(*map(torch.arange, output.label.shape)).tolist():
        pixels += int(output.valid[b, y, x]) if over == "valid" else 1
        if output.reliable[b, y, x]:
            scores = logits[b, :, y, x]
            total = total - (scores[output.label[b, y, x]] - scores.exp().sum().log())
            kept += 1
    return eta * (pixels / kept) * total / kept


@pytest.mark.parametrize(
    ("settings", "over"),
    [({"eta": 1.0}, "valid"), ({"eta": 0.5}, "valid"), ({"weight_over": "all"}, "all"), (OFFICIAL, "all")],
)
def test_the_loss_on_pseudo_labels_equals_its_formula(
    settings: dict[str, Any], over: str, build_u2pl: Build, assert_same: Callable[..., None]
) -> None:
    method, output = build_u2pl(**settings), some_output()
    logits = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    fast = partial(method.unsupervised, output=output)
    eta = settings.get("eta", 1.0)
    assert_same(fast, partial(literal_unsupervised, output=output, eta=eta, over=over), logits)


def test_without_a_reliable_pixel_the_loss_is_a_zero_with_a_gradient(build_u2pl: Build) -> None:
    output = some_output()
    logits = torch.randn(2, 3, 6, 6, requires_grad=True)
    loss = build_u2pl().unsupervised(logits, output._replace(reliable=torch.zeros_like(output.reliable)))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize(
    ("settings", "labels", "negatives"),
    [
        ({}, "reliable", "unreliable"),
        ({"negatives": "reliable"}, "reliable", "lowest"),
        ({"negatives": "all", "anchors": "lowest"}, "lowest", "valid"),
    ],
)
def test_anchors_and_negatives_are_chosen_by_entropy(
    settings: dict[str, str], labels: str, negatives: str, build_u2pl: Build
) -> None:
    output = some_output()
    output = output._replace(lowest=output.lowest & output.valid)
    masks = output._asdict() | {"unreliable": output.valid & ~output.reliable}
    label_l = torch.randint(3, (2, 6, 6))
    taught = build_u2pl(contrast=settings).taught(label_l, output)
    assert torch.equal(taught.label[:2], label_l)
    assert torch.equal(taught.label[2:], output.label.where(masks[labels], IGNORE))
    assert torch.equal(taught.uncertain, masks[negatives])
    assert not (taught.uncertain & ~output.valid).any()


def test_gradients_reach_the_student_by_every_term_and_never_the_teacher(
    build_u2pl: Build, batch: Batch, at: At
) -> None:
    for term in ("s", "u", "c"):
        method = build_u2pl()
        method(batch, at("semi"))[term].backward()
        assert all(parameter.grad is None for parameter in method.teacher.parameters())
        reached = [p.grad is not None and bool(p.grad.any()) for p in method.student.encoder.parameters()]
        assert any(reached), term
        embed = next(method.student.decoder.embed.parameters()).grad
        assert (embed is not None and bool(embed.any())) == (term == "c")


@pytest.mark.parametrize("num_classes", [2, 3, 30])
def test_any_number_of_classes_has_negatives_and_a_contrastive_loss(
    num_classes: int, tiny_network: NetworkConfig, batch: Batch, at: At
) -> None:
    contrast = {"embedding_channels": 8, "bank_sizes": (40, 30), "anchor_threshold": 0.0}
    config = U2plConfig.model_validate({"contrast": contrast})
    network = tiny_network.model_copy(update={"num_classes": num_classes})
    method = build_method(config, network, pretrained=False).train()
    batch = batch._replace(label_l=torch.randint(num_classes, (2, 32, 32)))
    assert method(batch, at("semi"))["c"] > 0.01
    assert (method.contrast.bank.count > 0).sum() >= min(num_classes, 3) - 1


def test_the_supervised_loss_counts_hard_pixels_and_the_auxiliary_head(
    build_u2pl: Build, batch: Batch, at: At
) -> None:
    method = build_u2pl(ohem_threshold=0.3, ohem_min_kept=50, auxiliary_weight=0.4).eval()
    maps, _ = method.predict(batch.image_l)
    resized = [
        nn.functional.interpolate(each, size=(32, 32), mode="bilinear", align_corners=True) for each in maps
    ]
    main, auxiliary = (ohem_cross_entropy(each, batch.label_l, 0.3, 50) for each in resized)
    got = method(batch, at("sup"))["s"]
    torch.testing.assert_close(got, main + 0.4 * auxiliary)
    assert (main - cross_entropy(resized[0], batch.label_l)).abs() > 1e-4


def test_padding_and_void_have_no_loss_and_are_neither_anchors_nor_negatives(
    build_u2pl: Build, batch: Batch, at: At
) -> None:
    assert batch.valid_u is not None
    batch.valid_u[:] = False
    method = build_u2pl(contrast={"negatives": "all"})
    terms = method(batch._replace(label_l=torch.full_like(batch.label_l, IGNORE)), at("semi"))
    assert [term.item() for term in terms.values()] == [0, 0, 0]
    assert not method.contrast.bank.count.any()


def test_a_broken_step_leaves_the_queues_whole(build_u2pl: Build, batch: Batch, at: At) -> None:
    method = build_u2pl()
    broken = batch._replace(image_l=batch.image_l * torch.nan)
    assert not method(broken, at("semi"))["s"].isfinite()
    assert method.contrast.bank.keys.isfinite().all()


def test_under_autocast_all_terms_are_finite_and_single_precision(
    build_u2pl: Build, batch: Batch, at: At
) -> None:
    method = build_u2pl()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = method(batch, at("semi"))
    assert {term.dtype for term in terms.values()} == {torch.float32}
    assert all(term.isfinite() for term in terms.values())


def test_processes_do_not_send_their_queues_around(build_u2pl: Build) -> None:
    method = build_u2pl()
    ignored = set(method._ddp_params_and_buffers_to_ignore)
    assert ignored == {f"contrast.bank.{name}" for name in ("keys", "count", "pointer", "capacity", "start")}
    assert ignored <= {name for name, _ in method.named_buffers()}


def test_a_setting_of_the_optimizer_leaves_its_others_those_of_u2pl() -> None:
    optimizer = U2plConfig.model_validate({"optimizer": {"lr": 0.1}}).optimizer
    assert (optimizer.name, optimizer.lr, optimizer.schedule) == ("sgd", 0.1, "poly")
