from __future__ import annotations

from pathlib import Path

import pytest

from zoo.bundle.bundle import CARD_NAME, CONFIG_NAME, WEIGHTS_NAME
from zoo.bundle.manifest import MANIFEST_NAME
from zoo.errors import RegistryError
from zoo.registry import files
from zoo.registry.names import Name, parse_name
from zoo.resolve import is_name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("team/u2pl-voc", Name("hub", "team/u2pl-voc")),
        ("team/u2pl.voc_1@refs/pr/2", Name("hub", "team/u2pl.voc_1", revision="refs/pr/2")),
        ("file:roads", Name("file", "roads", Path())),
        ("file:/srv/models/roads@v1.2", Name("file", "roads", Path("/srv/models"), "v1.2")),
        ("file:../share/me@home/roads@v1", Name("file", "roads", Path("../share/me@home"), "v1")),
    ],
)
def test_a_name_is_read_and_written(text: str, name: Name) -> None:
    assert parse_name(text) == name
    assert parse_name(str(name)) == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        "roads",
        "a/b/c",
        "/etc/passwd",
        "../roads",
        "team/../roads",
        "team/ro ads",
        "team/roads@",
        "team/roads@../main",
        "team/roads@a b",
        "file:",
        "file:/srv/models/",
        "file:..",
        "file:/srv/.hidden",
        "team/--roads",
        "https://host/team/roads",
    ],
)
def test_what_is_no_name_is_refused_in_one_line(text: str) -> None:
    if text == "file:/srv/models/":
        assert parse_name(text).path == "models"
        return
    with pytest.raises(RegistryError, match="expected") as error:
        parse_name(text)
    assert "\n" not in str(error.value)


def test_a_path_or_a_slip_in_one_is_no_name(work: Path) -> None:
    (work / "models" / "roads").mkdir(parents=True)
    assert is_name("team/roads")
    assert is_name("file:models/roads")
    for text in ("models/roads", "models/raods", "runs/eln", "roads", "team/roads.onnx", "./roads", "a/b/c"):
        assert not is_name(text), text


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("config.json", True),
        ("model.int8.trt.onnx", True),
        ("benchmark/benchmark.json", True),
        ("preprocessor_config.json", True),
        ("preview.png", True),
        ("pytorch_model.bin", False),
        ("model.pkl", False),
        ("engines/fp16.engine", False),
        ("benchmark/report.html", False),
        ("benchmark/../config.json", False),
        ("deep/model.onnx", False),
        (".hidden.onnx", False),
        ("/model.onnx", False),
        ("modèle.onnx", False),
    ],
)
def test_a_registry_holds_weights_artifacts_and_figures_alone(name: str, ours: bool) -> None:
    assert files.is_ours(name) is ours


def test_the_names_of_files_are_those_of_a_bundle() -> None:
    assert (CONFIG_NAME, WEIGHTS_NAME, CARD_NAME, MANIFEST_NAME) == (
        files.CONFIG,
        files.WEIGHTS,
        files.CARD,
        files.MANIFEST,
    )
