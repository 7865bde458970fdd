from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from zoo.errors import RecipeError
from zoo.train.blocks.losses import cross_entropy
from zoo.train.methods.eln.eln import OFFICIAL, Eln, ElnConfig

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoo.train.method import Batch, Progress

    Build = Callable[..., Eln]
    At = Callable[..., Progress]
    TrustAll = Callable[[Eln], Eln]

SEMI_TERMS = {"sup", "aux", "eln", "pseudo_s", "con_s", "pseudo", "con"}


def gradients(module: nn.Module) -> list[Tensor | None]:
    return [p.grad for p in module.parameters()]


def batch_norms(module: nn.Module) -> list[nn.BatchNorm2d]:
    return [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]


@pytest.mark.parametrize(
    ("phase", "terms"),
    [("pretrain", {"sup"}), ("localize", {"sup", "aux", "eln"}), ("semi", SEMI_TERMS)],
)
def test_each_phase_adds_its_terms(
    phase: str, terms: set[str], build_eln: Build, batch: Batch, at: At
) -> None:
    assert set(build_eln()(batch, at(phase))) == terms


def test_without_contrast_there_is_neither_its_term_nor_its_head(
    build_eln: Build, batch: Batch, at: At
) -> None:
    method = build_eln(contrast="none")
    assert set(method(batch, at("semi"))) == SEMI_TERMS - {"con", "con_s"}
    assert method.student.decoder.embed is None


@pytest.mark.parametrize("kind", ["s-ecn", "confidence"])
def test_only_a_learned_filter_has_auxiliary_decoders_and_losses(
    kind: str, build_eln: Build, batch: Batch, at: At
) -> None:
    method = build_eln(filter={"kind": kind})
    learned = kind != "confidence"
    assert len(method.auxiliary) == 2 * learned
    assert set(method(batch, at("localize"))) == ({"sup", "aux", "eln"} if learned else {"sup"})


def test_there_are_as_many_auxiliary_decoders_as_alphas(build_eln: Build, batch: Batch, at: At) -> None:
    assert len(build_eln(alphas=(20, 50, 100)).auxiliary) == 3
    alone = build_eln(alphas=())
    assert not alone.auxiliary
    assert alone(batch, at("localize"))["aux"].item() == 0


@pytest.mark.parametrize(("main_is", "open_gate"), [("smaller", True), ("equal", True), ("larger", False)])
def test_the_gate_of_an_auxiliary_decoder_is_open_from_alpha_on(
    main_is: str, open_gate: bool, build_eln: Build
) -> None:
    method = build_eln(alphas=(4,))
    logits, label = torch.randn(2, 3, 8, 8, requires_grad=True), torch.randint(3, (2, 8, 8))
    loss = cross_entropy(logits, label).detach()
    main = loss / 4  # exact: a power of two
    main = {"smaller": main.nextafter(main - 1), "equal": main, "larger": main.nextafter(main + 1)}[main_is]
    got = method.auxiliary_loss([logits], label, main)
    got.backward()
    assert got.item() == (loss.item() if open_gate else 0)
    assert logits.grad is not None
    assert bool(logits.grad.any()) is open_gate


def test_the_auxiliary_loss_is_the_sum_of_the_open_decoders(build_eln: Build) -> None:
    label = torch.randint(3, (1, 8, 8))
    inferior = [torch.randn(1, 3, 8, 8), torch.randn(1, 3, 8, 8)]
    first, second = (cross_entropy(each, label) for each in inferior)
    method = build_eln(alphas=(1, 1000))
    assert method.auxiliary_loss(inferior, label, first / 2).item() == pytest.approx(first.item())
    assert method.auxiliary_loss(inferior, label, second / 2000).item() == pytest.approx(
        (first + second).item()
    )


def test_the_auxiliary_loss_trains_the_auxiliary_decoders_only(
    build_eln: Build, batch: Batch, at: At
) -> None:
    method = build_eln(alphas=(0, 0))  # gates open
    method(batch, at("localize"))["aux"].backward()
    assert all(grad is not None and grad.any() for grad in gradients(method.auxiliary[0].segment))
    assert all(grad is not None for grad in gradients(method.auxiliary))
    assert all(grad is None for grad in gradients(method.student))
    assert all(grad is None for grad in gradients(method.filter))


