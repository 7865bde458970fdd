"""Composition of new bundles: a branch of an ensemble, other fusion weights, a gate, another image size.

A composed bundle is exported, benchmarked and evaluated like any other. Its provenance lists its parts.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from zoo.bundle.bundle import CONFIG_NAME, MODEL_FILES, WEIGHTS_NAME, load_config, replacing
from zoo.bundle.manifest import read_manifest, sha256
from zoo.bundle.weights import load_bundle, load_classifier, save_bundle
from zoo.card.card import model_card
from zoo.errors import BundleError, ExportError
from zoo.frozen import Frozen
from zoo.models.config import GatedConfig
from zoo.models.deployable import Deployable, FusedEnsemble, Gated, Localized, Student
from zoo.outputs import MOVE, exists, is_unchanged, refusal
from zoo.preprocess import MIN_IMGSZ

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoo.bundle.bundle import BundleConfig
    from zoo.models.classifier import ImageClassifier
    from zoo.models.segmentation import SegmentationNetwork


BACKGROUND = "background"
NO_BACKGROUND = "none"


class Composition(Frozen):
    """Requested composition; by default, nothing.

    Args:
        branch: branch of an ensemble to keep.
        fuse_weight: weight of the first branch of an ensemble.
        gate: bundle of a classifier that decides which classes may appear in a mask.
        gate_threshold: a class is kept if its probability is above this; None for the paper's 0.2.
        background: class that the gate never removes, or `none`; None for the class named `background`, if
            it exists.
        imgsz: height and width that images are resized to; None for the model's. All backends of a bundle
            share one preprocessing.
    """

    branch: Literal["both", "1", "2"] = "both"
    fuse_weight: float | None = None
    gate: Path | None = None
    gate_threshold: float | None = None
    background: str | None = None
    imgsz: tuple[int, int] | None = None

    @property
    def suffix(self) -> str:
        """Return the suffix of the new bundle's name; empty if there is nothing to compose."""
        names = (
            "" if self.branch == "both" else f"-branch_{self.branch}",
            "" if self.fuse_weight is None else f"-fused_{self.fuse_weight:g}",
            "" if self.gate is None else "-gated",
            "" if self.imgsz is None else "-{}x{}".format(*self.imgsz),
        )
        return "".join(names)

    def check(self) -> None:
        """Check that the options fit together.

        Raises:
            ExportError: an option does not fit; the message names it.
        """
        weight, threshold = self.fuse_weight, self.gate_threshold
        if weight is not None and not 0 < weight < 1:
            raise ExportError(
                f"--fuse-weight {weight:g} drops a branch, expected more than 0 and less than 1: --branch 1 "
                "or 2 "
                f"exports one alone"
            )
        if weight is not None and self.branch != "both":
            raise ExportError(
                f"--fuse-weight {weight:g} needs both branches, got --branch {self.branch}: leave one of "
                "them out"
            )
        if self.gate is None and (threshold is not None or self.background is not None):
            raise ExportError("--gate-threshold and --background configure a gate, expected --gate with them")
        if threshold is not None and not 0 <= threshold < 1:
            raise ExportError(f"--gate-threshold {threshold:g} is not a probability, expected 0 <= X < 1")
        if self.imgsz is not None and min(self.imgsz) < MIN_IMGSZ:
            height, width = self.imgsz
            raise ExportError(
                f"--imgsz {height},{width} is too small, expected at least {MIN_IMGSZ} pixels per side"
            )


