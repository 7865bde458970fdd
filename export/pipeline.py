"""From a bundle to artifacts beside it, each under its name only after it was compared with the model."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import torch
from pydantic import BaseModel, ConfigDict

from zoo.bundle import CARD_NAME, CONFIG_NAME, WEIGHTS_NAME, load_bundle, replacing, write_json
from zoo.errors import ExportError, ParityError
from zoo.export.images import parity_images
from zoo.export.manifest import update_manifest, versions
from zoo.export.parity import GATES, Gate, Parity, check_parity, compare, parity_shapes
from zoo.export.prepare import prepare
from zoo.export.to_onnx import export_onnx
from zoo.export.to_tensorrt import (
    Target,
    build_engine,
    build_targets,
    engine_name,
    load_builder,
    make_profile,
)
from zoo.predictors.artifact import ArtifactMetadata, Precision, info_path, sha256
from zoo.predictors.eager import EagerPredictor
from zoo.predictors.load import ENGINES
from zoo.predictors.ort import OrtPredictor
from zoo.predictors.trt import TrtPredictor, why_not_here
from zoo.preprocess import normalize, resize_image

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from zoo.export.options import ExportOptions
    from zoo.predictors.base import Predictor
    from zoo.predictors.trt_api import TensorRt

ONNX_NAMES: dict[Precision, str] = {"fp32": "model.onnx", "fp16": "model.fp16.onnx"}


class Artifact(BaseModel):
    """One exported file.

    Args:
        name: path inside the bundle.
        precision: of the network.
        bytes: its size.
        parity: None if it could not be run here.
        remark: why there is no parity.
        facts: what else the manifest says of it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    precision: Precision
    bytes: int
    parity: Parity | None
    remark: str = ""
    facts: dict[str, Any]


