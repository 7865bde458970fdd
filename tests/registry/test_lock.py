"""`zoo.lock`, and bundles in tar files that carry one."""

from __future__ import annotations

import io
import json
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import zoo
from zoo.errors import BundleError, RegistryError
from zoo.registry.archive import write_archive
from zoo.registry.files import our_files
from zoo.registry.lock import LockedBundle, read_lock, update_lock
from zoo.registry.pull import copy_to, fetch, pull, unpack
from zoo.registry.push import PushOptions, push

if TYPE_CHECKING:
    Files = dict[str, bytes]

LOCK = Path("zoo.lock")
CARD = "---\nlicense: mit\n---\n\n# Newer\n"


def contents(folder: Path) -> Files:
    return {name: path.read_bytes() for name, path in our_files(folder).items()}


@pytest.fixture
def name(bundle: Path, work: Path) -> str:
    """Return the name of a bundle in a folder beside the current one."""
    push(bundle, f"file:{work.parent}/share/tiny", PushOptions())
    return "file:../share/tiny"


@pytest.fixture
def archive(name: str, work: Path) -> Path:
    """Return a tar file with a bundle."""
    pulled = fetch(name)
    write_archive(work / "tiny.tar", pulled.name, pulled.locked, pulled.folder)
    return work / "tiny.tar"


def rewrite(archive: Path, change: Any) -> None:
    """Write a tar file anew, its members changed by a function of name and contents."""
    with tarfile.open(archive) as old:
        members = [(member, old.extractfile(member).read()) for member in old]  # type: ignore[union-attr]
    with tarfile.open(archive, "w") as new:
        for member, data in members:
            for changed, contents_ in change(member, data):
                changed.size = len(contents_)
                new.addfile(changed, io.BytesIO(contents_))


def test_a_lock_holds_the_revision_and_every_hash_sorted(name: str, bundle: Path) -> None:
    folder = pull(name, lock=LOCK)
    first = LOCK.read_bytes()
    (entry,) = json.loads(first)["models"].values()
    assert entry["revision"] == folder.name
    assert list(entry["files"]) == sorted(contents(folder))
    pull(name, lock=LOCK)
    assert LOCK.read_bytes() == first
    assert not bundle.samefile(folder)


def test_a_locked_pull_stays_at_its_revision_until_it_is_pulled_anew(name: str, bundle: Path) -> None:
    before = pull(name, lock=LOCK)
    (bundle / "README.md").write_text(CARD)
    push(bundle, name, PushOptions())
    assert pull(name, locked=True, lock=LOCK) == before
    assert pull(name, lock=LOCK) != before
    assert pull(name, locked=True, lock=LOCK) != before


def test_a_locked_pull_refuses_other_bytes_and_names_them(name: str) -> None:
    pull(name, lock=LOCK)
    text = LOCK.read_text()
    digest = read_lock(LOCK).models[name].files["config.json"]
    LOCK.write_text(text.replace(digest, "0" * 64))
    with pytest.raises(RegistryError, match=r"config\.json of file:\S+ is not the one in zoo\.lock"):
        pull(name, locked=True, lock=LOCK)


def test_a_locked_pull_of_a_model_that_is_not_locked_is_refused(name: str) -> None:
    with pytest.raises(RegistryError, match=r"zoo\.lock holds nothing, expected file:\S+: zoo pull"):
        pull(name, locked=True)
    LOCK.write_text("{}nonsense")
    with pytest.raises(
        RegistryError, match=r"zoo\.lock is not a lock file of this version .*delete it and pull"
    ):
        pull(name, lock=LOCK)


def test_locks_written_at_once_lose_nothing(work: Path) -> None:
    entries = {f"team/m{number}": LockedBundle(revision=f"{number:040}", files={}) for number in range(12)}
    with ThreadPoolExecutor(12) as pool:
        list(pool.map(lambda item: update_lock(work / "zoo.lock", *item), entries.items()))
    assert read_lock(work / "zoo.lock").models == entries


