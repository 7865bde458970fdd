"""Model card of a bundle: a description of the model and its measurements."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.bundle.bundle import CARD_NAME, CONFIG_NAME, load_config, write_json, write_text
from zoo.bundle.manifest import MANIFEST_NAME, FileEntry, read_manifest
from zoo.card.licenses import license_table, stated_license
from zoo.card.metadata import metadata, title
from zoo.card.tables import (
    BENCHMARK_NAME,
    agreement_section,
    escaped,
    latency_section,
    markdown_table,
    reliability_section,
)
from zoo.card.text import facts, introduction, limits, measured

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from zoo.bundle.bundle import BundleConfig

PREVIEW_NAME = "preview.png"

USE = ("zoo predict FOLDER image.jpg --overlay", "zoo export FOLDER --onnx --trt")
USE_CLASSIFIER = ("zoo export MODEL --gate FOLDER",)
USE_IN_PYTHON = (
    "```python",
    "import zoo",
    'model = zoo.load("owner/name")  # or the folder of this file',
    'mask = model("image.jpg")  # (height, width) indices into model.classes',
    "```",
    "",
)

LICENSE_NOTE = "The license of this model is in the metadata of this card: `unknown` until it is stated."


def model_card(config: BundleConfig, folder: Path | None = None) -> str:
    """Return the model card as Markdown with the Hub's metadata block.

    Args:
        config: configuration of the bundle.
        folder: folder of the bundle, to add its exports, benchmark and picture, and to keep the license in
            its card; None to leave them out.

    Raises:
        BundleError: the card, manifest or benchmark in the folder cannot be read.
    """
    is_classifier = config.deployable.kind == "classifier"
    lines = [
        metadata(config, {} if folder is None else stated_license(folder / CARD_NAME)),
        "",
        f"# {title(config)}",
        "",
        *introduction(config),
        *_picture(folder),
        "",
        "## Use",
        "",
        *(() if is_classifier else USE_IN_PYTHON),
        *(f"    {command}" for command in (USE_CLASSIFIER if is_classifier else USE)),
        "",
        "## Model",
        "",
        *facts(config),
        "",
        "## Measured",
        "",
        *measured(config),
        *reliability_section(config),
        *(() if folder is None else (*agreement_section(folder), *latency_section(folder))),
        "",
        "## License",
        "",
        *markdown_table(
            ("of", "license", "known from"),
            [tuple(map(escaped, row)) for row in license_table(config)],
            align="---",
        ),
        "",
        LICENSE_NOTE,
        "",
        "## Limits",
        "",
        *(f"- {limit}" for limit in limits(config)),
    ]
    return "\n".join(lines) + "\n"


def refresh_card(bundle: Path) -> None:
    """Rewrite the card of a bundle with its current exports and measurements, and update its manifest.

    Args:
        bundle: folder of the bundle; of an existing README.md, only the license is kept.

    Raises:
        BundleError: the folder is not a bundle, or its card, manifest or benchmark cannot be read.
    """
    write_text(bundle / CARD_NAME, model_card(load_config(bundle), bundle))
    files = [bundle / CARD_NAME, bundle / CONFIG_NAME]
    _rehash(bundle, [*files, *(bundle / BENCHMARK_NAME).parent.glob("benchmark.*")])


def _picture(folder: Path | None) -> list[str]:
    if folder is None or not (folder / PREVIEW_NAME).is_file():
        return []
    return ["", f"![Images of val, their masks, the masks of the model]({PREVIEW_NAME})"]


def _rehash(bundle: Path, paths: Iterable[Path]) -> None:
    """Update the hashes of some files in the manifest, if there is one."""
    if (bundle / MANIFEST_NAME).is_file():
        manifest = read_manifest(bundle)
        entries = {path.relative_to(bundle).as_posix(): FileEntry.of(path) for path in paths}
        files = dict(sorted({**manifest.files, **entries}.items()))
        updated = manifest.model_copy(update={"files": files})
        write_json(bundle / MANIFEST_NAME, updated.model_dump(mode="json"))
