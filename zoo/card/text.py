"""Text and tables of a model card that are derived from its configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoo.card.licenses import data_name
from zoo.card.tables import escaped
from zoo.evaluation.figures import figures_of
from zoo.models.origin import origins_of

if TYPE_CHECKING:
    from zoo.bundle.bundle import BundleConfig
    from zoo.models.config import ClassifierConfig, DeployableConfig, EnsembleConfig
    from zoo.preprocess import Preprocessing

UNKNOWN = "unknown"

RESIZED = {
    "fit": "scaled to fit into {} x {}",
    "stretch": "stretched to {} x {}",
    "none": "kept at its own size (training crop {} x {})",
}
"""Description of the resizing of images, by `Preprocessing.resize`."""


def introduction(config: BundleConfig) -> list[str]:
    """Return the description of the model, and of its gate, if it has one."""
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
    """Return a short description of a model's networks, without the classifier of a gate."""
    if deployable.kind == "classifier":
        return f"{deployable.encoder}, a classifier that gives the probability of each class in the image"
    if deployable.kind == "gated":
        return describe(deployable.segmentation)
    if deployable.kind == "localized":
        localizer = f"its error localizer with {deployable.localizer.encoder}"
        return f"{describe(deployable.segmentation)}, and {localizer}"
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
    """Return a paragraph about the gate, if there is one."""
    gate = config.deployable
    if gate.kind != "gated":
        return []
    kept = "" if gate.background is None else f"; {escaped(config.names[gate.background])} never is"
    height, width = gate.classifier.imgsz
    return [
        "",
        (
            f"A class whose probability of being in the image is not above {gate.threshold:g} is removed "
            f"from the mask{kept}. The probabilities come from {gate.classifier.encoder}, which sees the "
            f"image at {height} x {width}. If an image is cut into windows, each window has its own gate."
        ),
    ]


def facts(config: BundleConfig) -> list[str]:
    """Return a table of classes, training images, input and parameters."""
    preprocessing = config.preprocessing
    parts: dict[str, dict[str, Any]] = config.provenance.get("parts", {})
    return [
        "| | |",
        "|---|---|",
        f"| classes | {', '.join(map(escaped, config.names))} |",
        *([] if parts else [f"| labeled / unlabeled images | {_images(config.provenance)} |"]),
        _input(preprocessing),
        f"| parameters | {_parameters(config.provenance)} |",
        *(f"| {role} | {_origin(part)} |" for role, part in parts.items()),
    ]


def _input(preprocessing: Preprocessing) -> str:
    kind = "RGB image" if preprocessing.format.is_rgb else f"image of {preprocessing.format}"
    return f"| input | {kind} of any size, {RESIZED[preprocessing.resize].format(*preprocessing.imgsz)} |"


def _origin(part: dict[str, Any]) -> str:
    """Return the origin of a part of a composed model."""
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
    """Return the metrics on `val`, overall and by class, and the paper's figure for the same recipe."""
    return [*_on_val(config), *_reported(config)]


def _on_val(config: BundleConfig) -> list[str]:
    if "val" not in config.metrics:
        return ["Not evaluated yet: `zoo evaluate FOLDER`."]
    val = config.metrics["val"]
    figures = figures_of(val)
    (name, value), *others = figures.summary(val, "{:.3f}".format)
    summary = ", ".join([f"**{name} {value}**", *(f"{other} {text}" for other, text in others)])
    threshold = f" A class counts as present above {val['threshold']:g}." if "threshold" in val else ""
    return [
        (
            f"Measured after the last step on {val['images']} images of `val`, protocol `{val['protocol']}`: "
            f"{summary}.{threshold}"
        ),
        "",
        f"| class | {' | '.join(figures.by_class.values())} |",
        f"|---|{'---:|' * len(figures.by_class)}",
        *(f"| {' | '.join(map(escaped, row))} |" for row in figures.rows(val, "{:.3f}".format)),
    ]


def _reported(config: BundleConfig) -> list[str]:
    """Return the paper's figure, if the recipe has one."""
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
    """Return the known limits of the model."""
    return [
        f"It was trained on images of {escaped(data_name(config.data_spec))} and was not measured on others.",
        "It comes from a single run: the variation between seeds was not measured.",
        *_weak_classes(config),
        *(
            []
            if config.deployable.kind == "classifier"
            else ["It assigns one of its classes to every pixel, even where none of them applies."]
        ),
    ]


def _weak_classes(config: BundleConfig) -> list[str]:
    """Return the weakest class, and the classes that are absent from the images of `val`."""
    if "val" not in config.metrics:
        return ["Its accuracy has not been measured."]
    val = config.metrics["val"]
    figures = figures_of(val)
    key, name = next(iter(figures.by_class.items()))
    known = {each: value for each, value in val.get(key, {}).items() if value is not None}
    absent = [each for each in val.get(key, {}) if each not in known]
    lines = []
    if known:
        worst = min(known, key=known.__getitem__)
        lines.append(f"Its weakest class on `val` is {escaped(worst)}, {name} {known[worst]:.3f}.")
    if absent:
        names = ", ".join(map(escaped, absent))
        lines.append(f"No image of `val` shows {names}: its accuracy on them is unknown.")
    return lines