def test_the_lock_of_a_hub_model_holds_its_commit_and_needs_no_request_again(
    hub: Any, published: str, work: Path
) -> None:
    pull(published, lock=work / "zoo.lock")
    commit = hub.repositories[published].resolve("main")
    assert read_lock(work / "zoo.lock").models[published].revision == commit
    hub.add(published, {})
    hub.requests.clear()
    assert pull(published, locked=True, lock=work / "zoo.lock").name == commit
    assert hub.requests == []


def test_a_bundle_travels_in_a_tar_file_bit_for_bit(archive: Path, name: str) -> None:
    unpacked = unpack(archive, lock=LOCK)
    assert contents(unpacked.folder) == contents(pull(name))
    assert unpacked.folder == Path("pulled") / f"tiny-{pull(name).name[:12]}"
    assert read_lock(LOCK).models[name].revision == pull(name).name
    assert unpack(archive, locked=True).folder == unpacked.folder


def test_the_same_bundle_gives_the_same_tar_file(archive: Path, name: str, work: Path) -> None:
    pulled = fetch(name)
    write_archive(work / "again.tar", pulled.name, pulled.locked, copy_to(pulled))
    assert (work / "again.tar").read_bytes() == archive.read_bytes()


def test_a_tar_file_may_be_held_to_the_lock(archive: Path, name: str, bundle: Path) -> None:
    (bundle / "README.md").write_text(CARD)
    push(bundle, name, PushOptions())
    pull(name, lock=LOCK)
    with pytest.raises(RegistryError, match=r"is at \w+, zoo\.lock says \w+"):
        unpack(archive, locked=True)
    assert not Path("pulled").exists() or not list(Path("pulled").iterdir())


@pytest.mark.parametrize("evil", ["../evil.onnx", "/tmp/evil.onnx", "evil.pkl", "deep/er/config.json"])
def test_a_tar_file_writes_nothing_but_the_files_of_a_bundle(archive: Path, work: Path, evil: str) -> None:
    def add(member: tarfile.TarInfo, data: bytes) -> list[tuple[tarfile.TarInfo, bytes]]:
        extra = [(tarfile.TarInfo(evil), b"evil")] if member.name == "config.json" else []
        return [*extra, (member, data)]

    rewrite(archive, add)
    with pytest.raises(RegistryError, match=r"expected only files in its zoo\.lock"):
        unpack(archive, work / "out")
    assert sorted(path.name for path in work.rglob("*")) == ["tiny.tar"]


@pytest.mark.parametrize(("old", "new"), [("tiny", "tiny/../.."), ('revision": "', 'revision": "../')])
def test_a_tar_file_cannot_choose_where_it_is_unpacked(archive: Path, work: Path, old: str, new: str) -> None:
    def mislead(member: tarfile.TarInfo, data: bytes) -> list[tuple[tarfile.TarInfo, bytes]]:
        is_lock = member.name == "zoo.lock"
        return [(member, data.replace(old.encode(), new.encode(), 1) if is_lock else data)]

    rewrite(archive, mislead)
    with pytest.raises(RegistryError, match=r"does not name one model|does not name a model"):
        unpack(archive)
    assert sorted(path.name for path in work.rglob("*")) == ["pulled", "tiny.tar"]


def test_a_link_in_a_tar_file_is_not_followed(archive: Path, work: Path) -> None:
    def link(member: tarfile.TarInfo, data: bytes) -> list[tuple[tarfile.TarInfo, bytes]]:
        if member.name == "README.md":
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            return [(member, b"")]
        return [(member, data)]

    rewrite(archive, link)
    with pytest.raises(RegistryError, match=r"contains 'README\.md', expected only files"):
        unpack(archive, work / "out")


