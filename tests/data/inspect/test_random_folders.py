"""Random folders with planted faults: the findings equal the plan, and no file is changed."""

import hashlib
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from zoo.cli import app
from zoo.data.check import check_source
from zoo.data.folder import FolderSource
from zoo.data.inspect.findings import KINDS
from zoo.data.inspect.inspection import inspect
from zoo.errors import DatasetError

WIDTH, HEIGHT = 64, 48
NAMES = 'names = ["sky", "road", "car"]\n'


class Planted:
    """A folder with some good images, to which faults are added.

    Args:
        root: folder.
        seed: seed of the pictures.
    """

    def __init__(self, root, seed):
        self.root, self.random, self.expected = root, np.random.default_rng(seed), set()
        self.numbers = Counter()
        self.path("data.toml").write_text(NAMES)

    def path(self, name):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def scene(self, width=WIDTH, height=HEIGHT):
        cells = self.random.integers(0, 256, (6, 8, 3), np.uint8)
        return Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC)

    def labels(self, *values, width=WIDTH, height=HEIGHT):
        return Image.fromarray(
            np.resize(np.repeat(np.array(values or (0, 1, 2), np.uint8), 5), (height, width))
        )

    def pair(self, split, image=None, mask=None, suffix=".png"):
        """Write an image with its mask; return their names."""
        self.numbers[split] += 1
        stem = f"{'sub/' * int(self.random.integers(2))}{self.numbers[split]}"
        names = f"{split}/images/{stem}{suffix}", f"{split}/masks/{stem}.png"
        (image or self.scene()).save(self.path(names[0]))
        (mask or self.labels()).save(self.path(names[1]))
        return names

    def expect(self, kind, *files):
        self.expected.add((kind, tuple(sorted(files))))


def cut(folder, split):
    name = folder.pair(split)[int(folder.random.integers(2))]
    path = folder.root / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    folder.expect("unreadable-image" if "/images/" in name else "unreadable-mask", name)


def text(folder, split):
    name = folder.pair(split)[0]
    (folder.root / name).write_text("not an image")
    folder.expect("unreadable-image", name)


def transparent(folder, split):
    folder.expect("image-mode", folder.pair(split, image=folder.scene().convert("RGBA"))[0])


def colored(folder, split):
    folder.expect("mask-mode", folder.pair(split, mask=folder.labels().convert("RGB"))[1])


def alone(folder, split):
    name = folder.pair(split)
    (folder.root / name[1]).unlink()
    folder.expect("missing-mask", name[0])


def orphan(folder, split):
    name = folder.pair(split)
    (folder.root / name[0]).unlink()
    folder.expect("orphan-mask", name[1])


def renamed(folder, split):
    image, mask = folder.pair(split)
    other = f"{mask.rpartition('/')[0]}/label-{mask.rpartition('/')[2]}"
    (folder.root / mask).rename(folder.root / other)
    folder.expect("mask-name", image, other)


def lossy(folder, split):
    mask = folder.pair(split)[1]
    (folder.root / mask).unlink()
    other = f"{mask[:-4]}.jpg"
    folder.labels().save(folder.root / other)
    folder.expect("lossy-mask", other)


def twice(folder, split):
    name = folder.pair(split)[0]
    folder.scene().save(folder.root / f"{name[:-4]}.jpg")
    folder.expect("two-files", name, f"{name[:-4]}.jpg")


def small(folder, split):
    folder.expect("size-mismatch", folder.pair(split, mask=folder.labels(width=32, height=24))[1])


def beyond(folder, split):
    folder.expect("unknown-value", folder.pair(split, mask=folder.labels(0, 1, 7))[1])


def background(folder, split):
    folder.expect("all-background", folder.pair(split, mask=folder.labels(0))[1])


def void(folder, split):
    folder.expect("all-ignored", folder.pair(split, mask=folder.labels(255))[1])


def tiny(folder, split):
    name = folder.pair(split, folder.scene(24, 24), folder.labels(width=24, height=24))[0]
    folder.expect("tiny-image", name)


def blank(folder, split):
    color = tuple(folder.random.integers(0, 256, 3).tolist())
    folder.expect("blank-image", folder.pair(split, image=Image.new("RGB", (WIDTH, HEIGHT), color))[0])


def copied(folder, split):
    first, second = folder.pair(split)[0], folder.pair(split)[0]
    shutil.copy(folder.root / first, folder.root / second)
    folder.expect("duplicates", first, second)


def leaked(folder, split):  # noqa: ARG001 - of both
    first, second = folder.pair("train")[0], folder.pair("val")[0]
    shutil.copy(folder.root / first, folder.root / second)
    folder.expect("leakage", first, second)


def paged(folder, split):
    name = folder.pair(split, suffix=".tif")[0]
    folder.scene().save(folder.root / name, save_all=True, append_images=[folder.scene()])
    folder.expect("more-pages", name)


def other(folder, split):
    folder.numbers["other"] += 1
    name = f"{split}/images/{folder.numbers['other']}.avif"
    folder.path(name).write_bytes(b"x")
    folder.expect("other-file", name)


def hidden(folder, split):
    folder.numbers["hidden"] += 1
    name = f"{split}/images/{folder.numbers['hidden']}x/.ipynb_checkpoints"
    folder.scene().save(folder.path(f"{name}/a.png"))
    folder.expect("hidden-folder", name)


FAULTS = (
    cut,
    text,
    transparent,
    colored,
    alone,
    orphan,
    renamed,
    lossy,
    twice,
    small,
    beyond,
    background,
    void,
    tiny,
    blank,
    copied,
    leaked,
    paged,
    other,
    hidden,
)


def state(root):
    """Return the content of every file."""
    return {path: hashlib.sha256(path.read_bytes()).digest() for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def place():
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@given(
    seed=st.integers(0, 2**32 - 1),
    plan=st.lists(st.tuples(st.sampled_from(FAULTS), st.sampled_from(["train", "val"])), max_size=6),
)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_findings_are_the_planted_faults_and_no_file_is_changed(place, seed, plan):
    root = Path(tempfile.mkdtemp(dir=place))
    folder = Planted(root, seed)
    for split in ("train", "val"):
        for _ in range(3):
            folder.pair(split)
    folder.scene().save(folder.path("unlabeled/u.png"))
    for fault, split in plan:
        fault(folder, split)
    before = state(root)
    found = Counter((one.kind, tuple(sorted(one.files))) for one in inspect(str(root)).findings)
    assert set(found) == folder.expected
    assert max(found.values(), default=1) == 1
    has_faults = any(KINDS[kind].severity == "fault" for kind, _ in folder.expected)
    try:
        check_source(FolderSource(str(root)))
        stopped = False
    except DatasetError as error:
        stopped = True
        assert "\n" not in str(error)  # noqa: PT017 - or no error
    assert stopped == has_faults
    result = CliRunner().invoke(app, ["data", "check", str(root), "--json"])
    assert result.exit_code == int(has_faults)
    assert state(root) == before
    shutil.rmtree(root)
