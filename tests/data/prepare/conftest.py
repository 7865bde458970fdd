"""A web server with files, which can do what servers of large files do wrong, and tiny official archives."""

from __future__ import annotations

import io
import json
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy.io import savemat

from zoo.data.formats import coco_2017

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Site:
    """What the server holds, how it behaves, and what it was asked for."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cut_after: list[int] = []
        """Of each of the next answers, the bytes of its body after which the connection breaks."""
        self.statuses: list[int] = []
        """Of each of the next answers, in place of the file."""
        self.knows_ranges = True
        self.requests: list[str | None] = []
        """The `Range` of each request."""
        self.url = ""


class Handler(BaseHTTPRequestHandler):
    site: Site

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        site = self.site
        asked = self.headers.get("Range")
        site.requests.append(asked)
        content = site.files.get(self.path.lstrip("/"))
        if site.statuses or content is None:
            self.send_response(site.statuses.pop(0) if site.statuses else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        begin = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and site.knows_ranges else 0
        if begin and begin >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        body = content[begin:]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: site.cut_after.pop(0)] if site.cut_after else body)
        self.close_connection = True


@pytest.fixture
def site() -> Iterator[Site]:
    """Return a running server."""
    state = Site()
    handler = type("SiteHandler", (Handler,), {"site": state})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        state.url = f"http://127.0.0.1:{server.server_port}"
        yield state
        server.shutdown()


@pytest.fixture
def quiet() -> Callable[[str, int, int | None], None]:
    """Return a report that says nothing."""
    return lambda *_: None


def tar_of(path: Path, files: dict[str, bytes]) -> Path:
    """Write a tar file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz" if path.suffix in {".tgz", ".gz"} else "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def zip_of(path: Path, files: dict[str, bytes]) -> Path:
    """Write a zip file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as zip_:
        for name, content in files.items():
            zip_.writestr(name, content)
    return path


def matlab(**variables: Any) -> bytes:
    """Return a MATLAB file."""
    buffer = io.BytesIO()
    savemat(buffer, variables)
    return buffer.getvalue()


def files_below(folder: Path, prefix: str) -> dict[str, bytes]:
    """Return the contents of the files below a folder, by a path that begins with a prefix."""
    return {
        f"{prefix}{path.relative_to(folder).as_posix()}": path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def voc_archives(voc: Any, write_sbd: Callable[..., None], tmp_path: Path) -> Path:
    """Return a folder with the two archives of VOC and SBD; those of SBD also have masks of VOC's images."""
    folder = tmp_path / "archives"
    own = {
        name: content
        for name, content in files_below(voc.root, "VOCdevkit/VOC2012/").items()
        if "Aug" not in name and "trainaug" not in name
    }
    own["VOCdevkit/VOC2012/Annotations/2007_000032.xml"] = b"<annotation/>"
    tar_of(folder / "VOCtrainval_11-May-2012.tar", own)
    names = ("2008_000008", "2008_000015", "2007_000032", "2007_000033")
    write_sbd(folder / "benchmark.tgz", {name: [0, 20] for name in names})
    return folder


@pytest.fixture
def write_sbd() -> Callable[[Path, dict[str, list[int]]], None]:
    """Return a function that writes the archive of SBD, of some images with masks of some values."""

    def write(path: Path, values: dict[str, list[int]]) -> None:
        files = {"benchmark_RELEASE/dataset/inst/2008_000008.mat": b"not read"}
        for name, labels in values.items():
            mask = np.resize(np.array(labels, np.uint8), (6, 8))
            content = matlab(GTcls={"Segmentation": mask, "Boundaries": 0})
            files[f"benchmark_RELEASE/dataset/cls/{name}.mat"] = content
        tar_of(path, files)

    return write


@pytest.fixture
def context_archives(pascal_context: Any, tmp_path: Path) -> Path:
    """Return a folder with the archives of VOC 2010 and of PASCAL-Context."""
    folder = tmp_path / "archives"
    images = files_below(pascal_context.root / "JPEGImages", "VOCdevkit/VOC2010/JPEGImages/")
    lists = {
        "VOCdevkit/VOC2010/ImageSets/Main/train.txt": b"2008_000002\n2008_000003\n",
        "VOCdevkit/VOC2010/ImageSets/Main/val.txt": b"2008_000015\n2008_009999\n",  # not annotated
    }
    tar_of(folder / "VOCtrainval_03-May-2010.tar", images | lists)
    categories = np.resize(np.array([0, 2, 458, 431, 284], np.uint16), (6, 8))
    masks = {f"trainval/{Path(name).stem}.mat": matlab(LabelMap=categories) for name in images}
    tar_of(folder / "trainval.tar.gz", masks)
    return folder


@pytest.fixture
def cityscapes_archives(cityscapes: Any, tmp_path: Path) -> Path:
    """Return a folder with the three archives of Cityscapes."""
    folder = tmp_path / "archives"
    images = files_below(cityscapes.root / "leftImg8bit", "leftImg8bit/")
    extra = {name: content for name, content in images.items() if "train_extra" in name}
    for name, files in (
        ("leftImg8bit_trainvaltest.zip", {name: images[name] for name in images.keys() - extra}),
        ("leftImg8bit_trainextra.zip", extra),
        ("gtFine_trainvaltest.zip", files_below(cityscapes.root / "gtFine", "gtFine/")),
    ):
        zip_of(folder / name, {"README": b"terms", **files})
    return folder


@pytest.fixture
def ade20k_archives(ade20k: Any, tmp_path: Path) -> Path:
    """Return a folder with the archive of ADE20K."""
    files = files_below(ade20k.root, "ADEChallengeData2016/")
    files["ADEChallengeData2016/objectInfo150.txt"] = b"not read"
    return zip_of(tmp_path / "archives/ADEChallengeData2016.zip", files).parent


UNUSED_IDS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
"""Numbers below 91 that are no category of COCO."""


@pytest.fixture
def coco_archives(coco: Any, tmp_path: Path) -> Path:
    """Return a folder with the archives of COCO; each image shows a toothbrush over a person, and a crowd."""
    folder = tmp_path / "archives"
    ids = [number for number in range(1, 91) if number not in UNUSED_IDS]
    categories = [
        {"id": id_, "name": name} for id_, name in zip(ids, coco_2017.CLASSES.names[1:], strict=True)
    ]
    rectangles = {1: [0, 0, 4, 0, 4, 6, 0, 6], 90: [0, 0, 2, 0, 2, 2, 0, 2]}
    annotations: dict[str, bytes] = {"annotations/captions_val2017.json": b"not read"}
    for split in ("train2017", "val2017"):
        images = files_below(coco.root / split, f"{split}/")
        zip_of(folder / f"{split}.zip", images)
        content: dict[str, Any] = {"categories": categories, "images": [], "annotations": []}
        for number, name in enumerate(images):
            content["images"].append({"id": number, "file_name": Path(name).name, "height": 6, "width": 8})
            for category, polygon in rectangles.items():
                content["annotations"].append({"category_id": category, "segmentation": [polygon]})
            runs = {"counts": [42, 6], "size": [6, 8]}  # the last column
            content["annotations"].append({"category_id": 3, "segmentation": runs, "iscrowd": 1})
            for annotation in content["annotations"][-3:]:
                annotation |= {"id": len(content["annotations"]), "image_id": number}
        annotations[f"annotations/instances_{split}.json"] = json.dumps(content).encode()
    zip_of(folder / "annotations_trainval2017.zip", annotations)
    return folder
