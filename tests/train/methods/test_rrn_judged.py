from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from zoo.classes import IGNORE
from zoo.models.discriminator import pair
from zoo.train.blocks.adversarial import score_without_dropout, unit_range
from zoo.train.blocks.losses import cross_entropy
from zoo.train.blocks.mixing import toggled_boxes

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoo.train.method import Batch, Progress
    from zoo.train.methods.rrn import Rrn

    Build = Callable[..., Rrn]
    At = Callable[..., Progress]

STREAMS = {"unlabeled": 2, "strong": 0}

CPS = {"sup_1", "sup_2", "cps_1", "cps_2"}
GAME = {"fm_1", "fm_2", "d_1", "d_2"}
STILL = {"dropout": 0.0}


def with_scores(method: Rrn, *scores: float) -> Rrn:
    """Make each discriminator give every region the same logit."""
    for discriminator, score in zip(method.discriminators, scores, strict=True):
        nn.init.zeros_(discriminator.head.weight)
        nn.init.constant_(discriminator.head.bias, score)
    return method


def gradients(module: nn.Module) -> list[Tensor | None]:
    return [p.grad for p in module.parameters()]


def summed(losses: dict[str, Tensor], *starts: str) -> Tensor:
    return torch.stack([term for name, term in losses.items() if name.startswith(starts)]).sum()


def seeded(method: Rrn, batch: Batch, progress: Progress) -> dict[str, Tensor]:
    """Return the losses under a mask of boxes that is always the same."""
    torch.manual_seed(7)
    return method(batch, progress)


def test_swapping_the_branches_swaps_the_losses(build_rrn: Build, batch: Batch, at: At) -> None:
    method = build_rrn(discriminator=STILL).eval()
    before = seeded(method, batch, at("full"))
    method.branch_1, method.branch_2 = method.branch_2, method.branch_1
    method.discriminators = nn.ModuleList(reversed(method.discriminators))
    after = seeded(method, batch, at("full"))
    for name, value in before.items():
        swapped = name.translate(str.maketrans("12", "21"))
        torch.testing.assert_close(after[swapped], value)
    assert before["cps_1"] != before["cps_2"]


def test_no_weight_on_the_discriminators_terms_leaves_cps_with_cutmix(
    build_rrn: Build, batch: Batch, at: At
) -> None:
    methods = []
    for settings in ({"lambda_st": 0, "lambda_fm": 0}, {"self_training": "none"}):
        torch.manual_seed(0)
        methods.append(build_rrn(**settings))
    rrn, cps = methods
    cps.load_state_dict({k: v for k, v in rrn.state_dict().items() if k.startswith("branch")})
    losses = [seeded(method, batch, at("full")) for method in methods]
    assert all(torch.equal(losses[0][name], value) for name, value in losses[1].items())
    for its in losses:
        torch.stack(list(its.values())).sum().backward()
    for one, other in zip(rrn.branches, cps.branches, strict=True):
        pairs = zip(gradients(one), gradients(other), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs if a is not None and b is not None)


def test_one_backward_gives_the_very_gradients_of_one_for_each_player(
    build_rrn: Build, batch: Batch, at: At
) -> None:
    got = []
    for starts in (("sup", "cps", "fm", "st", "d"), ("sup", "cps", "fm", "st"), ("d",)):
        torch.manual_seed(3)
        method = with_scores(build_rrn(), 1.0, 1.0)
        summed(method(batch, at("full")), *starts).backward()
        got.append(method)
    together, generator, discriminator = got
    for part, alone in (("branch_1", generator), ("branch_2", generator), ("discriminators", discriminator)):
        pairs = zip(gradients(getattr(together, part)), gradients(getattr(alone, part)), strict=True)
        assert all(one is not None and torch.equal(one, other) for one, other in pairs)


def test_each_term_trains_its_own_networks_only(build_rrn: Build, batch: Batch, at: At) -> None:
    trains = dict.fromkeys(("sup", "cps", "fm", "st"), "branch_1") | {"d": "discriminators.0"}
    parts = ("branch_1", "branch_2", "discriminators.0", "discriminators.1")
    for name, owner in trains.items():
        method = with_scores(build_rrn(), 1.0, 1.0)
        method(batch, at("full"))[f"{name}_1"].backward()
        for part in parts:
            got = gradients(method.get_submodule(part))
            assert all((grad is not None) is (part == owner) for grad in got), (name, part)
            if part == owner and name not in ("fm", "d"):
                assert any(bool(grad.any()) for grad in got if grad is not None)


