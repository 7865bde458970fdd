"""What every method owes the engine (`zoo.train.method`); each test runs on all of `METHOD_CASES`."""

from __future__ import annotations

import copy
import re
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from zoo.classes import IGNORE
from zoo.errors import RecipeError
from zoo.models.decoders.decoder import Output, resize_logits
from zoo.models.decoders.deeplabv3plus import DeepLabV3Plus
from zoo.train.method import Batch, Method, Phase, Progress, progress_at
from zoo.train.methods.mlmt import Mlmt
from zoo.train.methods.supervised import Supervised
from zoo.train.methods.table import METHODS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch.optim import Optimizer

    from zoo.train.methods.eln.eln import Eln

STEPS = 20

CROSS_TERMS = {"sup_1", "sup_2", "cps_1", "cps_2"}
TERMS = {
    "eln": {"sup", "aux", "eln", "pseudo", "pseudo_s", "con", "con_s"},
    "eln-lovasz": {"sup", "aux", "eln", "pseudo", "pseudo_s", "con", "con_s"},
    "eln-official": {"sup", "aux", "eln", "pseudo", "pseudo_s", "con", "con_s"},
    "eln-s-ecn": {"sup", "aux", "eln", "pseudo", "pseudo_s", "con", "con_s"},
    "eln-confidence": {"sup", "pseudo", "pseudo_s", "con", "con_s"},
    "eln-by-class": {"sup", "pseudo", "pseudo_s", "con", "con_s"},
    "eln-no-contrast": {"sup", "aux", "eln", "pseudo", "pseudo_s"},
    "fixmatch": {"x", "u"},
    "fixmatch-by-class": {"x", "u"},
    "mlmt": {"cls", "cons"},
    "mlmt-categorical": {"cls", "cons"},
    "rrn": CROSS_TERMS | {"fm_1", "fm_2", "st_1", "st_2", "d_1", "d_2"},
    "rrn-dice": CROSS_TERMS | {"fm_1", "fm_2", "st_1", "st_2", "d_1", "d_2"},
    "rrn-official": CROSS_TERMS | {"fm_1", "fm_2", "st_1", "st_2", "d_1", "d_2"},
    "rrn-ramped": CROSS_TERMS | {"fm_1", "fm_2", "st_1", "st_2", "d_1", "d_2"},
    "rrn-cps": CROSS_TERMS,
    "rrn-lplf-no-eni": CROSS_TERMS | {"fm_1", "fm_2", "st_1", "st_2", "d_1", "d_2"},
    "s4gan": {"ce", "fm", "st", "d"},
    "s4gan-lovasz": {"ce", "fm", "st", "d"},
    "s4gan-waiting": {"ce", "fm", "st", "d"},
    "s4gan-official": {"ce", "fm", "st", "d"},
    "s4gan-sgan": {"ce", "adv", "st", "d"},
    "supervised": {"sup"},
    "supervised-weighted": {"sup"},
    "u2pl": {"s", "u", "c"},
    "u2pl-dice": {"s", "u", "c"},
    "u2pl-official": {"s", "u", "c"},
    "u2pl-bce-all-negatives": {"s", "u", "c"},
    "u2pl-no-bank": {"s", "u", "c"},
    "u2pl-ohem-auxiliary": {"s", "u", "c"},
    "unimatch": {"x", "u"},
    "unimatch-ohem": {"x", "u"},
}
"""Terms of the last phase, as the methods' docstrings name them."""


def test_the_table_says_whether_a_method_needs_unlabeled_images(method: Method) -> None:
    [entry] = [entry for entry in METHODS.values() if type(method) is entry.method]
    assert any(phase.unlabeled for phase in method.phases(STEPS)) == entry.needs_unlabeled


@pytest.fixture
def batch(method: Method, make_batch: Callable[..., Batch]) -> Batch:
    """Return a batch with the streams of the method's last phase."""
    phase = method.phases(STEPS)[-1]
    return make_batch(phase.labeled, phase.unlabeled, strong=phase.strong)


def progresses(method: Method) -> Iterator[Progress]:
    """Return the progress at the first step of each phase."""
    phases = method.phases(STEPS)
    return (p for p in (progress_at(step, phases) for step in range(STEPS)) if p.phase_step == 0)


def last_phase(method: Method) -> Progress:
    return list(progresses(method))[-1]


