"""`zoo data prepare` as it is typed."""

import hashlib
import json

import pytest
from typer.testing import CliRunner

from zoo.cli import app
from zoo.data.prepare.archives import DATA_SETS


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Return a function that runs `zoo data prepare` and gives its result."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, ["data", "prepare", *map(str, arguments)])


@pytest.fixture
def official_voc(voc_archives, monkeypatch):
    """Let the sums of the tiny archives be the official ones and return their folder."""
    archives = tuple(
        archive._replace(md5=hashlib.md5((voc_archives / archive.name).read_bytes()).hexdigest())
        for archive in DATA_SETS["voc"].archives
    )
    monkeypatch.setitem(DATA_SETS, "voc", DATA_SETS["voc"]._replace(archives=archives))
    return voc_archives


def test_voc_is_made_and_the_terms_are_shown(run, official_voc):
    result = run("voc", "data", "--from", official_voc, "--accept-license")
    assert result.exit_code == 0, result.stderr
    assert "Flickr's terms of use" in result.stderr
    assert "benchmark.tgz: md5 " in result.stdout
    assert "voc:data: 4 training and 1 validation images" in result.stdout
    assert "the official numbers are 10,582 and 1,449" in result.stdout


def test_a_second_time_there_is_nothing_to_do_or_to_accept(run, official_voc):
    run("voc", "data", "--from", official_voc, "--accept-license")
    result = run("voc", "data", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout) == {"data": "voc:data", "train": 4, "val": 1, "archives": []}


def test_nothing_is_made_before_the_terms_are_accepted(run, official_voc, tmp_path):
    result = run("voc", "data", "--from", official_voc)
    assert result.exit_code == 2
    assert "the terms are not accepted, expected --accept-license" in result.stderr
    assert not (tmp_path / "data").exists()


def test_the_sum_of_an_archive_without_an_official_one_is_printed(run, context_archives, monkeypatch):
    images, annotations = DATA_SETS["pascal-context"].archives
    data_set = DATA_SETS["pascal-context"]._replace(archives=(images._replace(md5=None), annotations))
    monkeypatch.setitem(DATA_SETS, "pascal-context", data_set)
    result = run("pascal-context", "data", "--from", context_archives, "--accept-license")
    assert result.exit_code == 0, result.stderr
    sha256 = hashlib.sha256((context_archives / "trainval.tar.gz").read_bytes()).hexdigest()
    assert f"trainval.tar.gz: no official sum is known; sha256 {sha256}" in result.stdout


def test_cityscapes_without_archives_is_one_line_about_where_to_get_them(run):
    result = run("cityscapes", "data", "--accept-license")
    assert result.exit_code == 1
    assert "wants a login" in str(result.exception)


def test_an_origin_that_is_neither_a_folder_nor_an_address_is_a_usage_error(run):
    result = run("voc", "data", "--from", "nowhere", "--accept-license")
    assert result.exit_code == 2
    assert "'nowhere' is not a folder or an http address" in result.stderr
