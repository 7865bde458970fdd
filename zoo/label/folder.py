"""Folder of the images to label: their files, the reason for each, and pre-annotations for three tools.

chosen.txt             the images, most valuable first
partition.txt          ids of the labeled images once these have masks too, for `--partition`
choice.json            the choice: model, strategy, and figures and reason of each image
report.html            pictures and reasons
images/                copies of the images
cvat.xml, cvat_labels.json                   predicted masks and labels for CVAT
label_studio.json, label_studio.xml          predicted masks and labeling interface for Label Studio
coco.json                                    predicted masks as polygons
"""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from zoo.bundle.bundle import check_writable, temporary_name
from zoo.data.formats.coco import CocoWriter
from zoo.data.formats.cvat import CvatWriter, label_constructor
from zoo.data.formats.label_studio import LabelStudioWriter, labeling_interface
from zoo.data.formats.regions import Labels
from zoo.data.inspect.pictures import encoded, fitting
from zoo.errors import ZooError
from zoo.pages.html import render
from zoo.pages.overlay import overlay, percent
from zoo.predict.stream import Failed, Options, Streamed, stream
from zoo.predictors.outputs import MASK

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from zoo.classes import Classes
    from zoo.label.choose import Choice, Pick
    from zoo.label.pool import Item, Pool
    from zoo.label.scan import Scan
    from zoo.predictors.base import Predictor

CHOSEN, PARTITION, RECORD, REPORT, IMAGES = (
    "chosen.txt",
    "partition.txt",
    "choice.json",
    "report.html",
    "images",
)
RED = (230, 30, 30)
LEAST_SURE = 2
"""Number of classes that a reason names."""


