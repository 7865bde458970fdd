from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from zoo.bundle.bundle import load_config, write_json
from zoo.registry.push import remove_paths, staged

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("/srv/anna/secret project/camvid", "camvid"),
        ("voc:/srv/anna/voc", "voc:voc"),
        ("pascal-context-59:/srv/anna/secret project/context", "pascal-context-59:context"),
        ("~/masks/spring", "spring"),
        ("C:\\Users\\anna\\camvid", "camvid"),
        ("zoo bench /srv/anna/eln/bundle --imgsz 64", "zoo bench bundle --imgsz 64"),
        ("128 images of '/srv/anna/pool'", "128 images of 'pool'"),
        ("https://example.test/a/b", "https://example.test/a/b"),
        ("image/png, 1/8 of 367, and/or", "image/png, 1/8 of 367, and/or"),
        ("encoder/Conv, module/encoder/Relu", "encoder/Conv, module/encoder/Relu"),
        ("shapes", "shapes"),
        ([{"folder": "/srv/anna/pool"}, 3, None], [{"folder": "pool"}, 3, None]),
    ],
)
def test_of_a_path_its_last_name_is_left(tmp_path: Path, value: Any, expected: Any) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(value))
    remove_paths(path)
    assert json.loads(path.read_bytes()) == expected


def test_a_file_without_paths_is_left_to_the_byte(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"spec":    "shapes"}')
    remove_paths(path)
    assert path.read_text() == '{"spec":    "shapes"}'


def test_no_path_of_this_machine_is_pushed(bundle: Path, tmp_path: Path) -> None:
    secret = str(tmp_path / "anna" / "camvid")
    config = json.loads((bundle / "config.json").read_bytes())
    config["recipe"] = {"data": {"spec": secret}}
    config["provenance"] = {"parts": {"student": {"folder": secret}}}
    write_json(bundle / "config.json", config)
    card = (bundle / "README.md").read_text()
    (bundle / "README.md").write_text(f"{card}\nTrained on `{secret}`.\n")
    (bundle / "benchmark").mkdir()
    write_json(bundle / "benchmark" / "benchmark.json", {"command": f"zoo bench {secret} --quick"})
    with staged(bundle) as folder:
        texts = [path.read_text() for path in folder.rglob("*") if path.suffix in (".json", ".md")]
        assert load_config(folder).data_spec == "camvid"
    assert len(texts) >= 4
    assert not [text for text in texts if "anna" in text]
    assert load_config(bundle).data_spec == secret
