"""Export of a bundle: artifacts get their final names after a comparison with the model."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from zoo.bundle.bundle import (
    WEIGHTS_NAME,
    check_writable,
    load_config,
    remove_leftovers,
    replacing,
    write_json,
)
from zoo.bundle.manifest import MANIFEST_NAME, read_manifest, sha256
from zoo.bundle.weights import load_bundle
from zoo.card.card import refresh_card
from zoo.errors import ExportError, ParityError
from zoo.export.calibrate import calibration_pool, choose
from zoo.export.check import Checker, find_runtime
from zoo.export.compose import copy_bundle
from zoo.export.graph.fold import prepare
from zoo.export.graph.photo import PHOTO_NAMES, check_photo, export_photo, photo_metadata
from zoo.export.graph.to_onnx import check_onnx, export_onnx
from zoo.export.manifest import Artifact, ExportReport, update_manifest, versions
from zoo.export.parity.compare import check_parity
from zoo.export.quantize import INT8_NAMES, Quantizer, Ranges, more_excluded
from zoo.export.to_tensorrt import (
    build_engine,
    build_targets,
    engine_name,
    is_built,
    load_builder,
    make_profile,
    plan_engine,
)
from zoo.predictors.artifact import (
    ONNX_NAMES,
    TRT_ONNX_NAMES,
    ArtifactMetadata,
    Precision,
    info_path,
    read_engine_info,
)
from zoo.predictors.backends import ENGINES
from zoo.predictors.outputs import LOGITS, OUTPUTS, parse_outputs, uncalibrated
from zoo.predictors.runtimes.ort import OrtPredictor
from zoo.predictors.runtimes.trt import TrtPredictor, why_not_here
from zoo.preprocess import normalize, resize_image

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoo.bundle.bundle import BundleConfig
    from zoo.bundle.reliability import Calibration
    from zoo.export.options import ExportOptions
    from zoo.export.parity.compare import Parity
    from zoo.export.quantize import Flavor
    from zoo.export.to_tensorrt import Target
    from zoo.predictors.base import Predictor
    from zoo.predictors.exported import ExportedPredictor
    from zoo.predictors.runtimes.trt_api import TensorRt


def export_bundle(
    bundle: Path, options: ExportOptions, on_event: Callable[[str], None] = lambda _: None
) -> ExportReport:
    """Export a bundle and return a report.

    An artifact that fails its comparison is removed; the others are still exported. If the export ends early,
    the artifacts that passed until then are kept and recorded in the manifest.

    Args:
        bundle: bundle folder; the artifacts are written to it.
        options: options of the export.
        on_event: called with a line for each step.

    Raises:
        ParityError: an artifact failed; the message has a table of the differences.
        ExportError: the export is not possible for another reason.
        ZooError: the folder cannot be written.
    """
    options.check()
    check_calibrated(bundle, options.output)
    check_format(bundle, options)
    api = load_builder(options.sm) if options.trt else None
    targets = build_targets(api, options.sm) if api else ()
    if options.out is not None:
        bundle = copy_bundle(bundle, options.out)
    check_writable(bundle)
    remove_leftovers(bundle)
    export = Export(bundle, options, on_event)
    try:
        for precision in options.precisions:
            if precision == "int8":
                export.make_int8()
            else:
                export.make_onnx(precision)
        for precision in options.engine_precisions:
            for target in targets:
                assert api is not None
                export.make_engine(api, target, precision)
    finally:
        export.record()
    return export.report()


def check_format(bundle: Path, options: ExportOptions) -> None:
    """Raise if an export supports only 8-bit RGB, and the model takes other images.

    Raises:
        ExportError: engines and int8 files are of RGB only.
    """
    format_ = load_config(bundle).preprocessing.format
    asked = {"--trt": options.trt, "--precision int8": "int8" in options.precisions}
    for option, is_asked in asked.items():
        if is_asked and not format_.is_rgb:
            raise ExportError(
                f"{option} is supported for 8-bit RGB, {bundle} takes {format_}: export --onnx in fp32, fp16 "
                f"or bf16"
            )


def check_calibrated(bundle: Path, output: str) -> None:
    """Raise unless a bundle has the calibration that its outputs need.

    Raises:
        ExportError: an output needs it.
    """
    for name in parse_outputs(output):
        if OUTPUTS[name].calibrated and load_config(bundle).calibration is None:
            raise ExportError(f"--output {output}: {uncalibrated(name).replace('MODEL', str(bundle))}")


def kept_calibration(config: BundleConfig, output: str) -> Calibration | None:
    """Return the calibration of a model for files that need it; others do not change with it."""
    names, found = parse_outputs(output), config.calibration
    is_used = found is not None and LOGITS in names and found.is_from_logits
    return found if is_used or any(OUTPUTS[name].calibrated for name in names) else None


class Export:
    """State of one export of one bundle.

    Args:
        bundle: bundle folder.
        options: options of the export.
        say: called with a line for each step.
    """

    def __init__(self, bundle: Path, options: ExportOptions, say: Callable[[str], None]) -> None:
        self.bundle = bundle
        self.options = options
        self.say = say
        self.made: list[Artifact] = []
        self.failed: dict[str, Parity] = {}
        deployable, config = load_bundle(bundle)
        self.config, self.preprocessing = config, config.preprocessing
        self.weights_sha256 = sha256(bundle / WEIGHTS_NAME)
        self.checker = Checker(deployable, self.config, options, say)
        images = self.checker.images
        image = resize_image(images.images[0], self.preprocessing.imgsz)
        sample = torch.from_numpy(image.copy()).permute(2, 0, 1)[None]
        if options.resize_in_graph:
            check_photo(self._metadata("fp32"))
        self.prepared = prepare(deployable, normalize(sample, self.preprocessing))
        say(
            f"folded {self.prepared.fused} BatchNorms with a maximum logit change of "
            f"{self.prepared.logit_difference:.1e}; comparing on {images.origin}"
        )

    def make_onnx(self, precision: Precision) -> None:
        """Export, compare and keep one ONNX file."""
        path = self.bundle / ONNX_NAMES[precision]
        metadata = self._metadata(precision)
        parity = None
        self.say(f"{path.name}: exporting")
        try:
            with replacing(path) as temporary:
                facts = export_onnx(self.prepared.deployable, metadata, temporary)
                runtime, remark = find_runtime(temporary, precision)
                if runtime is not None:
                    parity = self._compare_onnx(path, runtime, precision)
        except ParityError:
            self._discard(path)
            return
        if remark:
            self.say(f"warning: {path.name} was not compared with the model: {remark}")
        self._keep(path, parity, remark, {**facts._asdict(), "metadata": metadata.model_dump(mode="json")})
        if self.options.resize_in_graph and precision in PHOTO_NAMES:
            self._make_photo(path, metadata)

    def _make_photo(self, network: Path, metadata: ArtifactMetadata) -> None:
        """Make, compare and keep the file that takes photos of any size."""
        path = self.bundle / PHOTO_NAMES[metadata.precision]
        try:
            with replacing(path) as temporary:
                facts = export_photo(network, metadata, temporary)
                parity = self.checker.compare_photos(path.name, OrtPredictor(temporary))
                if not parity.passed:
                    self.failed[path.name] = parity
                check_parity({path.name: parity})
        except ParityError:
            path.unlink(missing_ok=True)
            return
        own = photo_metadata(metadata).model_dump(mode="json")
        self._keep(path, parity, "", {**facts._asdict(), "metadata": own})

    def make_int8(self) -> None:
        """Calibrate once; quantize, compare and keep a file for each requested target."""
        options = self.options
        pool = calibration_pool(
            options.calibration_data, self.config.recipe, self.config.provenance.get("partition", {})
        )
        self.say(f"int8: selecting {options.calibration_images} calibration images from {pool.origin}")
        images = choose(pool, options.calibration_images, self.prepared.deployable, self.preprocessing)
        with tempfile.TemporaryDirectory(prefix="zoo-int8-") as name:
            fp32 = self.bundle / ONNX_NAMES["fp32"]
            if fp32.name not in {artifact.name for artifact in self.made}:
                fp32 = Path(name) / fp32.name
                self.say("int8: exporting the fp32 graph to quantize")
                export_onnx(self.prepared.deployable, self._metadata("fp32"), fp32)
            quantizer = Quantizer(fp32, images, self._metadata("int8"), Path(name))
            ranges = self._choose_ranges(quantizer)
            excluded: tuple[str, ...] = ()
            for flavor in options.int8_for:
                excluded = self._quantize(quantizer, ranges, flavor, excluded)

    def make_engine(self, api: TensorRt, target: Target, precision: Precision) -> None:
        """Build one engine, compare it if this machine can run it, and keep it."""
        onnx = self.bundle / TRT_ONNX_NAMES[precision]
        if onnx.name in self.failed:
            self.say(f"no engine: {onnx.name} differs from the model")
            return
        profile = make_profile(self.preprocessing.imgsz, self.options.batch)
        planned = plan_engine(api, onnx, self._metadata(precision), target, profile)
        path = self.bundle / ENGINES / engine_name(planned)
        if is_built(path, planned) and not self.options.rebuild:
            self.say(f"{path.name}: the same engine exists, not built again")
            plan, info = path.read_bytes(), read_engine_info(path)
        else:
            self.say(f"{api.name}: building {precision} for {target.label}")
            plan, info = build_engine(api, onnx, planned, self.say)
        path.parent.mkdir(exist_ok=True)
        remark = why_not_here(info)
        parity = None
        try:
            with replacing(path) as temporary:
                temporary.write_bytes(plan)
                if not remark:
                    parity = self._compare(path, TrtPredictor(temporary, info), precision)
                write_json(info_path(path), info.model_dump(mode="json"))
        except ParityError:
            self._discard(path, info_path(path))
            return
        if remark:
            self.say(f"warning: {path.name} was built but not compared with the model: {remark}")
        self._keep(path, parity, remark, info.model_dump(mode="json"))

    def record(self) -> None:
        """Write the manifest of the exported artifacts."""
        update_manifest(self.bundle, {artifact.name: artifact.entry(versions()) for artifact in self.made})
        refresh_card(self.bundle)

    def report(self) -> ExportReport:
        """Return the report.

        Raises:
            ParityError: an artifact failed its comparison.
        """
        check_parity(self.failed)
        names = [artifact.name for artifact in self.made]
        sidecars = [f"{name}.json" for name in names if name.endswith(".engine")]
        files = *names, *sidecars, MANIFEST_NAME
        return ExportReport(bundle=str(self.bundle), artifacts=tuple(self.made), files=files)

    def _choose_ranges(self, quantizer: Quantizer) -> Ranges:
        """Return the calibration method; `auto` compares all on images that were not used for calibration."""
        if self.options.calibration != "auto":
            return Ranges(self.options.calibration, {})
        method, scores = quantizer.best_method(lambda path: self.checker.agreement(OrtPredictor(path)))
        self.say("int8: agreement by calibration: " + ", ".join(f"{k} {v:.5f}" for k, v in scores.items()))
        return Ranges(method, scores)

    def _quantize(
        self, quantizer: Quantizer, ranges: Ranges, flavor: Flavor, excluded: tuple[str, ...]
    ) -> tuple[str, ...]:
        """Export one int8 file and return its layers in fp32; `auto_exclude` adds some until it passes."""
        path = self.bundle / INT8_NAMES[flavor]
        while True:
            made = quantizer.build(ranges.method, flavor, excluded)
            facts = check_onnx(made, quantizer.metadata)
            runtime = OrtPredictor(made)
            try:
                parity = self._compare(path, runtime, "int8")
            except ParityError:
                more = None
                if self.options.auto_exclude:
                    more = more_excluded(quantizer.fp32, made, excluded, self.checker.batch(1))
                if more is None:
                    self._explain(path, runtime, "int8")
                    self._discard(path)
                    return excluded
                del self.failed[path.name]
                excluded = more
                self.say(f"{path.name}: keeping {len(excluded)} layers in fp32: {', '.join(excluded)}")
            else:
                break
        with replacing(path) as temporary:
            shutil.copyfile(made, temporary)
        metadata = quantizer.metadata.model_dump(mode="json")
        calibration = quantizer.facts(*ranges, excluded)
        self._keep(path, parity, "", {**facts._asdict(), "metadata": metadata, **calibration})
        return excluded

    def _metadata(self, precision: Precision) -> ArtifactMetadata:
        return ArtifactMetadata(
            names=self.config.names,
            palette=self.config.palette,
            preprocessing=self.preprocessing,
            precision=precision,
            output=self.options.output,
            weights_sha256=self.weights_sha256,
            smallest=self.checker.reference.limits.low[1:],
            calibration=kept_calibration(self.config, self.options.output),
        )

    def _compare_onnx(self, path: Path, runtime: ExportedPredictor, precision: Precision) -> Parity:
        """Compare a file; if it fails, look for the first layer that differs."""
        try:
            return self._compare(path, runtime, precision)
        except ParityError:
            self._explain(path, runtime, precision)
            raise

    def _explain(self, path: Path, runtime: ExportedPredictor, precision: Precision) -> None:
        """Record which layer of a failed file differs; ONNX Runtime cannot run the layers of bf16 files."""
        if precision != "bf16":
            parity = self.failed[path.name]
            departure = self.checker.explain(runtime.path, parity, self.prepared, precision)
            self.failed[path.name] = parity.model_copy(update={"departure": departure})

    def _compare(self, path: Path, artifact: Predictor, precision: Precision) -> Parity:
        parity = self.checker.compare(path.name, artifact, precision)
        if not parity.passed:
            self.failed[path.name] = parity
            errors = "".join(f", error of {name} {error:.2g}" for name, error in parity.errors.items())
            self.say(f"{path.name}: FAILED, agreement {parity.agreement:.6f}{errors}")
        check_parity({path.name: parity})
        return parity

    def _discard(self, *paths: Path) -> None:
        """Remove the files of an earlier export, unless they passed with these weights and preprocessing."""
        name, manifest = paths[0].relative_to(self.bundle).as_posix(), read_manifest(self.bundle)
        entry = manifest.artifacts.get(name, {})
        metadata = self._metadata("fp32").model_dump(mode="json", include={"weights_sha256", "preprocessing"})
        recorded = entry.get("metadata", {})
        passed = (entry.get("parity") or {}).get("passed", False)
        passed = passed and all(recorded.get(key) == value for key, value in metadata.items())
        if passed and paths[0].is_file() and sha256(paths[0]) == manifest.files[name].sha256:
            self.say(f"{name}: the file of an earlier export, which passed, is kept")
            return
        for path in paths:
            path.unlink(missing_ok=True)

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
