"""Runs and bundles as objects: `zoo.Bundle`, and what it shares with `zoo.Run`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from zoo.api.benchmark import benchmark
from zoo.api.evaluate import evaluate
from zoo.api.export import export
from zoo.api.model import load
from zoo.resolve import ModelLike, model_text, resolve_bundle

if TYPE_CHECKING:
    from zoo.api.advise import Advice
    from zoo.export.manifest import ExportReport


class Trained(os.PathLike[str]):
    """A trained model on disk, which every function accepts as MODEL.

    Args:
        path: folder of the model.
    """

    path: Path

    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

    load = load
    evaluate = evaluate
    export = export
    benchmark = benchmark


class Bundle(Trained):
    """The stripped model: network, class names, preprocessing, and the files exported from it.

    Args:
        model: a run, whose bundle is taken, a bundle folder, or a name in a registry, which is pulled; None
            for the newest run.

    Attributes:
        path: folder of the bundle.
        exported: report of the export that returned this object, None for others.
        advice: candidates of an export with `precision="auto"`, None for others.
        triton: names of the models written to the repository of `triton`.
    """

    exported: ExportReport | None = None
    advice: Advice | None = None
    triton: tuple[str, ...] = ()

    def __init__(self, model: ModelLike = None) -> None:
        super().__init__(resolve_bundle(model_text(model)))

    @classmethod
    def of_export(
        cls,
        path: Path,
        *,
        exported: ExportReport | None = None,
        advice: Advice | None = None,
        triton: tuple[str, ...] = (),
    ) -> Self:
        """Return the bundle that an export wrote to."""
        bundle = cls(path)
        bundle.exported, bundle.advice, bundle.triton = exported, advice, triton
        return bundle

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the class names, indexed by the values of a mask."""
        from zoo.bundle.bundle import load_config

        return load_config(self.path).names

    @property
    def artifacts(self) -> dict[str, dict[str, Any]]:
        """Return the entries of the manifest by file: bytes, SHA-256, precision, comparison with PyTorch."""
        from zoo.bundle.manifest import MANIFEST_NAME, read_manifest

        return dict(read_manifest(self.path).artifacts) if (self.path / MANIFEST_NAME).is_file() else {}
