"""Inspection of a data set: each file is read once, then checked on its own, in pairs and as a whole."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.classes import IGNORE, Classes
from zoo.data.data_file import DATA_FILE, DataFile, read_data_file
from zoo.data.files import FileSource
from zoo.data.folder import FolderSource, check_named_folders
from zoo.data.inspect.duplicates import find_duplicates
from zoo.data.inspect.facts import Facts, Job, read_facts
from zoo.data.inspect.findings import Finding, grouped, severity
from zoo.data.inspect.interpretation import find_meaning
from zoo.data.inspect.judge import (
    judge_drawn,
    judge_image,
    judge_mask,
    judge_pair,
    judge_published,
    judge_together,
    with_example,
)
from zoo.data.inspect.layout import FolderLayout, Item, Layout, relative_name
from zoo.data.inspect.meaning import Interpretation, meaning_of
from zoo.data.masks import NamedMask
from zoo.data.open import is_published, open_source
from zoo.errors import DatasetError
from zoo.image_format import RGB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from zoo.data.source import Split
    from zoo.image_format import ImageFormat

MASKED: tuple[Split, ...] = ("train", "val")
SPLITS: tuple[Split, ...] = ("train", "unlabeled", "val")


@dataclass(frozen=True)
class Inspection:
    """Result of the inspection of a data set.

    Args:
        spec: spec of the data set.
        toml: path of its `data.toml`, which may not exist.
        root: folder that the files of findings are relative to.
        items: files of each image.
        facts: facts about the files, in the same order.
        meaning: interpretation of the masks.
        findings: all findings.
        tool: name of another tool's layout.
        format: declared format of the images.
    """

    spec: str
    toml: Path
    root: Path
    items: list[Item]
    facts: list[Facts]
    meaning: Interpretation
    findings: list[Finding]
    tool: str | None = None
    format: ImageFormat = RGB

    @property
    def has_faults(self) -> bool:
        """Return whether any finding is a fault."""
        return any(severity(finding) == "fault" for finding in self.findings)

    def name(self, path: Path) -> str:
        """Return the name of a file in findings."""
        return relative_name(path, self.root)

    def pixels(self, split: Split) -> tuple[Counter[int], Counter[int]]:
        """Return for each label of a split the number of its pixels, and of the images that contain it."""
        pixels: Counter[int] = Counter()
        images: Counter[int] = Counter()
        for item, facts in zip(self.items, self.facts, strict=True):
            if item.split == split and facts.mask is not None:
                seen = self.meaning.see(facts.mask)
                found = Counter() if seen is None else seen.labels
                pixels.update(found)
                images.update(found.keys())
        return pixels, images

    def counts(self) -> dict[str, dict[str, Any]]:
        """Return for each split the numbers of images and masks, and its sizes and modes by frequency."""
        result = {}
        for split in ("train", "val", "unlabeled"):
            found = [both for item, both in zip(self.items, self.facts, strict=True) if item.split == split]
            images = [facts.image for facts in found if facts.image and not facts.image.error]
            masks = [facts.mask for facts in found if facts.mask and not facts.mask.error]
            result[split] = {
                "images": len(found),
                "masks": sum(facts.mask is not None for facts in found),
                "sizes": dict(Counter("{}x{}".format(*image.size) for image in images).most_common()),
                "image_modes": dict(Counter(image.mode for image in images).most_common()),
                "mask_modes": dict(Counter(mask.mode for mask in masks).most_common()),
            }
        return result

    def classes(self) -> list[dict[str, Any]]:
        """Return for each class, and for ignored pixels, pixels and images by split."""
        counted = {split: self.pixels(split) for split in MASKED}
        rows: list[dict[str, Any]] = []
        for label, name in [*enumerate(self.meaning.classes.names), (IGNORE, "ignored")]:
            row: dict[str, Any] = {"label": label, "name": name}
            for split, (pixels, images) in counted.items():
                row |= {f"{split}_pixels": pixels[label], f"{split}_images": images[label]}
                row[f"{split}_share"] = pixels[label] / max(1, pixels.total())
            rows.append(row)
        return rows

    def as_json(self) -> dict[str, Any]:
        """Return the output of `--json`."""
        return {
            "data": self.spec,
            "counts": self.counts(),
            "classes": self.classes(),
            "findings": grouped(self.findings),
            "ok": not self.has_faults,
        }


def inspect(
    spec: str, on_file: Callable[[int, int], None] | None = None, *, is_open: bool = False
) -> Inspection:
    """Return the inspection of a data set, including a folder that training rejects.

    Args:
        spec: a folder, a `data.toml`, or a published data set in its official layout (`voc:folder`).
        on_file: called with the number of images read and their total.
        is_open: whether training has accepted the folder as a whole, which then is not opened again.

    Raises:
        DatasetError: a missing folder or file, or a published data set with missing files.
    """
    if is_published(spec):
        source = open_source(spec)
        assert isinstance(source, FileSource)
        return _inspect_published(source, on_file)
    path = Path(spec)
    if not path.exists():
        raise DatasetError(
            f"{spec}: got neither a folder nor a {DATA_FILE}, expected one or voc:FOLDER and the like: check "
            f"the spelling; what is built in is drawn, there is nothing to check"
        )
    folder, toml = (path, path / DATA_FILE) if path.is_dir() else (path.parent, path)
    findings: list[Finding] = []
    data = _data(toml, findings) if toml.is_file() else DataFile()
    root = folder / data.root
    layout = FolderLayout(root, data, toml)
    data = layout.data
    findings += _refused(spec, layout, data, toml, is_open=is_open)
    facts = _read(layout.items, on_file, layout.format)
    meaning = _meaning(data, toml, layout, facts, findings)
    findings += [
        *layout.findings,
        *_judged(layout, facts, meaning, data),
        *meaning.findings,
        *_judged_together(layout, facts, meaning),
    ]
    inspection = Inspection(
        spec, toml, root, layout.items, facts, meaning, findings, layout.tool, layout.format
    )
    findings += _absent(inspection)
    return inspection


def inspect_source(source: FileSource, on_file: Callable[[int, int], None] | None = None) -> Inspection:
    """Return the inspection of an open source."""
    if isinstance(source, FolderSource):
        return inspect(source.spec, on_file, is_open=True)
    return _inspect_published(source, on_file)


def _inspect_published(source: FileSource, on_file: Callable[[int, int], None] | None) -> Inspection:
    """Return the inspection of a published data set, whose classes and layout are known."""
    spec = source.spec
    root = Path(spec.partition(":")[2]).expanduser()
    pairs = [(split, source.files[id_]) for split in SPLITS for id_ in source.ids(split)]
    layout = Layout(root, [Item(split, *pair) for split, pair in pairs])
    meaning, data = meaning_of(source), DataFile(names=list(source.classes.names))
    facts = _read(layout.items, on_file)
    findings = [
        *_judged(layout, facts, meaning, data),
        *judge_published(_masks(layout, facts), meaning, data),
        *_judged_together(layout, facts, meaning),
    ]
    inspection = Inspection(spec, root / DATA_FILE, root, layout.items, facts, meaning, findings)
    findings += _absent(inspection)
    return inspection


def _data(toml: Path, findings: list[Finding]) -> DataFile:
    """Return the contents of a `data.toml`; for an invalid one, add a finding and return the defaults."""
    try:
        return read_data_file(toml)
    except DatasetError as error:
        findings.append(Finding("data-file", (toml.name,), str(error).removeprefix(f"{toml}: ")))
        return DataFile()


def _refused(spec: str, layout: Layout, data: DataFile, toml: Path, *, is_open: bool) -> Iterator[Finding]:
    """Yield a finding if training rejects the description as a whole."""
    try:
        check_named_folders(data, layout.root, toml)
        if layout.drawn_names is not None and not layout.findings and not is_open:
            FolderSource(spec)
    except DatasetError as error:
        yield Finding("data-file", (), str(error))


def _read(
    items: list[Item], on_file: Callable[[int, int], None] | None, format_: ImageFormat = RGB
) -> list[Facts]:
    """Return the facts about each item, read by threads: Pillow releases the GIL while it decodes."""
    jobs = [Job(item.image, item.mask, item.drawing, format_) for item in items]
    found = []
    with ThreadPoolExecutor() as pool:
        for done, facts in enumerate(pool.map(read_facts, jobs), start=1):
            found.append(facts)
            if on_file:
                on_file(done, len(jobs))
    return found


def _meaning(
    data: DataFile, toml: Path, layout: Layout, facts: list[Facts], findings: list[Finding]
) -> Interpretation:
    """Return the interpretation of the masks; an inconsistent `data.toml` is a finding and is ignored."""
    if layout.drawn_names is not None:
        return Interpretation(Classes.of(layout.drawn_names), None, is_color=False)
    masks = _masks(layout, facts)
    try:
        return find_meaning(data, toml, masks)
    except DatasetError as error:
        findings.append(Finding("data-file", (toml.name,), str(error).removeprefix(f"{toml}: ")))
        folders = data.model_dump(include={"root", "train", "val", "unlabeled"}, exclude_unset=True)
        return find_meaning(DataFile(**folders), toml, masks)


def _masks(layout: Layout, facts: list[Facts]) -> list[NamedMask]:
    """Return the readable masks."""
    return [
        NamedMask(item.split, _mask_name(layout, item), both.mask)
        for item, both in zip(layout.items, facts, strict=True)
        if item.mask and both.mask and not both.mask.error
    ]


def _mask_name(layout: Layout, item: Item) -> str:
    """Return the name of a mask in findings."""
    if item.drawing is not None:
        return item.drawing.where.removeprefix(f"{layout.root}/")
    return "" if item.mask is None else layout.name(item.mask)


def _judged(layout: Layout, facts: list[Facts], meaning: Interpretation, data: DataFile) -> Iterator[Finding]:
    """Yield the findings about single files and pairs."""
    masks = _masks(layout, facts)
    for item, (image, mask) in zip(layout.items, facts, strict=True):
        if image is not None:
            yield from judge_image(layout.name(item.image), image)
        if mask is None or item.mask is None:
            continue
        mask_name = _mask_name(layout, item)
        if image and image.is_readable and not mask.error:
            yield from judge_pair(mask_name, image, mask)
        for finding in judge_mask(mask_name, mask, meaning, data):
            yield with_example(finding, masks, meaning)


def _judged_together(layout: Layout, facts: list[Facts], meaning: Interpretation) -> Iterator[Finding]:
    """Yield the findings about all files together."""
    both = zip(layout.items, facts, strict=True)
    masks = _masks(layout, facts)
    yield from judge_together(masks, meaning)
    yield from judge_drawn(masks)
    yield from find_duplicates(
        [(item.split, layout.name(item.image), found.image) for item, found in both if found.image]
    )


def _absent(inspection: Inspection) -> Iterator[Finding]:
    """Yield classes that a split does not show, and splits without any; none if the masks have one class."""
    names = inspection.meaning.classes.names
    shown = {split: set(inspection.pixels(split)[0]) for split in MASKED}
    if any(finding.kind == "one-class" for finding in inspection.findings):
        return
    for split, labels in shown.items():
        missing = [name for label, name in enumerate(names) if label not in labels]
        if labels == {IGNORE}:
            yield Finding("no-labels", (), f"masks of ignored pixels alone in {split}")
        elif labels and missing:
            yield Finding("absent-class", (), f"{split}: {', '.join(missing)}")