def take_step(method: Method, optimizers: list[Optimizer], batch: Batch, progress: Progress) -> Tensor:
    """Return the total loss of a step as the engine takes it."""
    total = torch.stack(list(method(batch, progress).values())).sum()
    total.backward()
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    method.after_step(progress)
    return total.detach()


def full_size_logits(method: Method, weights: str, images: Tensor) -> Tensor:
    """Return the logits of this network, or of the average of RRN's branches; MLMT's are (B, K)."""
    if weights == "fused":
        decoder_logits = (method.branch_1(images).logits + method.branch_2(images).logits) / 2
    else:
        decoder_logits = getattr(method, weights)(images)
        if isinstance(method, Mlmt):
            return decoder_logits
        decoder_logits = decoder_logits.logits
    return resize_logits(decoder_logits, images.shape[-2:])


def test_every_term_of_every_phase_is_a_finite_scalar(method: Method, batch: Batch) -> None:
    for progress in progresses(method):
        for name, term in method(batch, progress).items():
            assert term.shape == (), (progress.phase, name)
            assert term.isfinite(), (progress.phase, name)


def test_the_terms_have_the_documented_names(case: str, method: Method, batch: Batch) -> None:
    assert set(method(batch, last_phase(method))) == TERMS[case]


def test_every_phase_works_with_the_streams_it_declares(method: Method, batch: Batch) -> None:
    for phase, progress in zip(method.phases(STEPS), progresses(method), strict=True):
        seen = batch if phase.unlabeled else Batch(*batch[:3])
        assert all(term.isfinite() for term in method(seen, progress).values())


SEEN_BY_A_LOCALIZER = {"eln", "pseudo", "pseudo_s", "con", "con_s"}
"""Terms that depend on a network whose receptive field reaches from the padding into the image."""


def test_what_networks_say_of_padding_changes_no_term(
    case: str, build_method: Callable[[], Method], batch: Batch
) -> None:
    valid = torch.ones(len(batch.image_l), 32, 32, dtype=torch.bool)
    valid[..., 16:] = False
    padded = batch._replace(label_l=batch.label_l.where(valid, IGNORE), valid_l=valid)
    if batch.image_u is not None:
        padded = padded._replace(valid_u=valid[:1].expand(len(batch.image_u), -1, -1))

    def disturb(module: torch.nn.Module, args: object, output: Output) -> Output:  # noqa: ARG001
        noise = 20 * torch.randn(output.logits.shape, generator=torch.Generator().manual_seed(1))
        noise[..., :5] = 0  # columns of the 8 x 8 grid from which pixels of the image are interpolated
        return output._replace(logits=output.logits + noise)

    terms = []
    for is_disturbed in (False, True):
        torch.manual_seed(0)
        method = build_method().eval()
        for module in method.modules():
            if is_disturbed and isinstance(module, DeepLabV3Plus):
                module.register_forward_hook(disturb)
        torch.manual_seed(0)
        terms.append(method(padded, last_phase(method)))
    exempt = SEEN_BY_A_LOCALIZER if case.startswith("eln") and case != "eln-confidence" else {"cls", "cons"}
    for name in set(TERMS[case]) - exempt:
        assert torch.equal(terms[0][name], terms[1][name]), name


def test_phases_add_up_to_the_run(method: Method) -> None:
    phases = method.phases(STEPS)
    assert sum(phase.steps for phase in phases) == STEPS
    assert all(phase.steps > 0 for phase in phases)


def test_a_step_leaves_its_batch_as_it_was(method: Method, batch: Batch) -> None:
    given = [value for value in batch if value is not None]
    copies = [value.clone() for value in given]
    method(batch, last_phase(method))
    assert all(torch.equal(value, copy) for value, copy in zip(given, copies, strict=True))


def test_a_restored_method_goes_on_with_the_same_losses(
    build_method: Callable[[], Method], batch: Batch
) -> None:
    method = build_method()
    optimizers = method.optimizers()
    progress = last_phase(method)
    method.start_phase(progress)
    for _ in range(2):
        take_step(method, optimizers, batch, progress)

    torch.manual_seed(99)
    restored = build_method()
    restored_optimizers = restored.optimizers()
    restored.load_state_dict(method.state_dict())
    for optimizer, source in zip(restored_optimizers, optimizers, strict=True):
        optimizer.load_state_dict(copy.deepcopy(source.state_dict()))  # else both share their moments

    losses = []
    for each, its_optimizers in ((method, optimizers), (restored, restored_optimizers)):
        torch.manual_seed(1)
        losses.append([take_step(each, its_optimizers, batch, progress).item() for _ in range(2)])
    assert losses[0] == losses[1]


