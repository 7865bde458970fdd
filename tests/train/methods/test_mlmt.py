from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
import torch

from zoo.errors import RecipeError
from zoo.train.method import Progress
from zoo.train.methods.mlmt import binary_cross_entropy, categorical_cross_entropy, cosine_distance
from zoo.train.recipe.read import load_recipe

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoo.train.method import Batch
    from zoo.train.methods.mlmt import Mlmt

CATEGORICAL = {"classification": "categorical"}


@pytest.fixture
def build_mlmt(build: Callable[..., Any]) -> Callable[..., Mlmt]:
    """Return a builder of tiny MLMTs in training mode; keyword arguments change the settings."""
    return lambda **changes: build("mlmt", **changes)


@pytest.fixture
def late() -> Progress:
    """Return the progress of a step with the whole weight of the consistency."""
    return Progress(50, 100, "train", 50)


def body_and_head(method: Mlmt, name: str) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    network = getattr(method, name)
    head = list(network.body.get_classifier().parameters())
    return [p for p in network.parameters() if not any(p is h for h in head)], head


def test_teacher_and_student_start_with_one_body_and_two_heads(build_mlmt: Callable[..., Mlmt]) -> None:
    method = build_mlmt()
    (body, head), (teacher_body, teacher_head) = (body_and_head(method, n) for n in ("student", "teacher"))
    assert all(torch.equal(a, b) for a, b in zip(body, teacher_body, strict=True))
    assert not torch.equal(head[0], teacher_head[0])
    assert not any(p.requires_grad for p in method.teacher.parameters())


def test_the_terms_are_the_codes_losses(
    build_mlmt: Callable[..., Mlmt], batch: Batch, late: Progress
) -> None:
    method = build_mlmt(lambda_cons=3.0).eval()  # so that repeated passes agree
    terms = method(batch, late)
    student, teacher = method.student(batch.strong), method.teacher(batch.image_u)
    torch.testing.assert_close(
        terms["cls"], binary_cross_entropy(method.student(batch.image_l), batch.tags_l)
    )
    torch.testing.assert_close(terms["cons"], 3 * cosine_distance(student, teacher))


def test_the_papers_classification_is_categorical(
    build_mlmt: Callable[..., Mlmt], batch: Batch, late: Progress
) -> None:
    method = build_mlmt(**CATEGORICAL).eval()
    expected = categorical_cross_entropy(method.student(batch.image_l), batch.tags_l)
    torch.testing.assert_close(method(batch, late)["cls"], expected)


def test_labels_do_not_matter_only_tags_do(
    build_mlmt: Callable[..., Mlmt], batch: Batch, late: Progress
) -> None:
    method = build_mlmt().eval()
    terms = method(batch, late)
    same = method(batch._replace(label_l=torch.zeros_like(batch.label_l)), late)
    other = method(batch._replace(tags_l=~batch.tags_l), late)
    assert terms == same
    assert terms["cls"] != other["cls"]
    assert terms["cons"] == other["cons"]


def test_only_the_student_gets_a_gradient(
    build_mlmt: Callable[..., Mlmt], batch: Batch, late: Progress
) -> None:
    method = build_mlmt()
    for term in ("cls", "cons"):
        method.zero_grad()
        method(batch, late)[term].backward()
        assert any(p.grad is not None and p.grad.any() for p in method.student.parameters()), term
        assert all(p.grad is None for p in method.teacher.parameters()), term


@pytest.mark.parametrize(
    ("step", "weight"),
    [(0, 0), (829, 0), (830, 0), (831, 1 / 4150), (2905, 0.5), (4980, 1), (4981, 1), (8299, 1)],
)
def test_the_consistency_waits_for_ten_epochs_and_rises_over_fifty(
    step: int, weight: float, build_mlmt: Callable[..., Mlmt]
) -> None:
    method = build_mlmt(burn_in_steps=830, ramp_steps=4150)
    assert method.consistency_weight(step) == pytest.approx(weight)


def test_the_papers_consistency_has_its_weight_from_the_start(build_mlmt: Callable[..., Mlmt]) -> None:
    method = build_mlmt(burn_in_steps=0, ramp_steps=0, lambda_cons=0.7)
    assert [method.consistency_weight(step) for step in (0, 1, 99)] == [0.7, 0.7, 0.7]


def test_the_teacher_is_the_mean_of_all_students_and_its_start(build_mlmt: Callable[..., Mlmt]) -> None:
    method = build_mlmt()
    head = method.student.body.get_classifier().weight
    seen = [method.teacher.body.get_classifier().weight.clone()]
    for step in range(5):
        with torch.no_grad():
            head.copy_(torch.randn_like(head))
        seen.append(head.detach().clone())
        method.after_step(Progress(step, 100, "train", step))
        torch.testing.assert_close(method.teacher.body.get_classifier().weight, torch.stack(seen).mean(dim=0))


