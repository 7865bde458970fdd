"""Archives of each published data set: their addresses, checksums, and unpacking.

Addresses and MD5 sums of VOC and SBD are those in torchvision's `datasets`; those of ADE20K and COCO are the
ones that GluonCV, LVIS and others check. No checksums of Cityscapes and PASCAL-Context are known.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from zoo.data.formats import ade20k, cityscapes, coco_2017, pascal_context, voc
from zoo.data.prepare.masks import add_coco
from zoo.data.prepare.matlab import add_context, add_sbd
from zoo.data.prepare.unpack import unpack
from zoo.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from zoo.data.prepare.download import Report


class Archive(NamedTuple):
    """An official archive."""

    name: str
    url: str | None
    """None if the provider requires a login."""
    md5: str | None
    """None if no official checksum is known."""
    apply: Callable[[Path, Path, Report], None]
    """Writes the contents of the archive to a folder, in the layout of the reader."""
    is_applied: Callable[[Path], bool]
    """Returns whether a folder already has the contents."""


class DataSet(NamedTuple):
    """A published data set."""

    spec: str
    """Prefix of `--data`."""
    archives: tuple[Archive, ...]
    optional: tuple[Archive, ...]
    """Archives that are used if they are present."""
    counts: tuple[int, int]
    """Official numbers of training and validation images."""
    notice: str
    """Terms of use, which the user must accept."""


def _below(*folders: str) -> Callable[[Path, Path, Report], None]:
    """Return a function that unpacks some folders of an archive."""

    def apply(archive: Path, folder: Path, report: Report) -> None:
        unpack(archive, folder, lambda name: name.startswith(folders), report)

    return apply


def _opens(source: Callable[[str], object], prefix: str, folder: Path) -> bool:
    """Return whether a reader finds all its files in a folder."""
    try:
        source(f"{prefix}:{folder}")
    except DatasetError:
        return False
    return True


def _has_voc_2010(folder: Path) -> bool:
    roots = [folder / inside for inside in (".", *pascal_context.LAYOUT.inside)]
    return any(
        (root / "ImageSets/Main/val.txt").is_file() and any(root.glob(f"{pascal_context.IMAGES}/*.jpg"))
        for root in roots
    )


def _coco_images(split: str, md5: str) -> Archive:
    """Return the archive of the images of a split of COCO."""
    return Archive(
        f"{split}.zip",
        f"{_COCO_URL}/zips/{split}.zip",
        md5,
        _below(f"{split}/"),
        lambda folder: any((folder / split).glob("*.jpg")),
    )


_OPENS_CITYSCAPES = partial(_opens, cityscapes.CityscapesSource, "cityscapes")
_VOC_URL = "https://thor.robots.ox.ac.uk/pascal/VOC"
_SBD_URL = "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours"
_ADE_URL = "https://data.csail.mit.edu/places/ADEchallenge"
_COCO_URL = "http://images.cocodataset.org"
"""The host has no TLS certificate of its own; the checksums detect a changed archive."""

DATA_SETS = {
    "voc": DataSet(
        spec="voc",
        archives=(
            Archive(
                "VOCtrainval_11-May-2012.tar",
                f"{_VOC_URL}/voc2012/VOCtrainval_11-May-2012.tar",
                "6cd6e144f989b92b3379bac3b3de84fd",
                _below(
                    *(f"VOCdevkit/VOC2012/{name}/" for name in (voc.IMAGES, voc.OWN_MASKS, voc.LISTS)),
                ),
                partial(_opens, partial(voc.VocSource, masks="own"), "voc-classic"),
            ),
            Archive(
                "benchmark.tgz",
                f"{_SBD_URL}/benchmark.tgz",
                "82b4d87ceb2ed10f6038a1cba92111cb",
                add_sbd,
                partial(_opens, voc.VocSource, "voc"),
            ),
        ),
        optional=(),
        counts=(10_582, 1_449),
        notice="PASCAL VOC 2012 and SBD: the images come from Flickr; their use must respect Flickr's terms "
        "of use (https://www.flickr.com/help/terms). Conditions and citations: "
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/ and "
        "http://home.bharathh.info/pubs/codes/SBD/download.html",
    ),
    "cityscapes": DataSet(
        spec="cityscapes",
        archives=(
            Archive(
                "gtFine_trainvaltest.zip", None, None,
                _below(f"{cityscapes.MASKS}/"),
                _OPENS_CITYSCAPES,
            ),
            Archive(
                "leftImg8bit_trainvaltest.zip", None, None,
                _below(f"{cityscapes.IMAGES}/"),
                _OPENS_CITYSCAPES,
            ),
        ),
        optional=(
            Archive(
                "leftImg8bit_trainextra.zip", None, None,
                _below(f"{cityscapes.EXTRA}/"),
                lambda folder: any((folder / cityscapes.EXTRA).glob("*/*.png")),
            ),
        ),
        counts=(2_975, 500),
        notice="Cityscapes: for registered users under the terms they accepted, of use that is not "
        "commercial (https://www.cityscapes-dataset.com/license/)",
    ),
    "pascal-context": DataSet(
        spec="pascal-context",
        archives=(
            Archive(
                "VOCtrainval_03-May-2010.tar",
                f"{_VOC_URL}/voc2010/VOCtrainval_03-May-2010.tar",
                "da459979d0c395079b5c75ee67908abb",
                _below(
                    f"VOCdevkit/VOC2010/{pascal_context.IMAGES}/", "VOCdevkit/VOC2010/ImageSets/Main/"
                ),
                _has_voc_2010,
            ),
            Archive(
                "trainval.tar.gz",
                "https://cs.stanford.edu/~roozbeh/pascal-context/trainval.tar.gz",
                None,
                add_context,
                partial(_opens, pascal_context.PascalContextSource, "pascal-context"),
            ),
        ),
        optional=(),
        counts=(4_998, 5_105),
        notice="PASCAL-Context on the images of PASCAL VOC 2010: the images come from Flickr; their use must "
        "respect Flickr's terms of use (https://www.flickr.com/help/terms). Conditions and citations: "
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2010/ and https://cs.stanford.edu/~roozbeh/pascal-context/",
    ),
    "ade20k": DataSet(
        spec="ade20k",
        archives=(
            Archive(
                "ADEChallengeData2016.zip",
                f"{_ADE_URL}/ADEChallengeData2016.zip",
                "7328b3957e407ddae1d3cbf487f149ef",
                _below(*(f"ADEChallengeData2016/{name}/" for name in (ade20k.IMAGES, ade20k.MASKS))),
                partial(_opens, ade20k.Ade20kSource, "ade20k"),
            ),
        ),
        optional=(),
        counts=(20_210, 2_000),
        notice="ADE20K: the annotations are under the BSD 3-clause license, the images for research and "
        "education that is not commercial (https://groups.csail.mit.edu/vision/datasets/ADE20K/terms/)",
    ),
    "coco": DataSet(
        spec="coco",
        archives=(
            _coco_images("train2017", "cced6f7f71b7629ddf16f17bbcfab6b2"),
            _coco_images("val2017", "442b8da7639aecaf257c1dceb8ba8c80"),
            Archive(
                "annotations_trainval2017.zip",
                f"{_COCO_URL}/annotations/annotations_trainval2017.zip",
                "f4bbac642086de4f52a3fdda2de5fa2c",
                add_coco,
                partial(_opens, coco_2017.Coco2017Source, "coco"),
            ),
        ),
        optional=(),
        counts=(118_287, 5_000),
        notice="COCO: the annotations are under CC BY 4.0; the images come from Flickr, and their use must "
        "respect Flickr's terms of use (https://cocodataset.org/#termsofuse)",
    ),
}  # fmt: skip