def compose(
    bundle: Path, composition: Composition, out: Path | None, on_event: Callable[[str], None]
) -> Path:
    """Write the composed bundle and return its folder: `bundle` itself if there is nothing to compose.

    Args:
        bundle: bundle folder of a segmentation model.
        composition: requested composition.
        out: folder of the new bundle; None for one next to `bundle`, e.g. `bundle-gated`.
        on_event: called with a line that names the new bundle and its parts.

    Raises:
        ExportError: the options or the parts do not fit together, or `out` has other contents.
        BundleError: a part is not a usable bundle.
    """
    composition.check()
    if composition.imgsz == load_config(bundle).preprocessing.imgsz:
        composition = composition.model_copy(update={"imgsz": None})
    if not composition.suffix:
        return bundle
    folder = out or _beside(bundle, composition.suffix)
    sources = (bundle,) if composition.gate is None else (bundle, composition.gate)
    if folder.resolve() in [source.resolve() for source in sources]:
        raise ExportError(f"--out {folder} is a part of the new bundle, expected another folder")
    check_out(folder, bundle)
    deployable, config = load_bundle(bundle)
    parts = {"segmentation": origin(bundle, config)}
    deployable, config = _changed(deployable, config, composition)
    if composition.gate is not None:
        classifier, other = load_classifier(composition.gate)
        if isinstance(deployable, Localized):
            deployable = deployable.segmentation
            on_event("the error localizer is left out: it judges predictions without a gate")
        check_fit(config, other, composition.gate)
        deployable = under_gate(deployable, classifier, composition, config.names)
        parts["classifier"] = origin(composition.gate, other)
        config = _updated(config, method=f"{config.method} + {other.method}")
        on_event(_remark(deployable.config, config.names))
        warn_of_other_labels(config, other, on_event)
    kept = sum(parameter.numel() for parameter in deployable.parameters())
    provenance = {**config.provenance, "parameters": {"kept": kept}, "parts": parts}
    config = _updated(
        config, deployable=deployable.config, provenance=provenance, metrics={}, reliability=None
    )
    save_bundle(folder, deployable, config, model_card(config))
    on_event(f"composed {folder} from {' and '.join(map(str, sources))}")
    return folder


def _changed(
    deployable: Deployable, config: BundleConfig, composition: Composition
) -> tuple[Deployable, BundleConfig]:
    """Return a model and its configuration with the changes of a composition, except its gate."""
    if composition.branch != "both":
        network = _ensemble(deployable).branches[int(composition.branch) - 1]
        deployable = Student(cast("SegmentationNetwork", network))
        config = _updated(config, weights=f"branch_{composition.branch}")
    if composition.fuse_weight is not None:
        deployable = _ensemble(deployable)
        deployable.config = deployable.config.model_copy(update={"weight_1": composition.fuse_weight})
    if composition.imgsz is not None:
        preprocessing = config.preprocessing.model_copy(update={"imgsz": composition.imgsz})
        config = _updated(config, preprocessing=preprocessing)
    return deployable, config


def origin(folder: Path, config: BundleConfig) -> dict[str, Any]:
    """Return the provenance entry of a part, which identifies it."""
    kept = config.model_dump(
        mode="json", include={"method", "weights", "preprocessing", "recipe", "provenance", "metrics"}
    )
    return {"folder": str(folder), "weights_sha256": sha256(folder / WEIGHTS_NAME), **kept}


def check_fit(config: BundleConfig, classifier: BundleConfig, folder: Path) -> None:
    """Check that a classifier has the classes and the input of a segmentation model.

    Args:
        config: configuration of the segmentation model.
        classifier: configuration of the classifier.
        folder: folder of the classifier, for the message.

    Raises:
        ExportError: they differ; the message says how.
    """
    if classifier.names != config.names:
        raise ExportError(
            f"--gate {folder} has the classes {', '.join(classifier.names)}, expected the model's in the "
            f"same order, {', '.join(config.names)}: train it on the model's data"
        )
    got, expected = classifier.preprocessing, config.preprocessing
    if got.format != expected.format:
        raise ExportError(
            f"--gate {folder} takes images of {got.format}, ranges {got.format.bounds}, expected the model's "
            f"{expected.format}, ranges {expected.format.bounds}: train it on the model's data"
        )
    if (got.mean, got.std) != (expected.mean, expected.std):
        raise ExportError(
            f"--gate {folder} takes images of mean {got.mean} and std {got.std}, expected the model's "
            f"{expected.mean} and {expected.std}, because both get the same input: train it with these"
        )


def warn_of_other_labels(
    config: BundleConfig, classifier: BundleConfig, on_event: Callable[[str], None]
) -> None:
    """Warn if the two were trained on different labeled images, so that the gate adds labels."""
    of_model, of_gate = (each.provenance["partition"] for each in (config, classifier))
    if of_model["digest"] != of_gate["digest"]:
        on_event(
            f"the gate was trained on {of_gate['counts']['labeled']} labeled images (partition "
            f"{of_gate['digest']}), the model on {of_model['counts']['labeled']} ({of_model['digest']}): "
            f"compare the result only with methods that use the same images"
        )


