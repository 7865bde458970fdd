"""The model card of a bundle: what it is and what was measured, nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoo.figures import figures_of

if TYPE_CHECKING:
    from zoo.bundle import BundleConfig
    from zoo.models.classifier import ClassifierConfig
    from zoo.models.deployable import DeployableConfig, EnsembleConfig


RESIZED = {
    "fit": "scaled to fit into {} x {}",
    "stretch": "stretched to {} x {}",
    "none": "seen at its own size (training crop {} x {})",
}
"""How an image reaches the network, by `Preprocessing.resize`."""


USE = ("zoo predict FOLDER image.jpg --overlay", "zoo export FOLDER --onnx --trt")
USE_CLASSIFIER = ("zoo export MODEL --gate FOLDER",)


def model_card(config: BundleConfig) -> str:
    """Return the model card as Markdown with the Hub's metadata block."""
    is_classifier = config.deployable.kind == "classifier"
    task = "image-classification" if is_classifier else "image-segmentation"
    tags = ["multi-label-classification" if is_classifier else "semantic-segmentation", "semi-supervised"]
    encoder = "ImageNet weights of timm" if config.recipe["pretrained"] else "random weights"
    lines = [
        "---",
        "library_name: semiseg-zoo",
        f"pipeline_tag: {task}",
        f"tags: [{', '.join([*tags, *config.method.split(' + ')])}]",
        "---",
        "",
        f"# {config.method} on {config.recipe['data']['spec']}",
        "",
        (
            f"{describe(config.deployable)} (started from {encoder}), "
            f"the {config.weights} after {config.provenance['step']} steps."
        ),
        *_gate(config),
        "",
        *_facts(config),
        "",
        *_measured(config),
        "",
        *(f"    {command}" for command in (USE_CLASSIFIER if is_classifier else USE)),
    ]
    return "\n".join(lines) + "\n"


def describe(deployable: DeployableConfig | ClassifierConfig) -> str:
    """Return the networks of a model in a few words, those of a gated one without its classifier."""
    if deployable.kind == "classifier":
        return f"{deployable.encoder} with a probability for each class of being in the image"
    if deployable.kind == "gated":
        return describe(deployable.segmentation)
    if deployable.kind == "ensemble":
        return _describe_ensemble(deployable)
    return f"{deployable.network.architecture} with {deployable.network.encoder}"


def _describe_ensemble(ensemble: EnsembleConfig) -> str:
    first, second = (f"{network.architecture} with {network.encoder}" for network in ensemble.branches)
    networks = f"two networks, {first} each" if first == second else f"{first} and {second}"
    weight = ensemble.weight_1
    weights = "" if weight == 0.5 else f", weighted {weight:g} to {1 - weight:g},"
    return f"The average of the {ensemble.average}{weights} of {networks}"


def _gate(config: BundleConfig) -> list[str]:
    """Return a paragraph on what the gate does, if there is one."""
    gate = config.deployable
    if gate.kind != "gated":
        return []
    kept = "" if gate.background is None else f"; {config.names[gate.background]} never is"
    height, width = gate.classifier.imgsz
    return [
        "",
        (
            f"A class whose probability of being in the image is not above {gate.threshold:g} is removed "
            f"from the mask{kept}. The probabilities are those of {gate.classifier.encoder}, which sees the "
            f"image at {height} x {width}. Where an image is cut into windows, each has a gate of its own."
        ),
    ]


def _facts(config: BundleConfig) -> list[str]:
    preprocessing = config.preprocessing
    height, width = preprocessing.imgsz
    parts: dict[str, dict[str, Any]] = config.provenance.get("parts", {})
    return [
        "| | |",
        "|---|---|",
        f"| classes | {', '.join(config.names)} |",
        *([] if parts else [f"| labeled / unlabeled images | {_images(config.provenance)} |"]),
        f"| input | RGB image of any size, {RESIZED[preprocessing.resize].format(height, width)} |",
        f"| parameters | {config.provenance['parameters']['kept']:,} |",
        *(f"| {role} | {_origin(part)} |" for role, part in parts.items()),
    ]


def _origin(part: dict[str, Any]) -> str:
    """Return where a part of a composed model came from."""
    step = part["provenance"]["step"]
    return (
        f"{part['method']}, {part['weights']}, step {step}, weights {part['weights_sha256'][:12]}; "
        f"labeled / unlabeled images {_images(part['provenance'])}"
    )


def _images(provenance: dict[str, Any]) -> str:
    counts, digest = provenance["partition"]["counts"], provenance["partition"]["digest"]
    return f"{counts['labeled']} / {counts['unlabeled']} (partition {digest})"


def _measured(config: BundleConfig) -> list[str]:
    if "val" not in config.metrics:
        return ["Not evaluated yet: `zoo evaluate FOLDER`."]
    val = config.metrics["val"]
    figures = figures_of(val)
    (name, value), *others = figures.summary(val, "{:.3f}".format)
    summary = ", ".join([f"**{name} {value}**", *(f"{other} {text}" for other, text in others)])
    threshold = f" A class counts as seen above {val['threshold']:g}." if "threshold" in val else ""
    return [
        (
            f"Measured after the last step on {val['images']} images of `val`, protocol `{val['protocol']}`: "
            f"{summary}.{threshold}"
        ),
        "",
        f"| class | {' | '.join(figures.by_class.values())} |",
        f"|---|{'---:|' * len(figures.by_class)}",
        *(f"| {' | '.join(row)} |" for row in figures.rows(val, "{:.3f}".format)),
    ]
