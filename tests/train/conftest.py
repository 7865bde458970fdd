"""Tiny instances of the methods, a random batch, a loss beside its formula, a comparison of made-up runs."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

from zoo.classes import IGNORE
from zoo.models.config import NetworkConfig
from zoo.train.blocks.label_loss import LabelLossConfig, parsed_terms
from zoo.train.compare.record import Candidate, Comparison, Run
from zoo.train.method import DRAW_RANGE, DRAWS, Batch, Method, Progress
from zoo.train.methods import table
from zoo.train.methods.table import METHODS, AnyMethodConfig
from zoo.train.recipe.read import load_recipe

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from zoo.train.methods.eln.eln import Eln
    from zoo.train.methods.rrn import Rrn
    from zoo.train.recipe.schema import Recipe

TINY_ENCODER = "mobilenetv3_small_050"
COMPARED_CLASSES = ["class-0", "class-1", "class-2"]
SHARED_SETTINGS = {
    "data.imgsz": [32, 32],
    "data.batch_l": 2,
    "data.batch_u": 3,
    "accumulate": 1,
    "network.decoder.name": "deeplabv3plus",
    "network.encoder": "<b>resnet</b>",
    "method.optimizer.name": "adamw",
    "method.optimizer.lr": 0.002,
    "method.optimizer.encoder_lr_mult": 0.5,
    "method.optimizer.schedule": "poly",
    "pretrained": False,
    "precision": "fp32",
    "steps": 20,
}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_network() -> NetworkConfig:
    return NetworkConfig(
        encoder=TINY_ENCODER, num_classes=3, rates=(1, 2), low_level_channels=8, decoder_channels=16
    )


TINY_SETTINGS: dict[str, dict[str, Any]] = {
    "eln": {
        "embedding_channels": 8,
        "windows": 2,
        "window_size": 4,
        "pretrain_steps": 2,
        "localize_steps": 3,
        "filter": {"encoder": TINY_ENCODER},
    },
    "fixmatch": {"threshold": 0.4},  # of three classes
    # a small rate: BatchNorm over two images of one pixel each has steep gradients
    "mlmt": {"imgsz": (32, 32), "burn_in_steps": 2, "ramp_steps": 4, "optimizer": {"lr": 1e-4}},
    "rrn": {"cross_steps": 3, "discriminator": {"width": 2, "cell": 1}},
    "s4gan": {"discriminator": {"width": 2}},
    "supervised": {},
    "u2pl": {
        "warm_start_steps": 2,
        "contrast": {
            "embedding_channels": 8,
            "anchors_per_class": 8,
            "negatives_per_class": 5,
            "bank_sizes": (40, 30),
            "pushes": 16,
        },
    },
    "unimatch": {"threshold": 0.4},
}
"""Settings of each method for images of 32 x 32 and runs of 20 steps."""


@pytest.fixture(scope="session")
def tiny_settings() -> dict[str, dict[str, Any]]:
    """Return `TINY_SETTINGS`."""
    return TINY_SETTINGS


@pytest.fixture
def build(tiny_network: NetworkConfig) -> Callable[..., Any]:
    """Return a builder of tiny methods in training mode: name, loss, then changes of settings by keyword."""

    def build(
        name: str, *, label_loss: str = "cross_entropy", weighted: bool = False, **changes: Any
    ) -> Method:
        loss = LabelLossConfig(parsed_terms(label_loss), weighted=weighted)
        tiny = {"name": name} | TINY_SETTINGS[name]
        for key, value in changes.items():
            tiny[key] = tiny.get(key, {}) | value if isinstance(value, dict) else value
        config = TypeAdapter(AnyMethodConfig).validate_python(tiny)
        method = table.build_method(config, tiny_network, pretrained=False, label_loss=loss).train()
        if weighted:
            method.get_buffer("label_loss.class_weights").copy_(torch.tensor([0.2, 1.0, 1.8]))
        return method

    return build


@pytest.fixture
def build_eln(build: Callable[..., Any]) -> Callable[..., Eln]:
    """Return a builder of tiny ELNs in training mode; keyword arguments change the settings."""
    return partial(build, "eln")


@pytest.fixture
def build_rrn(build: Callable[..., Any]) -> Callable[..., Rrn]:
    """Return a builder of tiny RRNs in training mode; keyword arguments change the settings."""
    return partial(build, "rrn")


@pytest.fixture
def make_batch() -> Callable[..., Batch]:
    """Return a builder of batches, two 32 x 32 images of each stream; a corner of the labels is unknown."""

    def make(labeled: int = 1, unlabeled: int = 1, *, strong: int = 1) -> Batch:
        count_l, count_u = 2 * labeled, 2 * unlabeled
        label = torch.randint(3, (count_l, 32, 32))
        label[:, :4, :4] = IGNORE
        tags = torch.stack([(label == k).flatten(1).any(dim=1) for k in range(3)], dim=1)
        everywhere = torch.ones(count_l, 32, 32, dtype=torch.bool)
        batch = Batch(torch.randn(count_l, 3, 32, 32), label, everywhere, tags_l=tags)
        if not unlabeled:
            return batch
        weak = torch.randn(count_u, 3, 32, 32)
        batch = batch._replace(image_u=weak, valid_u=torch.ones(count_u, 32, 32, dtype=torch.bool))
        batch = batch._replace(draws_u=(torch.rand(count_u, DRAWS) * DRAW_RANGE).int())
        views = [weak + 0.1 * torch.randn_like(weak) for _ in range(strong)]
        return batch._replace(image_u_s=torch.cat(views)) if strong else batch

    return make


@pytest.fixture
def batch(request: pytest.FixtureRequest, make_batch: Callable[..., Batch]) -> Batch:
    """Return a batch with the streams `STREAMS` of the module, by default one of each with a strong view."""
    return make_batch(**getattr(request.module, "STREAMS", {}))


@pytest.fixture
def at() -> Callable[..., Progress]:
    """Return a builder of the progress in a phase of a run of 100 steps."""

    def progress(phase: str, phase_step: int = 0, *, step: int = 10) -> Progress:
        return Progress(step, 100, phase, phase_step)

    return progress


@pytest.fixture
def trust_all() -> Callable[[Eln], Eln]:
    """Return a function that makes a method's ELN call every pixel right."""

    def prepare(method: Eln) -> Eln:
        head = method.filter.localizer.decoder.segment[-1]
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.constant_(head.bias, 5.0)
        return method

    return prepare