def under_gate(
    deployable: Deployable, classifier: ImageClassifier, composition: Composition, names: tuple[str, ...]
) -> Gated:
    """Return a model with a classifier as its gate.

    Args:
        deployable: segmentation model; used as it is, not copied.
        classifier: classifier of the same classes; used as it is, not copied.
        composition: threshold and background of the gate.
        names: names of the classes.

    Raises:
        ExportError: the model has a gate already, or the background is not a class.
    """
    if isinstance(deployable, Gated):
        raise ExportError(
            "MODEL has a gate already, expected one without: export the model that it was composed from"
        )
    gate = GatedConfig(
        segmentation=deployable.config,
        classifier=classifier.config,
        background=background_label(names, composition.background),
    )
    if composition.gate_threshold is not None:
        gate = gate.model_copy(update={"threshold": composition.gate_threshold})
    return Gated(deployable, classifier, gate)


def background_label(names: tuple[str, ...], wanted: str | None) -> int | None:
    """Return the label of the class that a gate never removes.

    Args:
        names: names of the classes.
        wanted: one of them, or `none`; None for the class named `background`, if it exists.

    Raises:
        ExportError: `wanted` is not a class.
    """
    if wanted is None:
        return names.index(BACKGROUND) if BACKGROUND in names else None
    if wanted in names:
        return names.index(wanted)
    if wanted == NO_BACKGROUND:
        return None
    raise ExportError(
        f"--background {wanted} is not a class, expected {NO_BACKGROUND} or one of {', '.join(names)}"
    )


def _beside(bundle: Path, suffix: str) -> Path:
    named = bundle if bundle.name not in ("", "..") else bundle.resolve()
    return named.with_name(f"{named.name}{suffix}")


def _ensemble(deployable: Deployable) -> FusedEnsemble:
    if isinstance(deployable, FusedEnsemble):
        return deployable
    raise ExportError(
        f"--branch and --fuse-weight need an ensemble, such as rrn's, got a model of kind "
        f"{deployable.config.kind}: leave them out"
    )


def _remark(gate: GatedConfig, names: tuple[str, ...]) -> str:
    if gate.background is None:
        return f"gate at {gate.threshold:g}: it may remove any class; --background NAME keeps one"
    return f"gate at {gate.threshold:g}: it never removes {names[gate.background]}"


def _updated(config: BundleConfig, **changes: Any) -> BundleConfig:
    return config.model_copy(update=changes)


def check_out(out: Path, bundle: Path) -> None:
    """Check that a bundle can be written to a folder without losing other contents.

    Args:
        out: output folder; must be new, empty, or an earlier export of the same run.
        bundle: bundle to export.

    Raises:
        ExportError: the folder has other contents, or another model.
        ZooError: its files were edited since they were written.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / CONFIG_NAME).is_file():
        raise ExportError(f"{out} exists and is not a bundle: choose a new folder with --out, or delete it")
    try:
        recipe, listed = load_config(out).recipe, read_manifest(out).files
    except BundleError as error:
        raise ExportError(f"{error}; expected a bundle in --out {out}: choose a new folder") from error
    if recipe != load_config(bundle).recipe:
        raise ExportError(
            f"--out {out} has the bundle of another run, expected one of the run of {bundle}: choose a new "
            f"folder"
        )
    edited = [
        name
        for name in MODEL_FILES
        if name in listed and exists(out / name) and not is_unchanged(out / name, [listed[name].sha256])
    ]
    if edited:
        raise refusal(out, edited, "--out", MOVE)


def copy_bundle(bundle: Path, out: Path) -> Path:
    """Copy a bundle without its artifacts and return the new folder.

    Raises:
        ZooError: the folder exists with other contents.
    """
    if out.exists() and out.samefile(bundle):
        return bundle
    check_out(out, bundle)
    out.mkdir(parents=True, exist_ok=True)
    for name in MODEL_FILES:
        if (bundle / name).is_file():
            with replacing(out / name) as path:
                shutil.copyfile(bundle / name, path)
    return out
