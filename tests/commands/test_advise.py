from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from zoo.bundle.manifest import read_manifest
from zoo.cli import app
from zoo.errors import ExportError, ZooError

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

FAST = ("--calibration", "minmax", "--calibration-images", "4", "--max-drop", "1")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["export", *map(str, arguments), "--precision", "auto", *FAST])


@pytest.mark.slow
def test_the_fastest_artifact_that_passes_is_kept_alone(bundle_copy: Path) -> None:
    result = run(bundle_copy, "--min-agreement", 0.5, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    tried = {each["candidate"]: float(each["p50 ms"]) for each in found["candidates"]}
    assert set(tried) >= {"ort:fp32", "ort:int8"}
    assert tried[found["chosen"]] == min(tried.values())
    assert [path.name for path in bundle_copy.glob("*.onnx")] == [found["file"]]
    manifest = read_manifest(bundle_copy)
    assert set(manifest.artifacts[found["file"]]["chosen_from"]) == set(tried)
    assert found["file"] in manifest.files
    assert "int8-trt" not in result.stderr  # which nothing here could time


@pytest.mark.slow
def test_a_candidate_that_misses_its_gate_is_not_kept_however_fast(bundle_copy: Path) -> None:
    result = run(bundle_copy, "--min-agreement", 0.9995)  # no int8 file of random weights agrees as much
    assert result.exit_code == 0, result.output
    assert [path.name for path in bundle_copy.glob("*.onnx")] == ["model.onnx"]
    assert "model.int8.onnx" in result.stdout.replace("\n", "")


def test_auto_is_no_item_of_a_list(bundle_copy: Path) -> None:
    result = CliRunner().invoke(app, ["export", str(bundle_copy), "--precision", "auto,fp32"])
    assert isinstance(result.exception, ExportError | ZooError)
    assert "--precision auto cannot be exported" in str(result.exception)