@pytest.fixture
def assert_same() -> Callable[..., None]:
    """Return an assertion that two functions of some tensors agree in value and in every gradient."""

    def check(
        function: Callable[..., Tensor],
        reference: Callable[..., Tensor],
        *inputs: Tensor,
        tolerance: float = 1e-10,
    ) -> None:
        results = []
        for each in (function, reference):
            leaves = [value.detach().clone().requires_grad_() for value in inputs]
            value = each(*leaves)
            results.append((value.detach(), *torch.autograd.grad(value, leaves)))
        for got, expected in zip(*results, strict=True):
            torch.testing.assert_close(got, expected, atol=tolerance, rtol=0)

    return check


CATEGORICAL_MLMT = {"classification": "categorical", "burn_in_steps": 0, "ramp_steps": 0}

METHOD_CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "eln": ("eln", {}),
    "eln-official": ("eln", METHODS["eln"].official),
    "eln-s-ecn": ("eln", {"filter": {"kind": "s-ecn"}}),
    "eln-confidence": ("eln", {"filter": {"kind": "confidence"}}),
    "eln-no-contrast": ("eln", {"contrast": "none"}),
    "eln-by-class": (
        "eln",
        {"label_loss": "dice", "filter": {"kind": "confidence", "threshold_by_class": True}},
    ),
    "eln-lovasz": ("eln", {"label_loss": "cross_entropy + lovasz", "weighted": True}),
    "fixmatch": ("fixmatch", {}),
    "fixmatch-by-class": ("fixmatch", {"label_loss": "focal", "weighted": True, "threshold_by_class": True}),
    "mlmt": ("mlmt", {}),
    "mlmt-categorical": ("mlmt", CATEGORICAL_MLMT),
    "rrn": ("rrn", {}),
    "rrn-official": ("rrn", METHODS["rrn"].official),
    "rrn-ramped": ("rrn", {"cps_ramp_steps": 6, "selection_dropout": False}),
    "rrn-dice": ("rrn", {"label_loss": "0.5 * focal + dice"}),
    "rrn-cps": ("rrn", {"self_training": "none"}),
    "rrn-lplf-no-eni": ("rrn", {"self_training": "lplf", "eni": False}),
    "s4gan": ("s4gan", {}),
    "s4gan-waiting": ("s4gan", {"adversarial_steps": 3, "selection_dropout": False}),
    "s4gan-official": ("s4gan", METHODS["s4gan"].official),
    "s4gan-sgan": ("s4gan", {"loss": "sgan"}),
    "s4gan-lovasz": ("s4gan", {"label_loss": "lovasz"}),
    "supervised": ("supervised", {}),
    "supervised-weighted": ("supervised", {"weighted": True}),
    "u2pl": ("u2pl", {}),
    "u2pl-official": ("u2pl", METHODS["u2pl"].official),
    "u2pl-bce-all-negatives": ("u2pl", {"contrast": {"loss": "bce", "negatives": "all"}}),
    "u2pl-no-bank": ("u2pl", {"contrast": {"memory_bank": False}}),
    "u2pl-ohem-auxiliary": ("u2pl", {"ohem_threshold": 0.7, "ohem_min_kept": 50, "auxiliary_weight": 0.4}),
    "u2pl-dice": (
        "u2pl",
        {
            "label_loss": "cross_entropy + dice",
            "weighted": True,
            "ohem_threshold": 0.7,
            "auxiliary_weight": 0.4,
        },
    ),
    "unimatch": ("unimatch", {}),
    "unimatch-ohem": ("unimatch", {"ohem_threshold": 0.7, "ohem_min_kept": 50}),
}
"""Tiny instances that every test of the contract runs on: a method, and changes of its settings."""