def test_the_localization_loss_trains_the_localizer_only(build_eln: Build, batch: Batch, at: At) -> None:
    method = build_eln()
    method(batch, at("localize"))["eln"].backward()
    assert all(grad is not None for grad in gradients(method.filter))
    assert all(grad is None for part in (method.student, method.auxiliary) for grad in gradients(part))


def test_the_unlabeled_losses_train_the_student_only(
    build_eln: Build, trust_all: TrustAll, batch: Batch, at: At
) -> None:
    method = trust_all(build_eln())
    losses = method(batch, at("semi"))
    torch.stack([losses[name] for name in ("pseudo", "pseudo_s", "con", "con_s")]).sum().backward()
    assert all(grad is not None for grad in gradients(method.student))
    assert all(grad is None for part in (method.filter, method.auxiliary) for grad in gradients(part))


def test_the_weights_of_the_terms_are_factors(
    build_eln: Build, trust_all: TrustAll, batch: Batch, at: At
) -> None:
    losses = []
    for factor in (1, 3):
        torch.manual_seed(5)
        method = trust_all(build_eln(lambda_pseudo=factor, lambda_contrast=factor))
        losses.append(method(batch, at("semi")))
    for name in ("pseudo", "pseudo_s", "con", "con_s"):
        torch.testing.assert_close(losses[1][name], 3 * losses[0][name])


@pytest.mark.parametrize(("form", "weight"), [("official", 1.0), ("mean_pos", 0.1)])
def test_each_form_of_the_contrast_has_a_weight_of_its_own(
    form: str, weight: float, build_eln: Build, trust_all: TrustAll, batch: Batch, at: At
) -> None:
    losses = []
    for chosen in (None, weight):
        torch.manual_seed(5)
        method = trust_all(build_eln(contrast=form, lambda_contrast=chosen))
        losses.append(method(batch, at("semi")))
    assert losses[0]["con"] > 0
    assert torch.equal(losses[0]["con"], losses[1]["con"])


def test_a_semi_step_makes_no_more_passes_than_it_must(build_eln: Build, batch: Batch, at: At) -> None:
    method = build_eln()
    parts = {
        "student encoder": method.student.encoder,
        "student decoder": method.student.decoder,
        "teacher encoder": method.teacher.encoder,
        "auxiliary decoder": method.auxiliary[0],
        "localizer": method.filter.localizer,
    }
    passes = dict.fromkeys(parts, 0)

    def count(name: str) -> None:
        passes[name] += 1

    for name, part in parts.items():
        part.register_forward_hook(lambda *_, name=name: count(name))
    torch.stack(list(method(batch, at("semi")).values())).sum().backward()
    assert passes == {
        "student encoder": 3,  # labeled, strong, weak
        "student decoder": 3,
        "teacher encoder": 1,
        "auxiliary decoder": 1,
        "localizer": 2,  # all labeled predictions at once, the teacher's
    }


def test_the_official_settings_differ_from_the_defaults_in_every_key() -> None:
    default, official = ElnConfig().model_dump(), ElnConfig.model_validate(OFFICIAL).model_dump()
    for key, value in OFFICIAL.items():
        names = value if isinstance(value, dict) else [None]
        for name in names:
            got, was = (each[key] if name is None else each[key][name] for each in (official, default))
            assert got != was, (key, name)


def test_the_official_settings_freeze_the_scales_of_all_networks_but_the_localizer(build_eln: Build) -> None:
    method = build_eln(**OFFICIAL)
    frozen = [*batch_norms(method.student), *batch_norms(method.auxiliary)]
    assert frozen
    assert not any(p.requires_grad for m in frozen for p in m.parameters())
    assert all(p.requires_grad for m in batch_norms(method.filter) for p in m.parameters())


def test_phases_that_leave_nothing_for_self_training_are_refused(build_eln: Build) -> None:
    with pytest.raises(RecipeError, match=r"localize_steps is 5, expected less than the 5 steps"):
        build_eln().phases(5)


def test_a_few_steps_lower_the_loss(build_eln: Build, trust_all: TrustAll, batch: Batch, at: At) -> None:
    method = trust_all(build_eln(optimizer={"lr": 1e-2}))
    one_class = batch._replace(label_l=torch.ones_like(batch.label_l))
    (optimizer,) = method.optimizers()
    losses = []
    for step in range(16):
        total = torch.stack(list(method(one_class, at("semi", step)).values())).sum()
        losses.append(total.item())
        total.backward()
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(at("semi", step))
    assert max(losses[-2:]) < 0.8 * min(losses[:2])
