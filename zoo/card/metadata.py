"""YAML metadata of a model card, which the Hub reads: task, license, results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from huggingface_hub import EvalResult, ModelCardData

from zoo.card.licenses import UNKNOWN, data_name
from zoo.evaluation.figures import figures_of

if TYPE_CHECKING:
    from zoo.bundle.bundle import BundleConfig

LIBRARY = "semiseg-zoo"
LABELS_ONLY = "supervised"
DIGITS = 4

METRIC_TYPES = {"miou": "mean_iou", "pixel_accuracy": "accuracy", "f1": "f1", "map": "mean_average_precision"}
"""Names of the metrics on the Hub."""


def metadata(config: BundleConfig, license_: dict[str, str]) -> str:
    """Return the YAML block with its delimiters.

    Args:
        config: configuration of the bundle.
        license_: `license`, `license_name` and `license_link` of the model; empty if not stated.
    """
    is_classifier = config.deployable.kind == "classifier"
    methods = config.method.split(" + ")
    data = ModelCardData(
        library_name=LIBRARY,
        pipeline_tag=task_of(config),
        license=license_.get("license", UNKNOWN),
        license_name=license_.get("license_name"),
        license_link=license_.get("license_link"),
        tags=[
            "multi-label-classification" if is_classifier else "semantic-segmentation",
            *([] if methods == [LABELS_ONLY] else ["semi-supervised"]),
            *methods,
        ],
        model_name=title(config),
        eval_results=_results(config) or None,
    )
    if data.eval_results is None:
        del data.model_name  # without results it would be written as a field, which the Hub does not know
    return f"---\n{data.to_yaml()}\n---"


def task_of(config: BundleConfig) -> str:
    """Return the name of the task on the Hub."""
    return "image-classification" if config.deployable.kind == "classifier" else "image-segmentation"


def title(config: BundleConfig) -> str:
    """Return the title of the card."""
    return f"{config.method} on {data_name(config.data_spec)}"


def _results(config: BundleConfig) -> list[EvalResult]:
    """Return the measured overall metrics."""
    if "val" not in config.metrics:
        return []
    val = config.metrics["val"]
    shared: dict[str, Any] = {
        "task_type": task_of(config),
        "dataset_name": data_name(val.get("data")),
        "dataset_type": data_name(val.get("data")),
        "dataset_split": val.get("split"),
        "dataset_args": _images(config, val) or None,
    }
    return [
        EvalResult(
            metric_type=METRIC_TYPES[key],
            metric_name=name,
            metric_value=round(val[key], DIGITS),
            metric_args={"protocol": val["protocol"]},
            **shared,
        )
        for key, name in figures_of(val).overall.items()
        if val[key] is not None
    ]


def _images(config: BundleConfig, val: dict[str, Any]) -> dict[str, Any]:
    """Return the partition of the training images, and the number of validation images."""
    partition = config.provenance.get("partition", {})
    found = {"partition": partition.get("digest"), **partition.get("counts", {}), "images": val.get("images")}
    return {key: value for key, value in found.items() if value is not None}
