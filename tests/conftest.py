"""What tests of several stages share: a bundle that predicts every class, an ONNX file, a data folder."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import struct
import sys
import tempfile
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, settings
from onnx import TensorProto
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor, make_tensor_value_info
from PIL import Image

from tests.order import pytest_collection_modifyitems  # noqa: F401 - a hook of pytest
from zoo.bundle.bundle import BundleConfig
from zoo.bundle.weights import save_bundle
from zoo.classes import Classes
from zoo.models.config import NetworkConfig
from zoo.models.deployable import Student
from zoo.models.segmentation import SegmentationNetwork
from zoo.predictors.artifact import METADATA_KEY, ArtifactMetadata
from zoo.preprocess import Preprocessing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    MakeBundle = Callable[..., Path]
    Install = Callable[..., None]
    WriteOnnx = Callable[..., Path]
    LittleSpace = Callable[[int], AbstractContextManager[None]]
    PngFile = Callable[[tuple[int, int], int, int, bytes], bytes]

settings.register_profile("busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy machine")
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(
        signal.SIGHUP, lambda *_: None
    )  # processes that tests start would inherit it from `nohup make`
torch.set_num_threads(1)  # a second thread costs such small networks more than it gives

TINY_RECIPE = Path(__file__).with_name("tiny.toml")
IMGSZ = (64, 64)
SMALL = {"encoder": "mobilenetv3_small_050", "decoder_channels": 32, "low_level_channels": 16}


@torch.no_grad()
def make_network(**changes: Any) -> SegmentationNetwork:
    """Return a network whose BatchNorms have seen some batches and whose classes are all predicted."""
    torch.manual_seed(0)
    network = SegmentationNetwork(NetworkConfig(**{"num_classes": 7, **SMALL, **changes}))
    images = torch.nn.functional.interpolate(torch.randn(8, 3, 8, 8), IMGSZ, mode="bicubic") * 2
    network.train()
    for _ in range(8):
        network(images)
    network.eval()
    logits = network(images).logits
    mean, std = logits.mean(dim=(0, 2, 3)), logits.std(dim=(0, 2, 3))
    decoder = network.decoder
    last = [decoder.segment[-1]] if hasattr(decoder, "segment") else list(decoder.branches)
    for conv in last:
        conv.weight /= std.view(-1, 1, 1, 1)
        conv.bias /= std
    last[0].bias -= mean / std
    return network


def write_bundle(folder: Path, recipe: dict[str, Any] | None = None, **network: Any) -> Path:
    """Write a bundle of `make_network` and return its folder."""
    return save_student(folder, Student(make_network(**network)), recipe)


def save_student(folder: Path, student: Student, recipe: dict[str, Any] | None = None) -> Path:
    """Write a bundle of a student and return its folder."""
    classes = Classes.of(tuple(f"class-{label}" for label in range(student.config.network.num_classes)))
    config = BundleConfig(
        deployable=student.config,
        method="supervised",
        names=classes.names,
        palette=classes.palette,
        preprocessing=Preprocessing(imgsz=IMGSZ),
        recipe={"data": {"spec": "shapes"}} if recipe is None else recipe,
    )
    save_bundle(folder, student, config, "# Tiny\n")
    return folder


def write_threshold_onnx(path: Path, metadata: str | None = None, height: int | str = "h") -> Path:
    """Write an ONNX file whose mask is 1 where red + green + blue is over 384, and return its path.

    Args:
        path: of the file.
        metadata: None for right ones; empty for none.
        height: a number freezes the dimension.
    """
    nodes = [
        make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        make_node("ReduceSum", ["pixels", "axis"], ["sum"], keepdims=0),
        make_node("Greater", ["sum", "threshold"], ["bright"]),
        make_node("Cast", ["bright"], ["mask"], to=TensorProto.UINT8),
    ]
    graph = make_graph(
        nodes,
        "threshold",
        [make_tensor_value_info("image", TensorProto.UINT8, ["b", height, "w", 3])],
        [make_tensor_value_info("mask", TensorProto.UINT8, ["b", height, "w"])],
        [
            make_tensor("axis", TensorProto.INT64, [1], [3]),
            make_tensor("threshold", TensorProto.FLOAT, [], [384.0]),
        ],
    )
    model = make_model(graph, opset_imports=[make_opsetid("", 18)], ir_version=10)
    if metadata is None:
        metadata = threshold_metadata().model_dump_json()
    if metadata:
        model.metadata_props.add(key=METADATA_KEY, value=metadata)
    onnx.save(model, path)
    return path


FRAGILE = 127
"""Red of the first pixel with which the file of `write_fragile_onnx` does not fail, that of a blank image."""

PATCHES = 8
"""Pixels a side of the smallest image that the file of `write_patches_onnx` takes."""


def write_fragile_onnx(path: Path) -> Path:
    """Write an ONNX file as `write_threshold_onnx` does, which fails while it runs for most first pixels.

    0, 1, ..., red - 1 are added to 127 numbers, so that red must be 127; the sum, 0, is added to each pixel.

    Args:
        path: of the file.
    """
    model = onnx.load(write_threshold_onnx(path))
    graph = model.graph
    cast, total, *rest = graph.node
    total.output[0] = "plain"
    del graph.node[:]
    graph.node.extend(
        [
            make_node("Slice", ["image", "starts", "ends", "axes"], ["corner"]),
            make_node("Reshape", ["corner", "flat"], ["red"]),
            make_node("Squeeze", ["red"], ["scalar"]),
            make_node("Cast", ["scalar"], ["count"], to=TensorProto.INT64),
            make_node("Range", ["begin", "count", "step"], ["numbers"]),
            make_node("Cast", ["numbers"], ["floats"], to=TensorProto.FLOAT),
            make_node("Add", ["floats", "mean"], ["added"]),
            make_node("ReduceSum", ["added"], ["nothing"], keepdims=0),
            cast,
            total,
            make_node("Add", ["plain", "nothing"], ["sum"]),
            *rest,
        ]
    )
    integers = {"starts": [0, 0, 0, 0], "ends": [1, 1, 1, 1], "axes": [0, 1, 2, 3], "flat": [1]}
    for name, values in integers.items():
        graph.initializer.append(make_tensor(name, TensorProto.INT64, [len(values)], values))
    graph.initializer.append(make_tensor("begin", TensorProto.INT64, [], [0]))
    graph.initializer.append(make_tensor("step", TensorProto.INT64, [], [1]))
    mean = (FRAGILE - 1) / 2
    graph.initializer.append(make_tensor("mean", TensorProto.FLOAT, [FRAGILE], [-mean] * FRAGILE))
    onnx.save(model, path)
    return path


def write_patches_onnx(path: Path, resize: str = "fit") -> Path:
    """Write an ONNX file that cuts images into patches, as ConvNeXt does, so that it takes no small ones.

    Convolutions of 4 x 4 and 2 x 2 leave the mean red of each 8 x 8 pixels; the mask is 1 where it is > 127.

    Args:
        path: of the file.
        resize: of the preprocessing.
    """
    metadata = threshold_metadata()
    preprocessing = metadata.preprocessing.model_copy(update={"resize": resize})
    metadata = metadata.model_copy(update={"preprocessing": preprocessing})
    first, second = np.zeros((2, 3, 4, 4), np.float32), np.full((1, 2, 2, 2), 1 / 8, np.float32)
    first[:, 0] = 1 / 16
    floats = {"first": first, "second": second, "bound": np.float32(127)}
    nodes = [
        make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        make_node("Transpose", ["pixels"], ["planes"], perm=[0, 3, 1, 2]),
        make_node("Conv", ["planes", "first"], ["low"], strides=[4, 4]),
        make_node("Conv", ["low", "second"], ["high"], strides=[2, 2]),
        make_node("Shape", ["planes"], ["batch"], start=0, end=1),
        make_node("Shape", ["planes"], ["size"], start=2),
        make_node("Concat", ["batch", "one", "size"], ["sizes"], axis=0),
        make_node("Resize", ["high", "", "", "sizes"], ["logits"], mode="nearest"),
        make_node("Greater", ["logits", "bound"], ["bright"]),
        make_node("Cast", ["bright"], ["label"], to=TensorProto.UINT8),
        make_node("Squeeze", ["label", "axis"], ["mask"]),
    ]
    graph = make_graph(
        nodes,
        "patches",
        [make_tensor_value_info("image", TensorProto.UINT8, ["b", "h", "w", 3])],
        [make_tensor_value_info("mask", TensorProto.UINT8, ["b", "h", "w"])],
        [
            *(onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in floats.items()),
            *(make_tensor(name, TensorProto.INT64, [1], [1]) for name in ("one", "axis")),
        ],
    )
    model = make_model(graph, opset_imports=[make_opsetid("", 18)], ir_version=10)
    model.metadata_props.add(key=METADATA_KEY, value=metadata.model_dump_json())
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


def threshold_metadata() -> ArtifactMetadata:
    """Return the metadata of `write_threshold_onnx`."""
    classes = Classes.of(("dark", "bright"))
    return ArtifactMetadata(
        names=classes.names,
        palette=classes.palette,
        preprocessing=Preprocessing(imgsz=IMGSZ),
        precision="fp32",
        weights_sha256="0" * 64,
    )


def pytest_configure(config: pytest.Config) -> None:
    """Give a run its own cache of compiled code: a process that is killed leaves torn files in it."""
    if not hasattr(config, "workerinput"):  # workers of xdist inherit that of the run
        folder = tempfile.TemporaryDirectory(prefix="zoo-compiled-", ignore_cleanup_errors=True)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder.name
        config.add_cleanup(folder.cleanup)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Let PyTorch use one thread: two on a busy machine wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def same_log() -> Iterator[None]:
    """Restore the level and the handlers of the log, which a command sets."""
    logger = logging.getLogger("zoo")
    level, handlers = logger.level, list(logger.handlers)
    yield
    logger.setLevel(level)
    logger.handlers[:] = handlers


@pytest.fixture(scope="session")
def make_bundle() -> MakeBundle:
    """Return `write_bundle`, for bundles of other networks."""
    return write_bundle


@pytest.fixture(scope="session")
def write_onnx() -> WriteOnnx:
    """Return `write_threshold_onnx`."""
    return write_threshold_onnx


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Return a function that installs a package of one module, which adds rows to tables of `zoo`.

    It takes the text of the module, and the names of rows in it by group and name of the row.
    """

    def add(text: str, **rows: dict[str, str]) -> None:
        module = f"toy_{next(iter(rows))}"
        info = tmp_path / "site" / f"{module}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        lines = [
            f"[zoo.{group}]\n" + "".join(f"{name} = {module}:{row}\n" for name, row in names.items())
            for group, names in rows.items()
        ]
        (info / "entry_points.txt").write_text("\n".join(lines))
        (tmp_path / "site" / f"{module}.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path / "site")
        monkeypatch.delitem(sys.modules, module, raising=False)

    return add


@pytest.fixture(scope="session")
def write_fragile() -> WriteOnnx:
    """Return `write_fragile_onnx`."""
    return write_fragile_onnx


@pytest.fixture(scope="session")
def write_patches() -> WriteOnnx:
    """Return `write_patches_onnx`."""
    return write_patches_onnx


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle; read it only."""
    return write_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture
def bundle_copy(tiny_bundle: Path, tmp_path: Path) -> Path:
    """Return a bundle of the test's own."""
    return shutil.copytree(tiny_bundle, tmp_path / "bundle")


def png_file(size: tuple[int, int], bits: int, color_type: int, pixels: bytes) -> bytes:
    """Return a PNG of any kind, also of those that Pillow does not write.

    Args:
        size: width and height.
        bits: of a channel.
        color_type: of PNG: 0 gray, 2 RGB, 3 palette.
        pixels: compressed by zlib, each row behind a zero.
    """

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, bits, color_type, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.fixture(scope="session", name="png_file")
def _png_file() -> PngFile:
    """Return `png_file`."""
    return png_file


@pytest.fixture
def little_space() -> LittleSpace:
    """Return a context in which no file of this process grows beyond so many bytes."""
    resource = pytest.importorskip("resource", reason="Windows has no limit of file sizes")

    @contextmanager
    def limited(size: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limited


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of ten training and two `val` images of three classes; read it only."""
    folder = tmp_path_factory.mktemp("data") / "tiny"
    random = np.random.default_rng(0)
    for split, count in (("train", 10), ("val", 2)):
        for name in ("images", "masks"):
            (folder / split / name).mkdir(parents=True)
        for number in range(count):
            cells = random.integers(3, size=(3, 4))
            cells[0, :3] = range(3)  # every class in every image
            mask = np.kron(cells, np.ones((12, 10))).astype(np.uint8)
            image = 80 * np.stack([mask, 2 - mask, mask], axis=-1) + random.integers(60, size=(36, 40, 3))
            Image.fromarray(image.astype(np.uint8)).save(folder / split / "images" / f"{number}.png")
            Image.fromarray(mask).save(folder / split / "masks" / f"{number}.png")
    return folder


@pytest.fixture(scope="session")
def tiny_recipe(tiny_folder: Path) -> Path:
    """Return the file of an ELN recipe whose ten steps pass through all phases within a second."""
    path = tiny_folder.parent / "tiny.toml"
    path.write_text(TINY_RECIPE.read_text().replace("FOLDER", tiny_folder.as_posix()))
    return path


@pytest.fixture(scope="session")
def localized_bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle with an error localizer and the classes of `shapes`; read it only."""
    from tests.localized import write_localized

    return write_localized(tmp_path_factory.mktemp("localized") / "bundle", tiny_bundle)