def test_a_sparse_file_in_a_tar_file_is_not_unpacked(archive: Path, work: Path) -> None:
    """A few bytes that stand for millions."""

    def thin(member: tarfile.TarInfo, data: bytes) -> list[tuple[tarfile.TarInfo, bytes]]:
        if member.name == "README.md":
            member.pax_headers = {"GNU.sparse.map": "0,3", "GNU.sparse.size": "10000000"}
            return [(member, b"abc")]
        return [(member, data)]

    rewrite(archive, thin)
    with pytest.raises(RegistryError, match=r"README\.md is a sparse file, expected a plain one"):
        unpack(archive, work / "out")
    assert not list(work.rglob("README.md"))


def test_a_file_that_comes_twice_in_a_tar_file_is_refused(archive: Path, work: Path) -> None:
    rewrite(archive, lambda member, data: [(member, data)] * (2 if member.name == "config.json" else 1))
    with pytest.raises(RegistryError, match=r"contains config\.json twice"):
        unpack(archive, work / "out")


def test_a_changed_file_in_a_tar_file_is_refused(archive: Path, work: Path) -> None:
    rewrite(archive, lambda member, data: [(member, data[::-1] if member.name == "README.md" else data)])
    with pytest.raises(BundleError, match=r"README\.md: its SHA-256 is not that of the manifest"):
        unpack(archive, work / "out")
    assert not (work / "out").exists()


def test_a_file_that_is_no_such_tar_is_refused(archive: Path, work: Path) -> None:
    whole = archive.read_bytes()
    for size in (5_000, 8_192, len(whole) // 2, len(whole) - 11_000):
        archive.write_bytes(whole[:size])
        with pytest.raises(RegistryError, match="is not a complete tar file"):
            unpack(archive, work / "out")
    archive.write_bytes(b"PK\x03\x04" * 1000)
    with pytest.raises(RegistryError, match="is not a complete tar file"):
        unpack(archive, work / "out")
    with tarfile.open(archive, "w") as empty:
        empty.addfile(tarfile.TarInfo("config.json"))
    with pytest.raises(RegistryError, match=r"has no zoo\.lock, expected a file written by zoo pull"):
        unpack(archive, work / "out")
    with pytest.raises(RegistryError, match="does not exist"):
        unpack(work / "nowhere.tar")


def test_a_folder_that_is_there_is_not_overwritten(archive: Path, name: str, work: Path) -> None:
    (work / "out").mkdir()
    (work / "out" / "mine.txt").write_text("mine")
    with pytest.raises(RegistryError, match="out exists already, expected a new folder"):
        unpack(archive, work / "out")
    with pytest.raises(RegistryError, match="out exists already, expected a new folder"):
        copy_to(fetch(name), work / "out")
    assert [path.name for path in (work / "out").iterdir()] == ["mine.txt"]


def test_neither_a_file_nor_the_current_folder_is_a_new_folder(
    archive: Path, name: str, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (work / "empty").mkdir()
    (work / "empty/file").write_text("mine")
    pulled, archive = fetch(name), archive.absolute()
    pulled = pulled._replace(folder=pulled.folder.absolute())
    monkeypatch.chdir(work / "empty")
    for out, what in (("file", "is a file"), (".", "is the current folder")):
        for get in (lambda: unpack(archive, Path(out)), lambda: copy_to(pulled, Path(out))):  # noqa: B023
            with pytest.raises(RegistryError, match=f"{what}, expected a new folder"):
                get()
    assert [path.name for path in Path().iterdir()] == ["file"]
    assert not list(work.glob(".*"))


def test_load_in_python_follows_the_lock(hub: Any, published: str, staged_files: Any, work: Path) -> None:
    first = pull(published, lock=work / LOCK).name
    hub.add(published, {**staged_files, "notes.txt": b"newer"})
    hub.requests.clear()
    zoo.load(published)
    assert hub.requests == []
    assert read_lock(work / LOCK).models[published].revision == first