class ExportReport(BaseModel):
    """What an export made.

    Args:
        bundle: the folder that holds it.
        artifacts: in the order they were made.
        files: names of the files written, the manifest among them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    bundle: str
    artifacts: tuple[Artifact, ...]
    files: tuple[str, ...]


def export_bundle(
    bundle: Path, options: ExportOptions, on_event: Callable[[str], None] = lambda _: None
) -> ExportReport:
    """Export a bundle and return what was made.

    An artifact that fails its comparison is removed; the others are made and kept all the same.

    Args:
        bundle: its folder, which the artifacts are written to.
        options: what to make.
        on_event: told of each step in one line.

    Raises:
        ParityError: with a table of what differed.
        ExportError: something else cannot be done.
    """
    options.check()
    api = load_builder(options.sm) if options.trt else None
    targets = build_targets(api, options.sm) if api else ()
    if options.out is not None:
        bundle = copy_bundle(bundle, options.out)
    export = Export(bundle, options, on_event)
    for precision in options.precisions:
        export.make_onnx(precision)
    for target in targets:
        assert api is not None
        export.make_engine(api, target)
    return export.finish()


def check_out(out: Path) -> None:
    """Raise unless a bundle can be written to a folder.

    Raises:
        ExportError: other contents are there.
    """
    if out.exists() and not (out / CONFIG_NAME).is_file() and (out.is_file() or any(out.iterdir())):
        raise ExportError(f"{out} exists and is no bundle: name a new folder with --out, or delete it")


def copy_bundle(bundle: Path, out: Path) -> Path:
    """Copy the model, not its artifacts, and return the new folder.

    Raises:
        ExportError: a folder with other contents is there.
    """
    check_out(out)
    if out.exists() and out.samefile(bundle):
        return bundle
    out.mkdir(parents=True, exist_ok=True)
    for name in (WEIGHTS_NAME, CARD_NAME, CONFIG_NAME):
        if (bundle / name).is_file():
            with replacing(out / name) as path:
                shutil.copyfile(bundle / name, path)
    return out


class Export:
    """One export of one bundle: what its steps share, and what they made.

    Args:
        bundle: its folder.
        options: what to make.
        say: told of each step.
    """

    def __init__(self, bundle: Path, options: ExportOptions, say: Callable[[str], None]) -> None:
        self.bundle = bundle
        self.options = options
        self.say = say
        self.made: list[Artifact] = []
        self.failed: dict[str, Parity] = {}
        deployable, self.config = load_bundle(bundle)
        imgsz = options.imgsz or self.config.preprocessing.imgsz
        self.preprocessing = self.config.preprocessing.model_copy(update={"imgsz": imgsz})
        self.weights_sha256 = sha256(bundle / WEIGHTS_NAME)
        self.images = parity_images(options.images, self.config.recipe, say)
        self.reference = EagerPredictor(deployable, self.config)
        sample = torch.from_numpy(resize_image(self.images.images[0], imgsz).copy()).permute(2, 0, 1)[None]
        self.prepared = prepare(deployable, normalize(sample, self.preprocessing))
        say(
            f"folded {self.prepared.fused} BatchNorms, largest change of a logit "
            f"{self.prepared.logit_difference:.1e}; comparing on {self.images.origin}"
        )

    def make_onnx(self, precision: Precision) -> None:
        """Export, compare and keep one ONNX file."""
        path = self.bundle / ONNX_NAMES[precision]
        metadata = ArtifactMetadata(
            names=self.config.names,
            palette=self.config.palette,
            preprocessing=self.preprocessing,
            precision=precision,
            output=self.options.output,
            weights_sha256=self.weights_sha256,
        )
        self.say(f"{path.name}: exporting")
        try:
            with replacing(path) as temporary:
                facts = export_onnx(self.prepared.deployable, metadata, temporary)
                parity = self._compare(path, OrtPredictor(temporary), precision)
        except ParityError:
            path.unlink(missing_ok=True)  # of an earlier export, whose weights or options were others
            return
        self._keep(path, parity, "", {**facts._asdict(), "metadata": metadata.model_dump(mode="json")})

    def make_engine(self, api: TensorRt, target: Target) -> None:
        """Build, compare if this machine can run it, and keep one engine."""
        onnx = self.bundle / ONNX_NAMES[self.options.engine_precision]
        if onnx.name in self.failed:
            self.say(f"no engine: {onnx.name} differs from the model")
            return
        metadata = OrtPredictor(onnx).metadata
        profile = make_profile(self.preprocessing.imgsz, self.options.batch)
        self.say(f"{api.name}: building {metadata.precision} for {target.label}")
        plan, info = build_engine(api, onnx, metadata, target, profile)
        path = self.bundle / ENGINES / engine_name(info)
        path.parent.mkdir(exist_ok=True)
        remark = why_not_here(info)
        parity = None
        try:
            with replacing(path) as temporary:
                temporary.write_bytes(plan)
                if not remark:
                    parity = self._compare(path, TrtPredictor(temporary, info), metadata.precision)
                write_json(info_path(path), info.model_dump(mode="json"))
        except ParityError:
            path.unlink(missing_ok=True)
            info_path(path).unlink(missing_ok=True)
            return
        if remark:
            self.say(f"warning: {path.name} was built but not compared with the model: {remark}")
        self._keep(path, parity, remark, info.model_dump(mode="json"))

    def finish(self) -> ExportReport:
        """Write the manifest and return what was made.

        Raises:
            ParityError: an artifact failed its comparison.
        """
        entries = {artifact.name: _entry(artifact) for artifact in self.made}
        manifest = update_manifest(self.bundle, entries)
        check_parity(self.failed)
        sidecars = [f"{name}.json" for name in entries if name.endswith(".engine")]
        files = *entries, *sidecars, manifest.name
        return ExportReport(bundle=str(self.bundle), artifacts=tuple(self.made), files=files)

    def _compare(self, path: Path, artifact: Predictor, precision: Precision) -> Parity:
        gate = GATES[precision]
        if self.options.min_agreement is not None:
            gate = Gate(min_agreement=self.options.min_agreement)
        shapes = parity_shapes(self.preprocessing.imgsz, self.options.batch[2])
        self.say(f"{path.name}: comparing at {len(shapes)} shapes with {artifact.description}")
        parity = compare(artifact, self.reference, self.images, shapes, gate)
        if not parity.passed:
            self.failed[path.name] = parity
            self.say(f"{path.name}: FAILED, agreement {parity.agreement:.6f}")
        check_parity({path.name: parity})
        return parity

    def _keep(self, path: Path, parity: Parity | None, remark: str, facts: dict[str, Any]) -> None:
        artifact = Artifact(
            name=path.relative_to(self.bundle).as_posix(),
            precision=facts["metadata"]["precision"],
            bytes=path.stat().st_size,
            parity=parity,
            remark=remark,
            facts=facts,
        )
        self.made.append(artifact)
        agreement = "" if parity is None else f", agreement {parity.agreement:.6f}"
        self.say(f"{artifact.name}: {artifact.bytes / 1e6:.1f} MB{agreement}")


def _entry(artifact: Artifact) -> dict[str, Any]:
    """Return what the manifest says of an artifact."""
    parity = None
    if artifact.parity is not None:
        parity = {**artifact.parity.model_dump(mode="json"), "agreement": artifact.parity.agreement}
    return {
        "precision": artifact.precision,
        "versions": versions(),
        "parity": parity,
        "remark": artifact.remark,
        **artifact.facts,
    }
