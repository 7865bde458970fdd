"""A registry in a plain folder."""

from __future__ import annotations

import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from zoo.errors import BundleError, RegistryError
from zoo.registry.files import our_files
from zoo.registry.folder import listed
from zoo.registry.pull import pull
from zoo.registry.push import PushOptions, push

if TYPE_CHECKING:
    from pathlib import Path

    Files = dict[str, bytes]

CARD = "---\nlicense: mit\n---\n\n# Tiny {}\n"
PUSHES = 8


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "share"


def test_what_is_pushed_to_a_folder_is_pulled_bit_for_bit(
    bundle: Path, root: Path, staged_files: Files
) -> None:
    pushed = push(bundle, f"file:{root}/tiny", PushOptions())
    folder = pull(f"file:{root}/tiny")
    assert {name: path.read_bytes() for name, path in our_files(folder).items()} == staged_files
    assert folder == root / "tiny" / pushed.revision
    assert listed(root) == ("tiny",)
    assert listed(root / "nowhere") == ()


def test_latest_tags_and_short_revisions_name_a_revision(bundle: Path, root: Path) -> None:
    name = f"file:{root}/tiny"
    first = push(bundle, name, PushOptions(tag="v1")).revision
    (bundle / "README.md").write_text(CARD.format(2))
    second = push(bundle, name, PushOptions()).revision
    assert first != second
    assert pull(name).name == pull(f"{name}@{second[:8]}").name == second
    assert pull(f"{name}@v1").name == pull(f"{name}@{first}").name == first
    with pytest.raises(RegistryError, match=rf"tag v1 already names {first[:12]}"):
        push(bundle, name, PushOptions(tag="v1"))
    with pytest.raises(RegistryError, match=rf"has no revision v2, expected one of: v1, .*{second[:12]}"):
        pull(f"{name}@v2")


def test_a_push_with_a_tag_that_is_taken_publishes_nothing(bundle: Path, root: Path) -> None:
    push(bundle, f"file:{root}/tiny", PushOptions(tag="v1"))
    before = sorted(path.name for path in (root / "tiny").iterdir())
    (bundle / "README.md").write_text(CARD.format(2))
    with pytest.raises(RegistryError, match="tag v1 already names"):
        push(bundle, f"file:{root}/tiny", PushOptions(tag="v1"))
    assert sorted(path.name for path in (root / "tiny").iterdir()) == before


def test_the_same_bundle_again_is_the_same_revision(bundle: Path, root: Path) -> None:
    pushed = [push(bundle, f"file:{root}/tiny", PushOptions(tag="v1")) for _ in range(2)]
    assert pushed[0] == pushed[1]
    assert sorted(path.name for path in (root / "tiny").iterdir()) == sorted(
        [pushed[0].revision, "latest", "tags"]
    )


def test_pushes_at_once_lose_nothing(bundle: Path, root: Path, tmp_path: Path) -> None:
    bundles = [shutil.copytree(bundle, tmp_path / f"bundle-{number}") for number in range(PUSHES)]
    for number, folder in enumerate(bundles):
        (folder / "README.md").write_text(CARD.format(number % 4))  # each of four twice
    with ThreadPoolExecutor(PUSHES) as pool:
        options = [PushOptions(tag=f"v{number}") for number in range(PUSHES)]
        pushed = list(pool.map(push, bundles, [f"file:{root}/tiny"] * PUSHES, options))
    assert len({each.revision for each in pushed}) == 4
    for number, each in enumerate(pushed):
        folder = pull(f"file:{root}/tiny@v{number}")
        assert folder.name == each.revision
        assert (folder / "README.md").read_text() == CARD.format(number % 4)
    assert pull(f"file:{root}/tiny").name in {each.revision for each in pushed}
    assert list((root / "tiny").glob(".*")) == []


def test_a_refused_bundle_leaves_no_model(bundle: Path, root: Path) -> None:
    (bundle / "README.md").write_text("# no license\n")
    with pytest.raises(RegistryError, match="states no license"):
        push(bundle, f"file:{root}/tiny", PushOptions())
    assert listed(root) == ()
    assert list((root / "tiny").iterdir()) == []


def test_what_a_killed_push_left_is_removed_after_a_day(bundle: Path, root: Path) -> None:
    for name, age in (("old", 2 * 24 * 3600), ("new", 60)):
        folder = root / "tiny" / f".incoming-{name}"
        folder.mkdir(parents=True)
        os.utime(folder, (time.time() - age,) * 2)
    push(bundle, f"file:{root}/tiny", PushOptions())
    assert [path.name for path in (root / "tiny").glob(".*")] == [".incoming-new"]


def test_a_file_that_was_changed_in_the_folder_is_not_used(bundle: Path, root: Path) -> None:
    pushed = push(bundle, f"file:{root}/tiny", PushOptions())
    config = root / "tiny" / pushed.revision / "config.json"
    config.write_text(config.read_text().replace("tiny", "huge") + " ")
    with pytest.raises(BundleError, match=r"config\.json: .* in the manifest"):
        pull(f"file:{root}/tiny")


def test_an_unknown_name_names_the_nearest(bundle: Path, root: Path) -> None:
    push(bundle, f"file:{root}/roads", PushOptions())
    with pytest.raises(RegistryError, match=r"has no model raods; nearest: roads"):
        pull(f"file:{root}/raods")
    with pytest.raises(RegistryError, match=r"nowhere does not exist, expected a registry: zoo push"):
        pull(f"file:{root}/nowhere/roads")