@pytest.fixture(params=METHOD_CASES)
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def build_method(case: str, build: Callable[..., Any]) -> Callable[[], Method]:
    """Return a builder of the method of this case."""
    name, settings = METHOD_CASES[case]
    return partial(build, name, **settings)


@pytest.fixture
def method(build_method: Callable[[], Method]) -> Method:
    return build_method()


@pytest.fixture(scope="session")
def load_tiny(tiny_recipe: Path) -> Callable[..., Recipe]:
    """Return a function that loads the tiny recipe; it takes values by dotted key, and steps."""

    def load(changes: dict[str, Any] | None = None, steps: int | None = None) -> Recipe:
        return load_recipe(str(tiny_recipe), steps=steps, changes=changes)

    return load


def metrics_of_run(
    miou: float, step_ms: dict[str, float] | None = None, networks: dict[str, float] | None = None
) -> dict[str, Any]:
    """Return the metrics of a finished run as far as a comparison reads them.

    Args:
        miou: mIoU of the scored network.
        step_ms: durations of a step by phase.
        networks: mIoU of further networks.
    """

    def val(miou: float) -> dict[str, Any]:
        return {"miou": miou, "iou": {"class-0": miou, "class-1": None, "class-2": miou / 2}}

    return {
        "val": val(miou),
        "networks": {name: val(value) for name, value in (networks or {}).items()},
        "filter": None,
        "filter_by_class": None,
        "filter_curve": [],
        "curve": [[10, miou / 2], [20, miou]],
        "step_ms": {"first": 10.0, "second": 40.0} if step_ms is None else step_ms,
        "peak_memory": {"mib": 1000 * miou, "kind": "somewhere"},
    }


@pytest.fixture
def run_metrics() -> Callable[..., dict[str, Any]]:
    """Return `metrics_of_run`."""
    return metrics_of_run


@pytest.fixture
def compared(tiny_folder: Path) -> Callable[..., Comparison]:
    """Return a builder of a comparison from the mIoU of each candidate's seeds; None is a failed run.

    `supervised_strong` is a control; `looks` are numbers of seeds at which results are looked at.
    """

    def make(*looks: int, **mious: list[float | None]) -> Comparison:
        candidates = tuple(
            Candidate(
                name=name.replace("_", "-"),
                method=name.partition("_")[0],
                role="control" if "_" in name else "method",
                recipe=name,
                phases={"first": 15, "second": 5},
                networks=("student",),
                kept={"student": 1234, "teacher": 4321},
                trained=5678,
                overridden={"network.decoder_channels": (256, 48)} if name == "eln" else {},
            )
            for name in mious
        )
        runs = [
            Run(
                candidate=each.name,
                method=each.method,
                seed=seed,
                command=f"zoo train {each.method}",
                wall_s=100.0 * (seed + 1),
            )
            for each in candidates
            for seed in range(len(mious[each.recipe]))
        ]
        done: list[Run] = []
        for run in runs:
            miou = mious[run.candidate.replace("-", "_")][run.seed]
            state = {"state": "failed", "reason": "no <memory>"} if miou is None else {"state": "finished"}
            done.append(
                run.model_copy(update={**state, "metrics": None if miou is None else metrics_of_run(miou)})
            )
        return Comparison(
            timestamp="2026-11-21T10:00:00+00:00",
            command="zoo compare",
            machine={"cpu": "a processor", "cores": 2, "gpu": None},
            versions={"zoo": "0", "tensorrt": None},
            device="cpu",
            data={"spec": str(tiny_folder), "partition": "4", "classes": COMPARED_CLASSES, "labeled": 4}
            | {"unlabeled": 6, "val": 2},
            settings=SHARED_SETTINGS,
            looks=looks or (max(map(len, mious.values())),),
            candidates=candidates,
            runs=tuple(done),
        )

    return make


@pytest.fixture
def recipe_of(
    load_tiny: Callable[..., Recipe], tiny_settings: dict[str, dict[str, Any]]
) -> Callable[..., Recipe]:
    """Return a builder of tiny recipes: method, paths to start from, changes by dotted key."""

    def build(method: str, *paths: Path, num_classes: int = 3, **changes: Any) -> Recipe:
        recipe = load_tiny({"start_from": [str(path) for path in paths], **changes})
        settings = {"name": method} | tiny_settings[method]
        if method == "eln":
            settings["filter"] = {"kind": "confidence"}
        config = TypeAdapter(AnyMethodConfig).validate_python(settings)
        network = recipe.network.model_copy(update={"num_classes": num_classes})
        return recipe.model_copy(update={"method": config, "network": network})

    return build
