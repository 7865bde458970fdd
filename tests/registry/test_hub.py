"""Pull from and push to a Hub that answers on loopback, through its unmodified client."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from zoo.bundle.weights import load_bundle
from zoo.errors import BundleError, RegistryError
from zoo.registry.files import our_files
from zoo.registry.local import LocalBundle, cached
from zoo.registry.pull import look, pull
from zoo.registry.push import PushOptions, push

if TYPE_CHECKING:
    from pathlib import Path

    Files = dict[str, bytes]


def contents(folder: Path) -> Files:
    return {name: path.read_bytes() for name, path in our_files(folder).items()}


def test_what_is_pushed_is_pulled_bit_for_bit(hub: Any, bundle: Path, staged_files: Files) -> None:
    before = contents(bundle)
    pushed = push(bundle, "team/tiny", PushOptions(tag="v1"))
    assert contents(pull("team/tiny")) == contents(pull("team/tiny@v1")) == staged_files
    assert contents(bundle) == before
    for name in ("config.json", "model.safetensors", "model.onnx", "README.md"):
        assert staged_files[name] == before[name]
    assert pull("team/tiny").name == pushed.revision
    assert load_bundle(pull("team/tiny"))[1].method == "supervised"
    assert len(hub.repositories["team/tiny"].commits) == 2  # its birth and ours


def test_only_what_is_needed_is_fetched_and_never_code(hub: Any, staged_files: Files) -> None:
    foreign = {
        "pytorch_model.bin": b"\x80\x04pickle",
        "engines/fp16.engine": b"machine code",
        "evil/model.onnx": b"?",
        "benchmark/report.html": b"<script>",
        "train.py": b"import os",
    }
    hub.add("team/tiny", {**staged_files, **foreign})
    folder = pull("team/tiny", artifacts=False)
    assert set(contents(folder)) == staged_files.keys() - {"model.onnx"}
    assert contents(pull("team/tiny")) == staged_files
    assert {path.name for path in folder.rglob("*") if path.is_file()} == staged_files.keys()


def test_a_look_at_the_card_fetches_no_weights(hub: Any, published: str) -> None:
    folder, revision = look(published)
    assert revision == hub.repositories[published].resolve("main")
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "config.json",
        "manifest.json",
        "preprocessor_config.json",
    ]
    assert cached() == ()
    with pytest.raises(RegistryError, match="team/tiny is not in the cache, which holds no model: pull it"):
        pull(published, offline=True)
    assert "model.safetensors" in contents(pull(published))


def test_a_second_pull_fetches_no_file(hub: Any, published: str) -> None:
    pull(published)
    hub.requests.clear()
    pull(published)
    assert hub.fetched() == []
    hub.requests.clear()
    pull(f"{published}@{hub.repositories[published].resolve('main')}")
    assert hub.requests == []


def test_without_a_network_what_was_pulled_is_used_on_demand_alone(
    hub: Any, published: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pull(published)
    commit = hub.repositories[published].resolve("main")
    size = sum(map(len, contents(folder).values()))
    assert cached() == (LocalBundle(published, commit, folder, size),)
    hub.requests.clear()
    assert pull(published, offline=True) == folder
    assert hub.requests == []
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(RegistryError, match=rf"no network: .*team/tiny@{commit[:12]}: with --offline"):
        pull(published)
    with pytest.raises(RegistryError, match="team/other is not in the cache, which holds team/tiny@"):
        pull("team/other", offline=True)


def test_a_revision_stays_what_it_was_when_the_model_moves_on(hub: Any, staged_files: Files) -> None:
    first = hub.add("team/tiny", staged_files)
    hub.repositories["team/tiny"].tags["v1"] = first
    before = contents(pull("team/tiny"))
    pulled_at = pull("team/tiny").stat().st_mtime
    second = hub.add("team/tiny", {**staged_files, "notes.txt": b"newer"})
    assert pull("team/tiny").name == second
    assert pull("team/tiny@v1").name == pull(f"team/tiny@{first}").name == first
    assert contents(pull("team/tiny@v1")) == before
    for later, order in ((60, [second, first]), (-60, [first, second])):
        os.utime(pull("team/tiny"), (pulled_at, pulled_at + later))
        assert [bundle.revision for bundle in cached()] == order


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the client write smaller chunks, and not wait before it tries again."""
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 50_000)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)