@dataclass(frozen=True)
class Labeling:
    """A choice of images and what it was made from.

    Args:
        pool: candidates and labeled images.
        scan: measurements of the candidates.
        choice: the choice.
        score: output that says how reliable each pixel is.
        header: model, strategy and options, for the record.
    """

    pool: Pool
    scan: Scan
    choice: Choice
    score: str
    header: dict[str, Any]

    def name(self, center: int) -> str:
        """Return the name of a center: a labeled or held-out image, or one that was chosen before."""
        known = [*self.pool.labeled, *self.pool.held_out]
        if center < len(known):
            return known[center].name
        return self.pool.candidates[self.choice.picks[center - len(known)].candidate].name

    def entry(self, rank: int, pick: Pick, unsure: str) -> dict[str, Any]:
        """Return the record of a chosen image.

        Args:
            rank: rank of the image, from 1.
            pick: the image.
            unsure: names of the classes of which the model is least sure in it.
        """
        item = self.pool.candidates[pick.candidate]
        unreliability = float(self.scan.unreliability[pick.candidate])
        reasons = [f"the model expects errors in {percent(unreliability)} of its pixels"]
        reasons[0] += f", more than in {self._above(self.scan.unreliability, pick)} of the pool"
        if self.header["strategy"] == "random":
            reasons.insert(0, "chosen at random")
        if self.header["strategy"] == "entropy":
            entropy = self.scan.entropy[pick.candidate]
            above = self._above(self.scan.entropy, pick)
            reasons.insert(0, f"entropy {entropy:.3f}, above that of {above} of the pool")
        if unsure:
            reasons.append(f"least sure of {unsure}")
        if pick.nearest is not None:
            reasons.append(f"nearest labeled or chosen image: {self.name(pick.nearest)}")
        if np.isfinite(self.choice.distances[pick.candidate]):
            far = self._above(self.choice.distances, pick)
            reasons.append(f"farther from labeled images than {far} of the pool")
        return {
            "rank": rank,
            "image": item.name,
            "file": f"{IMAGES}/{item.relative}",
            "unreliability": round(unreliability, 5),
            "distance": None if pick.distance is None else round(pick.distance, 5),
            "nearest": None if pick.nearest is None else self.name(pick.nearest),
            "reason": "; ".join(reasons),
        }

    def _above(self, values: NDArray[np.float32], pick: Pick) -> str:
        """Return the share of the candidates, rounded down, whose values are below that of an image."""
        is_read = np.ones(len(values), bool)
        is_read[list(self.scan.failures)] = False
        return f"{int(100 * np.mean(values[is_read] < values[pick.candidate]))}%"

    def record(self, entries: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the record of the choice."""
        duplicates = [
            {"image": self.pool.candidates[index].name, "of": self.name(center)}
            for index, center in self.choice.duplicates
        ]
        failures = {self.pool.candidates[index].name: text for index, text in self.scan.failures.items()}
        counts = {
            "candidates": len(self.pool.candidates),
            "labeled": len(self.pool.labeled),
            "held_out": len(self.pool.held_out),
        }
        return (
            self.header
            | counts
            | {
                "images": entries,
                "near_duplicates": duplicates,
                "unreadable": failures,
            }
        )


class Shown(NamedTuple):
    """A chosen image on the page."""

    entry: dict[str, Any]
    pictures: list[tuple[str, str]]
    """Pictures as data URIs, with their titles."""


def check_new(folder: Path) -> None:
    """Raise unless a folder is new or empty, and can be written.

    Raises:
        ZooError: a folder with files.
    """
    check_writable(folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise ZooError(
            f"{folder}: got a folder with files, expected a new or an empty one: choose another --out"
        )


def write_labeling(folder: Path, labeling: Labeling, predictor: Predictor) -> dict[str, Any]:
    """Write the folder of the images to label, whole or not at all, and return its record.

    Raises:
        ZooError: an image that can no longer be read.
    """
    temporary = temporary_name(folder.absolute())
    try:
        temporary.mkdir(parents=True)
        record = _write(temporary, labeling, predictor)
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return record


def _write(folder: Path, labeling: Labeling, predictor: Predictor) -> dict[str, Any]:
    classes, version = predictor.classes, str(labeling.header["model"])
    labels = Labels(classes.names)
    writers: dict[str, CvatWriter | LabelStudioWriter | CocoWriter] = {
        "cvat.xml": CvatWriter(labels),
        "label_studio.json": LabelStudioWriter(labels, IMAGES, version),
        "coco.json": CocoWriter(labels),
    }
    candidates, picks = labeling.pool.candidates, labeling.choice.picks
    items = [candidates[pick.candidate] for pick in picks]
    shown: list[Shown] = []
    for rank, (item, pick, result) in enumerate(
        zip(items, picks, _predicted(items, predictor, labeling.score), strict=True), start=1
    ):
        found = result.prediction()
        mask, sure = found.mask.astype(np.uint8), found.outputs[labeling.score]
        assert result.image is not None
        _copy(item, result.image, folder / IMAGES / item.relative)
        for writer in writers.values():
            writer.add(item.relative, mask)
        entry = labeling.entry(rank, pick, _least_sure(mask, sure, classes.names))
        pictures = zip(
            ("image", "prediction", "unreliability"), _drawn(result.image, mask, sure, predictor), strict=True
        )
        shown.append(Shown(entry, [(picture, title) for title, picture in pictures]))
    record = labeling.record([one.entry for one in shown])
    labeled = [one.train_id for one in (*labeling.pool.labeled, *items)]
    texts = {name: writer.text() for name, writer in writers.items()} | {
        CHOSEN: _lines(item.name for item in items),
        PARTITION: _lines(labeled),
        RECORD: json.dumps(record, indent=2) + "\n",
        REPORT: _page(record, shown, classes),
        "cvat_labels.json": json.dumps(label_constructor(classes, labels), indent=2) + "\n",
        "label_studio.xml": labeling_interface(classes, labels),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return record


def _predicted(items: Sequence[Item], predictor: Predictor, score: str) -> Iterator[Streamed[int]]:
    """Yield the predictions of images in their order."""
    options = Options(batch=1, outputs=(MASK, score), keep_images=True)
    with closing(stream(predictor, range(len(items)), lambda index: items[index].read(), options)) as results:
        for result in results:
            if isinstance(result, Failed):
                raise result.error
            yield result


def _copy(item: Item, image: NDArray[np.uint8], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if item.path is None:
        Image.fromarray(image).save(path)
    else:
        shutil.copyfile(item.path, path)


def _drawn(
    image: NDArray[np.uint8], mask: NDArray[np.uint8], sure: NDArray[np.uint8], predictor: Predictor
) -> Iterator[str]:
    """Yield an image, its mask over it, and its unreliability in red over it, as data URIs."""
    size = fitting(image.shape[1], image.shape[0])
    small = np.array(Image.fromarray(image).resize(size))
    labels = np.array(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
    doubt = 1 - np.array(Image.fromarray(sure).resize(size), float)[..., None] / 255
    gray = np.repeat(small.mean(axis=2, keepdims=True), 3, axis=2)
    yield encoded(small)
    yield encoded(overlay(small, labels, predictor.classes))
    yield encoded((gray * (1 - doubt) + np.multiply(RED, doubt)).astype(np.uint8))


def _least_sure(mask: NDArray[np.uint8], sure: NDArray[np.uint8], names: Sequence[str]) -> str:
    """Return the predicted classes with most of the expected errors, with their shares of them."""
    errors = np.bincount(mask.ravel(), weights=255.0 - sure.ravel(), minlength=len(names))
    total = errors.sum()
    order = [label for label in np.argsort(-errors).tolist()[:LEAST_SURE] if errors[label] > 0]
    return ", ".join(f"{names[label]} ({errors[label] / total:.0%} of the errors)" for label in order)


def _lines(names: Any) -> str:
    return "".join(f"{name}\n" for name in names)


def _page(record: dict[str, Any], shown: Sequence[Shown], classes: Classes) -> str:
    return render(
        "label/report.html",
        title=f"{len(shown)} image{'s' * (len(shown) != 1)} to label",
        record=record,
        shown=shown,
        classes=list(zip(classes.names, classes.palette, strict=True)),
        red=RED,
    )
