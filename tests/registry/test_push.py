"""What may be pushed, and what a push leaves on the Hub."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from huggingface_hub import ModelCard

from zoo.bundle.manifest import read_manifest
from zoo.errors import BundleError, RegistryError, ZooError
from zoo.export.manifest import update_manifest
from zoo.registry.pull import pull
from zoo.registry.push import PushOptions, push, staged

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Files = dict[str, bytes]

CARD = "---\nlicense: {}\ntags:\n- roads\n---\n\n# Tiny\n"


def test_a_push_holds_no_code_and_its_manifest_lists_just_what_is_pushed(bundle: Path) -> None:
    for name in ("engines/fp16.engine", "model.pkl", "benchmark/benchmark.json", "benchmark/report.html"):
        (bundle / name).parent.mkdir(exist_ok=True)
        (bundle / name).write_bytes(b"{}")
    with staged(bundle) as folder:
        manifest = read_manifest(folder)
        names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert "benchmark/benchmark.json" in names
    assert names & {"engines/fp16.engine", "model.pkl", "benchmark/report.html"} == set()
    assert names == {*manifest.files, "manifest.json"}
    assert manifest.artifacts["model.onnx"]["parity"]["passed"]


def test_what_the_model_no_longer_has_is_gone_from_the_hub(hub: Any, bundle: Path) -> None:
    push(bundle, "team/tiny", PushOptions())
    (bundle / "model.onnx").unlink()
    push(bundle, "team/tiny", PushOptions())
    repository = hub.repositories["team/tiny"]
    assert repository.commits[repository.resolve("main")].keys() >= {"config.json", ".gitattributes"}
    assert "model.onnx" not in repository.commits[repository.resolve("main")]
    assert not (pull("team/tiny") / "model.onnx").exists()


def test_the_same_bundle_again_makes_no_commit(hub: Any, bundle: Path) -> None:
    first = push(bundle, "team/tiny", PushOptions())
    hub.requests.clear()
    assert push(bundle, "team/tiny", PushOptions()).revision == first.revision
    assert not any(method == "PUT" for method, _, _ in hub.requests)
    assert len(hub.repositories["team/tiny"].commits) == 2


def test_a_private_push_makes_a_private_model_and_never_a_public_one(hub: Any, bundle: Path) -> None:
    push(bundle, "team/tiny", PushOptions(private=True))
    assert hub.repositories["team/tiny"].private
    push(bundle, "team/open", PushOptions())
    with pytest.raises(RegistryError, match="team/open exists and is public, expected none or a private one"):
        push(bundle, "team/open", PushOptions(private=True))


def test_a_proposal_leaves_the_model_as_it_is(hub: Any, bundle: Path) -> None:
    first = push(bundle, "team/tiny", PushOptions())
    (bundle / "README.md").write_text(CARD.format("mit"))
    proposed = push(bundle, "team/tiny", PushOptions(create_pr=True))
    assert proposed.where == f"{hub.url}/team/tiny/discussions/1"
    assert pull("team/tiny").name == first.revision
    assert pull("team/tiny@refs/pr/1").name == proposed.revision


def test_a_tag_that_is_taken_is_not_moved(hub: Any, bundle: Path) -> None:
    first = push(bundle, "team/tiny", PushOptions(tag="v1"))
    (bundle / "README.md").write_text(CARD.format("mit"))
    with pytest.raises(RegistryError, match="already has the tag v1"):
        push(bundle, "team/tiny", PushOptions(tag="v1"))
    assert pull("team/tiny").name == pull("team/tiny@v1").name == first.revision
    assert len(hub.repositories["team/tiny"].commits) == 2


def test_a_push_over_one_that_came_between_is_refused(hub: Any, bundle: Path, staged_files: Files) -> None:
    push(bundle, "team/tiny", PushOptions())
    (bundle / "README.md").write_text(CARD.format("mit"))
    theirs = {**staged_files, "README.md": b"theirs"}
    hub.before_commit = lambda: hub.add("team/tiny", theirs)
    with pytest.raises(RegistryError, match=r"team/tiny was changed by someone else meanwhile .*push again"):
        push(bundle, "team/tiny", PushOptions())
    repository = hub.repositories["team/tiny"]
    assert repository.commits[repository.resolve("main")] == theirs


def test_a_token_that_may_not_write_is_named(hub: Any, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.status = 403
    monkeypatch.setenv("HF_TOKEN", "hf_reads_only")
    with pytest.raises(RegistryError, match=r"the token in HF_TOKEN .*may read and, to push, write"):
        push(bundle, "team/tiny", PushOptions())


@pytest.mark.parametrize("stated", ["unknown", "other", "''"])
def test_a_bundle_of_unknown_license_is_refused(bundle: Path, stated: str) -> None:
    (bundle / "README.md").write_text(CARD.format(stated))
    with pytest.raises(RegistryError, match=r"states no license .*zoo push --license"), staged(bundle):
        pass
    with staged(bundle, "cc-by-4.0") as folder:
        data = ModelCard.load(folder / "README.md").data
    assert data.license == "cc-by-4.0"
    assert data.tags == ["roads"]
    assert "cc-by" not in (bundle / "README.md").read_text()


@pytest.mark.parametrize("stated", ["nonsense", "Apache 2.0", "mit2"])
def test_a_license_that_does_not_exist_is_refused_with_the_nearest_ids(bundle: Path, stated: str) -> None:
    message = rf"got license {stated!r}, expected an id of the Hub such as .*(apache-2.0|mit)"
    with pytest.raises(BundleError, match=message), staged(bundle, stated):
        pass
    (bundle / "README.md").write_text(CARD.format(stated))
    with pytest.raises(BundleError, match=message), staged(bundle):
        pass
    (bundle / "README.md").write_text(CARD.format("other\nlicense_name: ours"))
    with staged(bundle):
        pass


def spoil_parity(bundle: Path, entry: dict[str, Any]) -> None:
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["artifacts"]["model.onnx"] = entry
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"parity": {"agreement": 0.9, "passed": False}}, r"did not pass its gate \(agreement 0\.9\)"),
        ({"parity": {"agreement": 1.0}}, "was exported by an older zoo: zoo export"),
        ({"parity": {"agreement": 1.0, "passed": "yes"}}, "did not pass its gate"),
        ({"parity": None, "remark": "no runtime"}, "was not compared with the model"),
        ({}, "was not compared with the model"),
    ],
)
def test_an_artifact_that_did_not_pass_its_gate_is_refused(
    bundle: Path, entry: dict[str, Any], reason: str
) -> None:
    spoil_parity(bundle, entry)
    with pytest.raises(RegistryError, match=reason), staged(bundle):
        pass


@pytest.mark.parametrize("name", ["model.safetensors", "model.onnx"])
def test_what_was_changed_after_its_gate_is_refused(bundle: Path, name: str) -> None:
    (bundle / name).write_bytes((bundle / name).read_bytes() + b" ")
    with pytest.raises(RegistryError, match=r"changed after its check, run zoo export again"), staged(bundle):
        pass


def test_an_artifact_of_other_weights_is_refused(bundle: Path, write_onnx: Callable[..., Path]) -> None:
    (bundle / "model.onnx").unlink()
    write_onnx(bundle / "model.onnx")  # says it was made of weights of the hash 000...
    update_manifest(bundle, {"model.onnx": {"parity": {"agreement": 1.0, "passed": True}}})
    with pytest.raises(BundleError, match=rf"{bundle}/model\.onnx: made from other weights"), staged(bundle):
        pass


def test_a_bundle_that_was_never_exported_may_be_pushed(bundle: Path) -> None:
    (bundle / "model.onnx").unlink()
    (bundle / "manifest.json").unlink()
    with staged(bundle) as folder:
        assert read_manifest(folder).files.keys() >= {"config.json", "model.safetensors", "README.md"}


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("team/tiny@v1", PushOptions(), "has a revision, which the registry assigns"),
        ("tiny", PushOptions(), "is not the name of a model, expected owner/name"),
        ("file:DIR/tiny", PushOptions(private=True), "--private and --create-pr are for the Hub"),
        ("team/tiny", PushOptions(tag="a b"), "cannot be a tag"),
        ("file:DIR/tiny", PushOptions(tag="abcdef0"), "cannot be a tag"),
        ("file:DIR/tiny", PushOptions(tag="latest"), "cannot be a tag, which never moves, .* pushed last"),
        ("team/tiny", PushOptions(tag="v1", create_pr=True), "tag the model when the pull request is merged"),
    ],
)
def test_a_target_that_cannot_be_is_refused_in_one_line(
    bundle: Path, work: Path, name: str, options: PushOptions, reason: str
) -> None:
    with pytest.raises(ZooError, match=reason) as error:
        push(bundle, name, options)
    assert "\n" not in str(error.value)
    assert list(work.iterdir()) == []
