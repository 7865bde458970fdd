"""Downloads against a server on this machine that breaks off, forgets, and refuses."""

import os
import resource
import signal
import subprocess
import sys
from functools import partial

import pytest

from zoo.data.prepare.download import download, sums_of
from zoo.errors import DatasetError

CONTENT = os.urandom(300_000)


@pytest.fixture
def fetch(site, quiet, tmp_path):
    """Return a function that downloads `file` to `here/file`, with short pauses, and returns its path."""
    site.files["file"] = CONTENT
    path = tmp_path / "here" / "file"

    def run(name="file"):
        download(f"{site.url}/{name}", path, quiet, pause_s=0.001)
        return path

    run.part = path.with_name("file.part")
    return run


def test_a_file_arrives_as_it_is(fetch, site):
    path = fetch()
    assert path.read_bytes() == CONTENT
    assert site.requests == [None]
    assert not fetch.part.exists()


def test_a_connection_that_breaks_is_taken_up_where_it_broke(fetch, site):
    site.cut_after = [100_000, 50_000]
    assert fetch().read_bytes() == CONTENT
    assert site.requests == [None, "bytes=100000-", "bytes=150000-"]


def test_what_an_earlier_run_left_is_not_fetched_again(fetch, site):
    fetch.part.parent.mkdir()
    fetch.part.write_bytes(CONTENT[:200_000])
    assert fetch().read_bytes() == CONTENT
    assert site.requests == ["bytes=200000-"]


def test_a_part_that_is_whole_is_taken(fetch, site):
    fetch.part.parent.mkdir()
    fetch.part.write_bytes(CONTENT)
    assert fetch().read_bytes() == CONTENT
    assert site.requests == ["bytes=300000-"]


def test_a_part_longer_than_the_file_is_fetched_anew(fetch, site):
    fetch.part.parent.mkdir()
    fetch.part.write_bytes(CONTENT + b"more")
    assert fetch().read_bytes() == CONTENT
    assert site.requests == ["bytes=300004-", None]


def test_a_server_without_ranges_sends_the_whole_file_again(fetch, site):
    site.knows_ranges = False
    site.cut_after = [100_000]
    assert fetch().read_bytes() == CONTENT
    assert site.requests == [None, "bytes=100000-"]


def test_a_server_that_is_busy_is_asked_again(fetch, site):
    site.statuses = [503, 429, 500]
    assert fetch().read_bytes() == CONTENT


def test_a_connection_that_never_brings_more_ends_in_one_line_and_keeps_what_came(fetch, site):
    site.cut_after = [100_000] + [0] * 9
    with pytest.raises(
        DatasetError, match=r"got no more after 100,000 bytes .* run the command again"
    ) as caught:
        fetch()
    assert "\n" not in str(caught.value)
    assert fetch.part.read_bytes() == CONTENT[:100_000]
    assert len(site.requests) == 6
    site.cut_after = []
    assert fetch().read_bytes() == CONTENT


def test_a_file_that_is_not_there_is_not_asked_for_again(fetch, site):
    with pytest.raises(
        DatasetError, match=r"/other: got HTTP 404, expected the file: fetch it with a browser"
    ):
        fetch("other")
    assert len(site.requests) == 1


def test_a_server_that_is_not_there_is_an_error(quiet, tmp_path):
    with pytest.raises(DatasetError, match=r"127.0.0.1:1/x: got no more after 0 bytes \(.*refused"):
        download("http://127.0.0.1:1/x", tmp_path / "x", quiet, pause_s=0.001)


def test_the_report_says_how_much_is_there(site, tmp_path):
    site.files["file"] = CONTENT
    site.cut_after = [100_000]
    said = []
    download(f"{site.url}/file", tmp_path / "file", lambda *report: said.append(report), pause_s=0.001)
    assert {(what, total) for what, _, total in said} == {("downloading file", 300_000)}
    assert [done for _, done, _ in said] == sorted(done for _, done, _ in said)
    assert said[-1][1] == 300_000


def test_a_disk_that_is_full_ends_in_one_line_and_keeps_what_came(site, tmp_path):
    site.files["file"] = CONTENT
    program = (
        "import sys; from pathlib import Path; from zoo.data.prepare.download import download\n"
        "try: download(sys.argv[1], Path(sys.argv[2]), lambda *_: None)\n"
        "except Exception as error: print(type(error).__name__, error); raise SystemExit(1)"
    )
    command = [sys.executable, "-c", program, f"{site.url}/file", str(tmp_path / "file")]
    result = subprocess.run(
        command, capture_output=True, text=True, check=False, preexec_fn=partial(_limit, 120_000)
    )
    assert result.returncode == 1, result.stderr
    assert "DatasetError" in result.stdout
    assert "got a full disk or quota after 120,000 bytes" in result.stdout
    assert result.stdout.count("\n") == 1
    assert (tmp_path / "file.part").read_bytes() == CONTENT[:120_000]


def _limit(size):
    """Let no file of this process grow beyond a size, as a full disk would."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_too_little_room_is_said_before_anything_is_written(fetch, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: _Usage(100_000))
    with pytest.raises(DatasetError, match=r"got 0.0 GB of free space, expected 0.0 GB for the rest of file"):
        fetch()
    assert not fetch.part.exists()


class _Usage:
    def __init__(self, free):
        self.free = free


def test_the_sums_of_a_file_are_those_of_its_bytes(tmp_path, quiet):
    (tmp_path / "abc").write_bytes(b"abc")
    sums = sums_of(tmp_path / "abc", quiet)
    assert sums.md5 == "900150983cd24fb0d6963f7d28e17f72"
    assert sums.sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