@pytest.mark.parametrize(("step", "decay"), [(0, 0.5), (1, 2 / 3), (8, 0.9), (98, 0.9)])
def test_the_mean_turns_into_an_exponential_average(
    step: int, decay: float, build_mlmt: Callable[..., Mlmt]
) -> None:
    method = build_mlmt(ema_decay=0.9)
    with torch.no_grad():
        for teacher, student in zip(method.teacher.parameters(), method.student.parameters(), strict=True):
            teacher.fill_(1)
            student.fill_(0)
    method.after_step(Progress(step, 100, "train", step))
    assert next(method.teacher.parameters()).flatten()[0].item() == pytest.approx(decay)


def test_the_teachers_batch_norm_gathers_its_own_statistics_of_weak_views(
    build_mlmt: Callable[..., Mlmt], batch: Batch, late: Progress
) -> None:
    method = build_mlmt()
    expected = copy.deepcopy(method.teacher)
    method(batch, late)
    after_forward = copy.deepcopy(method.teacher)
    expected(batch.image_u)
    pairs = zip(method.teacher.buffers(), expected.buffers(), strict=True)
    assert all(torch.equal(got, want) for got, want in pairs)
    method.after_step(late)
    pairs = zip(method.teacher.buffers(), after_forward.buffers(), strict=True)
    assert all(torch.equal(got, want) for got, want in pairs)


def test_the_teacher_gates_unless_the_student_is_asked_for(
    build_mlmt: Callable[..., Mlmt], batch: Batch
) -> None:
    method = build_mlmt().eval()
    logits = {name: getattr(method, name)(batch.image_l) for name in ("teacher", "student")}
    assert torch.equal(method.deployable().eval()(batch.image_l), logits["teacher"])
    assert torch.equal(method.deployable("student").eval()(batch.image_l), logits["student"])
    assert not torch.equal(logits["teacher"], logits["student"])


@pytest.mark.parametrize(("settings", "activation"), [({}, "sigmoid"), (CATEGORICAL, "softmax")])
def test_the_deployed_classifier_has_the_probabilities_that_it_was_trained_with(
    settings: dict[str, Any], activation: str, build_mlmt: Callable[..., Mlmt]
) -> None:
    classifier = build_mlmt(**settings).deployable()
    logits = torch.randn(2, 3)
    assert classifier.config.activation == activation
    assert classifier.config.imgsz == (32, 32)
    expected = logits.softmax(dim=1) if activation == "softmax" else logits.sigmoid()
    assert torch.equal(classifier.prob(logits), expected)


def test_one_rate_falls_from_the_codes_start_to_its_end() -> None:
    optimizer = load_recipe("mlmt_voc_1-8").method.optimizer
    rates = (optimizer.lr, optimizer.lr * optimizer.floor)
    assert rates == pytest.approx((0.03, 1e-4))
    assert (optimizer.name, optimizer.nesterov, optimizer.momentum) == ("sgd", True, 0.9)
    assert (optimizer.weight_decay, optimizer.schedule) == (1e-5, "cosine")


def test_a_changed_rate_leaves_the_rest_of_the_optimizer() -> None:
    optimizer = load_recipe("mlmt", ["method.optimizer.lr=1e-3"]).method.optimizer
    assert (optimizer.lr, optimizer.name, optimizer.nesterov) == (1e-3, "sgd", True)


@pytest.mark.parametrize(("partition", "epoch"), [("1/8", 83), ("1/20", 34), ("1/50", 14)])
def test_the_recipes_of_voc_have_the_codes_hundred_epochs(partition: str, epoch: int) -> None:
    recipe = load_recipe(f"mlmt_voc_{partition.replace('/', '-')}")
    assert recipe.steps == 100 * epoch
    assert (recipe.method.burn_in_steps, recipe.method.ramp_steps) == (10 * epoch, 50 * epoch)
    assert (recipe.data.imgsz, recipe.data.batch_l, recipe.data.batch_u) == ((320, 320), 16, 80)
    assert recipe.data.partition == partition


@pytest.mark.parametrize("name", ["mlmt", "mlmt_shapes", "mlmt_voc_1-8"])
@pytest.mark.parametrize("steps", [6, 100])
def test_a_shortened_run_keeps_the_shares_of_burn_in_and_ramp(name: str, steps: int) -> None:
    whole, short = load_recipe(name), load_recipe(name, steps=steps)
    assert 1 <= short.method.burn_in_steps < steps
    share = whole.method.ramp_steps / whole.steps
    assert short.method.ramp_steps == pytest.approx(share * steps, abs=0.5)


def test_a_burn_in_as_long_as_the_run_is_refused(build_mlmt: Callable[..., Mlmt]) -> None:
    with pytest.raises(RecipeError, match=r"method\.burn_in_steps is 20, expected less than the 20 steps"):
        build_mlmt(burn_in_steps=20).phases(20)


def test_the_classifier_sees_the_size_of_the_training_images_or_its_own() -> None:
    recipe = load_recipe("mlmt", ["data.imgsz=[64, 96]"])
    assert recipe.for_classes(5).method.imgsz == (64, 96)
    own = load_recipe("mlmt", ["data.imgsz=[64, 96]", "method.imgsz=[32, 32]"])
    assert own.for_classes(5).method.imgsz == (32, 32)
