"""Archives as they should be, and as someone would make them who wants to write elsewhere."""

import io
import resource
import signal
import stat
import subprocess
import sys
import tarfile
import zipfile

import pytest

from zoo.data.prepare.unpack import merge, unpack
from zoo.errors import DatasetError


def everything(_):
    return True


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder"


def tar(path, *members):
    """Write a tar file of members and their contents."""
    with tarfile.open(path, "w") as archive:
        for member, content in members:
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def member(name, kind=tarfile.REGTYPE, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.parametrize("suffix", [".tar", ".zip"])
def test_the_wanted_files_are_unpacked_and_no_others(tmp_path, folder, quiet, suffix):
    files = {"a/one.txt": b"1", "a/b/two.txt": b"2", "c/three.txt": b"3"}
    path = tmp_path / f"archive{suffix}"
    if suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    else:
        tar(path, *((member(name), content) for name, content in files.items()))
    unpack(path, folder, lambda name: name.startswith("a/"), quiet)
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert found == {"a/one.txt", "a/b/two.txt"}
    assert (folder / "a/b/two.txt").read_bytes() == b"2"


@pytest.mark.parametrize(
    "bad",
    [
        member("../outside"),
        member("a/../../outside"),
        member("/outside"),
        member("C:\\outside"),
        member("link", tarfile.SYMTYPE, "/etc"),
        member("link", tarfile.LNKTYPE, "../outside"),
        member("pipe", tarfile.FIFOTYPE),
    ],
    ids=lambda info: f"{info.name} {info.type!r}",
)
def test_a_tar_file_that_leads_out_of_the_folder_unpacks_nothing(tmp_path, folder, quiet, bad):
    path = tar(tmp_path / "bad.tar", (member("fine.txt"), b"fine"), (bad, b""))
    with pytest.raises(DatasetError, match=r"bad.tar: got the member '.*', expected plain files inside"):
        unpack(path, folder, everything, quiet)
    assert list(folder.iterdir()) == []
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize("name", ["../outside", "/outside", "a/../../outside"])
def test_a_zip_file_that_leads_out_of_the_folder_unpacks_nothing(tmp_path, folder, quiet, name):
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr("fine.txt", b"fine")
        archive.writestr(name, b"bad")
    with pytest.raises(DatasetError, match="expected plain files inside the folder"):
        unpack(tmp_path / "bad.zip", folder, everything, quiet)
    assert list(folder.iterdir()) == []
    assert not (tmp_path / "outside").exists()


def test_a_link_in_a_zip_file_is_not_followed(tmp_path, folder, quiet):
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr(link, "/etc")
    with pytest.raises(DatasetError, match="got the member 'link'"):
        unpack(tmp_path / "bad.zip", folder, everything, quiet)


@pytest.mark.parametrize("suffix", [".tar", ".tgz", ".zip"])
def test_an_archive_that_is_broken_off_unpacks_nothing(tmp_path, folder, quiet, suffix):
    whole = tmp_path / f"whole{suffix}"
    if suffix == ".zip":
        with zipfile.ZipFile(whole, "w") as archive:
            archive.writestr("a.txt", b"a" * 100_000)
    else:
        with tarfile.open(whole, "w:gz" if suffix == ".tgz" else "w") as archive:
            for name in ("a.txt", "b.txt"):
                info = member(name)
                info.size = 100_000
                archive.addfile(info, io.BytesIO(bytes(range(250)) * 400))
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size * 3 // 4])
    with pytest.raises(DatasetError, match=r"broken\S+: got an archive that cannot be unpacked") as caught:
        unpack(path, folder, everything, quiet)
    assert "\n" not in str(caught.value)
    assert ".prepare-" not in str(caught.value)
    assert list(folder.iterdir()) == []


def test_a_disk_that_is_full_ends_in_one_line_and_unpacks_nothing(tmp_path, folder):
    path = tar(tmp_path / "large.tar", (member("small"), b"1"), (member("large"), bytes(50_000)))
    program = (
        "import sys; from pathlib import Path; from zoo.data.prepare.unpack import unpack\n"
        "try: unpack(Path(sys.argv[1]), Path(sys.argv[2]), lambda _: True, lambda *_: None)\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    command = [sys.executable, "-c", program, str(path), str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=True, preexec_fn=_limit)
    assert result.stdout.startswith(f"DatasetError {path}: got an archive that cannot be unpacked")
    assert result.stdout.count("\n") == 1
    assert ".prepare-" not in result.stdout
    assert list(folder.iterdir()) == []


def _limit():
    """Let no file of this process grow beyond 10 kB, as a full disk would."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))


def test_a_second_archive_adds_to_the_folders_of_the_first(tmp_path, folder, quiet):
    unpack(tar(tmp_path / "1.tar", (member("a/x"), b"1"), (member("a/y"), b"1")), folder, everything, quiet)
    unpack(tar(tmp_path / "2.tar", (member("a/y"), b"2"), (member("a/b/z"), b"2")), folder, everything, quiet)
    assert [(folder / name).read_bytes() for name in ("a/x", "a/y", "a/b/z")] == [b"1", b"2", b"2"]


def test_a_folder_moves_as_a_whole_where_there_is_none(tmp_path):
    (tmp_path / "from/a").mkdir(parents=True)
    (tmp_path / "from/a/x").write_text("x")
    merge(tmp_path / "from", tmp_path / "to/there")
    assert (tmp_path / "to/there/a/x").read_text() == "x"
    assert not (tmp_path / "from").exists()