@pytest.mark.parametrize(
    ("self_training", "scores", "weights"),
    [
        ("drlc", (5.0, 5.0), (2, 2)),
        ("drlc", (5.0, -5.0), (1, 1)),
        ("drlc", (-5.0, -5.0), (0, 0)),
        ("lplf", (5.0, 5.0), (1, 1)),
        ("lplf", (5.0, -5.0), (1, 0)),
    ],
)
def test_a_pixel_weighs_as_much_as_the_discriminators_it_fools(
    self_training: str,
    scores: tuple[float, float],
    weights: tuple[int, int],
    build_rrn: Build,
    batch: Batch,
    at: At,
) -> None:
    method = with_scores(build_rrn(self_training=self_training, discriminator=STILL), *scores)
    losses = seeded(method, batch, at("full"))
    torch.manual_seed(7)
    _, _, logits, _ = method.mixed(batch)
    for b, weight in enumerate(weights):
        plain = cross_entropy(logits[b], logits[b].argmax(dim=1))
        torch.testing.assert_close(losses[f"st_{b + 1}"], weight * plain)


def test_the_regions_that_fool_weigh_nothing_one_or_two(
    build_rrn: Build, batch: Batch, monkeypatch: Any, at: At
) -> None:
    seen = []

    def spy(logits: Tensor, regions: Tensor, *_: object) -> Tensor:
        seen.append(regions.sum(dim=0))
        return logits.sum()

    monkeypatch.setattr("zoo.train.methods.rrn.region_loss", spy)
    method = build_rrn(threshold=0.5)
    for discriminator in method.discriminators:
        nn.init.normal_(discriminator.head.weight, std=20.0)
    for _ in range(10):
        method(batch, at("full"))
    assert torch.stack(seen).unique().tolist() == [0, 1, 2]


@pytest.mark.parametrize(("dropout", "kinds"), [(True, {False, True}), (False, {False})])
def test_dropout_of_the_discriminators_selects_by_setting_alone(
    dropout: bool, kinds: set[bool], build_rrn: Build, batch: Batch, at: At
) -> None:
    method = build_rrn(selection_dropout=dropout, threshold=0.5)
    image, valid, logits, _ = method.mixed(batch)
    fake = pair(logits[0].softmax(dim=1), unit_range(image, "fixed", method.branch_1.encoder, valid), valid)
    for judge in method.discriminators:
        nn.init.normal_(judge.head.weight, std=100.0)
        with torch.no_grad():
            judge.head.bias.sub_(score_without_dropout(judge, fake, valid).max() + 0.5)
    judge, selected = method.discriminators[0], set()
    for _ in range(30):
        score = method.selecting_score(judge, judge(fake, valid).score, fake, valid)
        selected.add(bool(method.fooled(score, valid).any()))
    assert selected == kinds
    assert all(module.training for module in judge.modules())
    assert "st_1" in method(batch, at("full"))


def test_padded_pixels_take_no_part_in_the_unlabeled_terms(build_rrn: Build, batch: Batch, at: At) -> None:
    method = with_scores(build_rrn(discriminator=STILL), 5.0, 5.0).eval()
    half = torch.ones(4, 32, 32, dtype=torch.bool)
    half[:2, :, 20:] = False  # of the first stream
    padded = batch._replace(valid_u=half)
    losses = seeded(method, padded, at("full"))
    torch.manual_seed(7)
    _, valid, logits, pseudo_label = method.mixed(padded)
    mask = toggled_boxes(batch.draws.chunk(2)[0], (32, 32))
    assert torch.equal(valid, half[:2] | mask)  # the second stream has no padding
    known = pseudo_label[1].where(valid, IGNORE)
    torch.testing.assert_close(losses["cps_1"], cross_entropy(logits[0], known))
    own = logits[0].argmax(dim=1).where(valid, IGNORE)
    torch.testing.assert_close(losses["st_1"], 2 * cross_entropy(logits[0], own))


def test_the_weights_of_the_terms_are_factors(build_rrn: Build, batch: Batch, at: At) -> None:
    losses = []
    for factor in (1, 3):
        torch.manual_seed(5)
        method = build_rrn(lambda_cps=factor, lambda_st=factor, lambda_fm=factor, discriminator=STILL)
        losses.append(seeded(with_scores(method, 1.0, 1.0), batch, at("full")))
    for name, value in losses[0].items():
        factor = 3 if name.startswith(("cps", "st", "fm")) else 1
        torch.testing.assert_close(losses[1][name], factor * value)


def test_a_step_makes_no_more_passes_than_it_must(build_rrn: Build, batch: Batch, at: At) -> None:
    method = build_rrn()
    passes: dict[str, list[int]] = {
        "branch_1": [],
        "branch_2": [],
        "discriminators.0": [],
        "discriminators.1": [],
    }
    for name, sizes in passes.items():
        method.get_submodule(name).register_forward_pre_hook(
            lambda _, args, sizes=sizes: sizes.append(len(args[0]))
        )
    summed(method(batch, at("full")), "").backward()
    for b in (1, 2):
        assert sorted(passes[f"branch_{b}"]) == [2, 2, 4]  # labeled, mixed, both streams for pseudo-labels
    for d in (0, 1):
        # the own pair with gradient; the other's and the real one without; real and own, trained
        assert passes[f"discriminators.{d}"] == [2, 4, 4]
