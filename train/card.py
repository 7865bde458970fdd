"""The model card of a bundle: what it is and what was measured, nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zoo.bundle import BundleConfig


RESIZED = {
    "fit": "scaled to fit into {} x {}",
    "stretch": "stretched to {} x {}",
    "none": "seen at its own size (training crop {} x {})",
}
"""How an image reaches the network, by `Preprocessing.resize`."""


def model_card(config: BundleConfig) -> str:
    """Return the model card as Markdown with the Hub's metadata block."""
    network = config.deployable.networks[0]
    partition = config.provenance["partition"]
    counts = partition["counts"]
    preprocessing = config.preprocessing
    height, width = preprocessing.imgsz
    encoder = "ImageNet weights of timm" if config.recipe["pretrained"] else "random weights"
    lines = [
        "---",
        "library_name: semiseg-zoo",
        "pipeline_tag: image-segmentation",
        f"tags: [semantic-segmentation, semi-supervised, {config.method}]",
        "---",
        "",
        f"# {config.method} on {config.recipe['data']['spec']}",
        "",
        (
            f"{network.architecture} with {network.encoder} (started from {encoder}), "
            f"the {config.weights} after {config.provenance['step']} steps."
        ),
        "",
        "| | |",
        "|---|---|",
        f"| classes | {', '.join(config.names)} |",
        (
            f"| labeled / unlabeled images | {counts['labeled']} / {counts['unlabeled']} "
            f"(partition {partition['digest']}) |"
        ),
        f"| input | RGB image of any size, {RESIZED[preprocessing.resize].format(height, width)} |",
        f"| parameters | {config.provenance['parameters']['kept']:,} |",
        "",
        *_measured(config),
        "",
        "    zoo predict FOLDER image.jpg --overlay",
        "    zoo export FOLDER --onnx --trt",
    ]
    return "\n".join(lines) + "\n"


def _measured(config: BundleConfig) -> list[str]:
    if "val" not in config.metrics:
        return ["Not evaluated yet: `zoo evaluate FOLDER`."]
    val = config.metrics["val"]
    rows = [f"| {name} | {'absent' if iou is None else f'{iou:.3f}'} |" for name, iou in val["iou"].items()]
    return [
        (
            f"Measured after the last step on {val['images']} images of `val`, protocol `{val['protocol']}`: "
            f"**mIoU {val['miou']:.3f}**, pixel accuracy {val['pixel_accuracy']:.3f}."
        ),
        "",
        "| class | IoU |",
        "|---|---:|",
        *rows,
    ]