def test_optimizers_hold_every_trainable_parameter_once_and_no_frozen_one(method: Method) -> None:
    held = [id(p) for o in method.optimizers() for group in o.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in method.parameters() if p.requires_grad)


def test_encoders_learn_at_their_share_of_the_decoders_rate(method: Method) -> None:
    rates = {id(p): g["lr"] for o in method.optimizers() for g in o.param_groups for p in g["params"]}
    config = method.config
    for name, parameter in method.named_parameters():
        if id(parameter) not in rates:
            continue
        optimizer = config.optimizer_d if "discriminator" in name else config.optimizer
        share = optimizer.encoder_lr_mult if ".encoder." in name else 1
        assert rates[id(parameter)] == pytest.approx(share * optimizer.lr), name


def test_the_default_weights_are_those_that_the_method_names(method: Method) -> None:
    named = method.deployable(method.default_weights).state_dict()
    default = method.deployable().state_dict()
    assert named.keys() == default.keys()
    assert all(torch.equal(default[name], value) for name, value in named.items())


def test_unknown_weights_are_no_choice(case: str, build_eln: Callable[..., Eln]) -> None:
    if case == "eln":
        with pytest.raises(KeyError):
            build_eln().deployable("localizer")


def test_the_deployable_equals_the_network_bit_for_bit(method: Method, batch: Batch) -> None:
    take_step(method, method.optimizers(), batch, last_phase(method))
    method.eval()
    for name in method.weights:
        expected = full_size_logits(method, name, batch.image_l)
        assert torch.equal(method.deployable(name).eval()(batch.image_l), expected), name


def test_the_deployable_is_a_copy_and_leaves_the_method_whole(method: Method, batch: Batch) -> None:
    method.eval()
    keys = set(method.state_dict())
    deployables = {name: method.deployable(name).eval() for name in method.weights}
    before = {name: each(batch.image_l) for name, each in deployables.items()}
    assert set(method.state_dict()) == keys
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.zero_()
    for name, each in deployables.items():
        assert torch.equal(each(batch.image_l), before[name]), name


def test_the_deployable_holds_networks_without_embedding(method: Method) -> None:
    if isinstance(method, Mlmt):
        pytest.skip("a classifier has no decoder")
    for name in method.weights:
        deployable = method.deployable(name)
        keys = deployable.state_dict().keys()
        assert {re.sub(r"(branches\.\d|network)\.(encoder|decoder)\..*", r"\2", key) for key in keys} == {
            "encoder",
            "decoder",
        }
        assert not [key for key in keys if "embed" in key]
        assert deployable.config.networks[0].embedding_channels == 0


def test_student_and_teacher_can_both_be_deployed(build_eln: Callable[..., Eln], batch: Batch) -> None:
    method = build_eln().eval()
    with torch.no_grad():
        method.teacher.decoder.segment[-1].bias.add_(1)
    student, teacher = (method.deployable(name).eval()(batch.image_l) for name in ("student", "teacher"))
    torch.testing.assert_close(teacher, student + 1)


def test_every_case_has_its_terms(case: str) -> None:
    assert case in TERMS


@pytest.mark.parametrize(("step", "expected"), [(0, ("a", 0)), (1, ("a", 1)), (2, ("c", 0)), (4, ("c", 2))])
def test_the_progress_skips_phases_without_a_step(step: int, expected: tuple[str, int]) -> None:
    phases = (Phase("a", 2), Phase("b", 0), Phase("c", 3))
    assert progress_at(step, phases) == Progress(step, 5, *expected)


def test_no_progress_lies_beyond_the_phases() -> None:
    with pytest.raises(RecipeError, match="step 5 is beyond the 5 steps of the run"):
        progress_at(5, (Phase("a", 2), Phase("b", 3)))


def test_the_baseline_needs_no_unlabeled_images(method: Method) -> None:
    needs = any(phase.unlabeled for phase in method.phases(STEPS))
    assert needs != isinstance(method, Supervised)