@pytest.mark.usefixtures("impatient")
def test_a_cut_connection_is_resumed_where_it_broke(hub: Any, published: str, staged_files: Files) -> None:
    hub.cut_after = [120_000]
    assert contents(pull(published)) == staged_files
    ranges = [each for method, _, each in hub.requests if method == "GET" and each]
    assert ranges == ["bytes=100000-"]


@pytest.mark.usefixtures("impatient")
def test_a_download_that_breaks_off_leaves_no_bundle(hub: Any, published: str, staged_files: Files) -> None:
    hub.cut_after = [0] * 20
    with pytest.raises(RegistryError, match=r"broke off at team/tiny .*pull again, finished files are kept"):
        pull(published)
    assert cached() == ()
    hub.cut_after = []
    assert contents(pull(published)) == staged_files


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "model.onnx", "README.md"])
def test_a_file_that_was_tampered_with_is_not_used_and_not_kept(
    hub: Any, staged_files: Files, file: str
) -> None:
    changed = bytes([staged_files[file][0] ^ 1]) + staged_files[file][1:]
    hub.add("team/tiny", {**staged_files, file: changed})
    with pytest.raises(BundleError, match=rf"{file}: its SHA-256 is not that of the manifest"):
        pull("team/tiny")
    hub.add("team/tiny", staged_files)
    assert contents(pull("team/tiny")) == staged_files


def test_a_file_that_broke_in_the_cache_is_fetched_again(published: str, staged_files: Files) -> None:
    weights = pull(published) / "model.safetensors"
    data = weights.read_bytes()
    weights.resolve().write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    said: list[str] = []
    with pytest.raises(BundleError, match="SHA-256"):
        pull(published, offline=True)
    assert contents(pull(published, say=said.append)) == staged_files
    assert said == [
        "model.safetensors of team/tiny is broken (its SHA-256 is not that of the manifest): pulling it again"
    ]


def test_a_proxy_that_strips_the_headers_is_named(hub: Any, published: str, staged_files: Files) -> None:
    hub.stripped = {"x-repo-commit", "x-linked-etag", "x-linked-size", "etag"}
    with pytest.raises(RegistryError, match=r"a proxy removes them; set HF_ENDPOINT .*or .*--bundle"):
        pull(published)
    assert cached() == ()
    hub.stripped = {"x-linked-size"}  # which the client can do without
    assert contents(pull(published)) == staged_files


def test_a_gated_model_names_the_token_that_may_not_read_it(
    hub: Any, published: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repositories[published].gated = True
    with pytest.raises(RegistryError, match="gated and may not be read with no token: accept its terms"):
        pull(published)
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    with pytest.raises(RegistryError, match="gated and may not be read with the token in HF_TOKEN"):
        pull(published)


def test_a_private_model_is_read_with_its_token_alone(
    hub: Any, published: str, staged_files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.token = "hf_right"
    with pytest.raises(RegistryError, match="or it is private and cannot be read with no token"):
        pull(published)
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    assert contents(pull(published)) == staged_files
    assert not hub.leaked


def test_an_unknown_model_names_the_nearest(published: str) -> None:
    pull(published)
    with pytest.raises(RegistryError, match=r"no model team/tinny on the Hub.*nearest: team/tiny"):
        pull("team/tinny")


def test_an_unknown_revision_names_what_is_cached(hub: Any, published: str) -> None:
    pull(published)
    commit = hub.repositories[published].resolve("main")
    with pytest.raises(RegistryError, match=rf"no revision v9; the cache holds {commit[:12]}"):
        pull(f"{published}@v9")


@pytest.mark.parametrize("missing", ["manifest.json", "config.json", "model.safetensors"])
def test_a_repository_that_is_no_bundle_is_refused(hub: Any, staged_files: Files, missing: str) -> None:
    hub.add("team/other", {name: data for name, data in staged_files.items() if name != missing})
    with pytest.raises(BundleError, match=rf"{missing}: missing, expected a bundle made by zoo push"):
        pull("team/other")
    assert cached() == ()


def test_a_hub_that_is_down_says_so(hub: Any, published: str) -> None:
    hub.status = 503
    with pytest.raises(RegistryError, match="the Hub answers 503 for team/tiny: try again later"):
        pull(published)
