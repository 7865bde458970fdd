"""The sentences and tables of a model card that follow from its configuration alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoo.card.licenses import data_name
from zoo.evaluation.figures import figures_of
from zoo.models.origin import origins_of

if TYPE_CHECKING:
    from zoo.bundle.bundle import BundleConfig
    from zoo.models.config import ClassifierConfig, DeployableConfig, EnsembleConfig

UNKNOWN = "unknown"

RESIZED = {
    "fit": "scaled to fit into {} x {}",
    "stretch": "stretched to {} x {}",
    "none": "seen at its own size (training crop {} x {})",
}
"""How an image reaches the network, by `Preprocessing.resize`."""


def introduction(config: BundleConfig) -> list[str]:
    """Return what the model is, and a paragraph on what its gate does, if there is one."""
    steps = config.provenance.get("step", "an unknown number of")
    origin = f"started from {_start(config)}"
    return [
        f"{describe(config.deployable)} ({origin}), the {config.weights} after {steps} steps.",
        *_gate(config),
    ]


def _start(config: BundleConfig) -> str:
    """Return which weights the model started from."""
    origins = origins_of(config.recipe, config.provenance)
    if origins is None:
        return "ImageNet weights of timm" if config.recipe.get("pretrained") else "unknown weights"
    if not origins:
        return "random weights"
    kind, name = origins[0].kind, origins[0].name
    return {"timm": "ImageNet weights of timm", "package": f"ImageNet weights of {name}"}.get(
        kind, f"the weights of {name}"
    )


def describe(deployable: DeployableConfig | ClassifierConfig) -> str:
    """Return the networks of a model in a few words, those of a gated one without its classifier."""
    if deployable.kind == "classifier":
        return f"{deployable.encoder} with a probability for each class of being in the image"
    if deployable.kind == "gated":
        return describe(deployable.segmentation)
    if deployable.kind == "ensemble":
        return _describe_ensemble(deployable)
    return f"{deployable.network.decoder.name} with {deployable.network.encoder}"


def _describe_ensemble(ensemble: EnsembleConfig) -> str:
    first, second = (f"{network.decoder.name} with {network.encoder}" for network in ensemble.branches)
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


def facts(config: BundleConfig) -> list[str]:
    """Return a table of classes, training images, input and size."""
    preprocessing = config.preprocessing
    height, width = preprocessing.imgsz
    parts: dict[str, dict[str, Any]] = config.provenance.get("parts", {})
    return [
        "| | |",
        "|---|---|",
        f"| classes | {', '.join(config.names)} |",
        *([] if parts else [f"| labeled / unlabeled images | {_images(config.provenance)} |"]),
        f"| input | RGB image of any size, {RESIZED[preprocessing.resize].format(height, width)} |",
        f"| parameters | {_parameters(config.provenance)} |",
        *(f"| {role} | {_origin(part)} |" for role, part in parts.items()),
    ]


def _origin(part: dict[str, Any]) -> str:
    """Return where a part of a composed model came from."""
    step = part["provenance"]["step"]
    return (
        f"{part['method']}, {part['weights']}, step {step}, weights {part['weights_sha256'][:12]}; "
        f"labeled / unlabeled images {_images(part['provenance'])}"
    )


def _parameters(provenance: dict[str, Any]) -> str:
    return f"{provenance['parameters']['kept']:,}" if "parameters" in provenance else UNKNOWN


def _images(provenance: dict[str, Any]) -> str:
    if "partition" not in provenance:
        return UNKNOWN
    counts, digest = provenance["partition"]["counts"], provenance["partition"]["digest"]
    return f"{counts['labeled']} / {counts['unlabeled']} (partition {digest})"


def measured(config: BundleConfig) -> list[str]:
    """Return the figures on `val`, by class, and what a paper says of the same recipe."""
    return [*_on_val(config), *_reported(config)]


def _on_val(config: BundleConfig) -> list[str]:
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


def _reported(config: BundleConfig) -> list[str]:
    """Return the figure of the paper, if the recipe repeats one of its rows."""
    reported = config.recipe.get("reported") or {}
    if "miou" not in reported:
        return []
    return [
        "",
        (
            f"Reported by the paper for this recipe, not measured here: mIoU {reported['miou']:g} % "
            f"({reported['source']}), on its own list of labeled images and by its own protocol."
        ),
    ]


def limits(config: BundleConfig) -> list[str]:
    """Return what a user must not expect of the model, as far as it is known."""
    return [
        f"It learned from images of {data_name(config.data_spec)}: nothing here is measured on others.",
        "It comes from one run: how far one of another seed would be from it was not measured.",
        *_weak_classes(config),
        *(
            []
            if config.deployable.kind == "classifier"
            else ["Every pixel gets one of its classes, also what is none of them."]
        ),
    ]


def _weak_classes(config: BundleConfig) -> list[str]:
    """Return which class it knows least, and which were not in the images that it was measured on."""
    if "val" not in config.metrics:
        return ["How good it is has not been measured."]
    val = config.metrics["val"]
    figures = figures_of(val)
    key, name = next(iter(figures.by_class.items()))
    known = {each: value for each, value in val.get(key, {}).items() if value is not None}
    absent = [each for each in val.get(key, {}) if each not in known]
    lines = []
    if known:
        worst = min(known, key=known.__getitem__)
        lines.append(f"Its weakest class on `val` is {worst}, {name} {known[worst]:.3f}.")
    if absent:
        lines.append(f"No image of `val` shows {', '.join(absent)}: nothing is known of them.")
    return lines
