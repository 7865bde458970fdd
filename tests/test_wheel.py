"""The wheel: built from a copy of the sources, installed into an empty environment, used elsewhere."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

from zoo.catalog import entries

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("train", "export", "serve")
OPTIONAL = {
    "tensorrt",
    "tensorrt_rtx",
    "openvino",
    "ray",
    "fastapi",
    "uvicorn",
    "triton_python_backend_utils",
}
"""Packages of extras: a module that needs one of these may fail to load without it."""

IMPORT_ALL = """
import importlib, json, pkgutil, zoo
loaded, missing = [], []
for module in pkgutil.walk_packages(zoo.__path__, "zoo."):
    if module.name == "zoo.__main__":
        continue
    try:
        importlib.import_module(module.name)
        loaded.append(module.name)
    except ModuleNotFoundError as error:
        missing.append([module.name, error.name])
print(json.dumps([zoo.__file__, loaded, missing]))
"""


class Installed(NamedTuple):
    """The wheel and where it was installed."""

    wheel: Path
    folder: Path
    """Of the environment."""

    def run(self, program: str, *arguments: str) -> str:
        """Return what a program of the environment prints when it runs in an empty folder."""
        empty = self.folder / "empty"
        empty.mkdir(exist_ok=True)
        command = [str(self.folder / "bin" / program), *arguments]
        plain = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        result = subprocess.run(command, cwd=empty, env=plain, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        return result.stdout

    @property
    def files(self) -> list[str]:
        """Return the names of the files in the wheel."""
        with zipfile.ZipFile(self.wheel) as archive:
            return archive.namelist()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("wheel")
    wheel = build(folder)
    environment = folder / "environment"
    venv.create(environment, symlinks=True)
    command = [sys.executable, "-m", "pip", "--python", str(environment / "bin" / "python"), "install"]
    subprocess.run([*command, "--quiet", "--no-deps", "--no-index", str(wheel)], check=True)
    borrow_packages(environment)
    return Installed(wheel, environment)


def build(folder: Path) -> Path:
    """Return a wheel built from a copy, where no earlier build has left anything.

    Without isolation: setuptools is a dependency of this project's `dev` extra, and no registry is needed.
    """
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("zoo", *STAGES, "tests/gpu"):
        shutil.copytree(
            ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
        )
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(folder),
        str(source),
    ]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def borrow_packages(environment: Path) -> None:
    """Let an environment see the packages that are installed here, but not this repository.

    A second torch would cost minutes and 6 GB. The folder that a .pth file names is searched, but the .pth
    files inside it are not read, so the editable install of this repository stays out of sight. Done after
    the wheel was installed, since pip would take the editable install for the wheel's.
    """
    site = sysconfig.get_path("purelib", scheme="venv", vars={"base": str(environment)})
    here = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (Path(site) / "borrowed.pth").write_text("\n".join(sorted(here)) + "\n")


def module_names() -> set[str]:
    """Return the modules in the tree: zoo/**, and the stages under their names in `zoo`."""
    files = [(path, "zoo") for path in (ROOT / "zoo").rglob("*.py")]
    files += [(path, f"zoo.{stage}") for stage in STAGES for path in (ROOT / stage).rglob("*.py")]
    names = {_name(path, package) for path, package in files}
    return names - {"zoo", "zoo.__main__"}


def _name(path: Path, package: str) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts[1:]
    return ".".join((package, *(part for part in parts if part != "__init__")))


def test_every_module_of_the_tree_imports_from_the_wheel(installed: Installed) -> None:
    origin, loaded, missing = json.loads(installed.run("python", "-c", IMPORT_ALL))
    assert Path(origin).is_relative_to(installed.folder)
    assert {package for _, package in missing} <= OPTIONAL, missing
    assert {*loaded, *(module for module, _ in missing)} == module_names()


def test_the_recipes_are_in_the_wheel(installed: Installed) -> None:
    recipes = {f"zoo/train/recipes/{path.name}" for path in (ROOT / "train" / "recipes").glob("*.toml")}
    assert recipes
    assert recipes <= set(installed.files)


def test_the_web_page_is_in_the_wheel(installed: Installed) -> None:
    files = {path.name for path in (ROOT / "serve" / "server" / "http" / "page").iterdir()}
    assert {"index.html", "app.js", "style.css"} <= files
    assert {f"zoo/serve/server/http/page/{name}" for name in files} <= set(installed.files)


def test_the_catalog_is_read_from_the_wheel(installed: Installed) -> None:
    program = "from zoo.catalog import entries; print(*(entry.alias for entry in entries()))"
    assert installed.run("python", "-c", program).split() == [entry.alias for entry in entries()]


def test_types_and_license_are_in_the_wheel(installed: Installed) -> None:
    assert "zoo/py.typed" in installed.files
    assert [name for name in installed.files if name.endswith("licenses/LICENSE")]


def test_the_command_runs_from_the_wheel(installed: Installed) -> None:
    assert "benchmark" in installed.run("zoo", "--help")


def test_the_measurements_of_a_gpu_are_not_in_the_wheel(installed: Installed) -> None:
    drivers = {path.name for path in (ROOT / "tests" / "gpu").glob("*.py")}
    assert "suite.py" in drivers
    assert [name for name in installed.files if "suite" in name or name.startswith("tests")] == []
    assert "suite" not in installed.run("zoo", "bench", "--help").lower()


def test_only_zoo_is_installed_at_the_top_level(installed: Installed) -> None:
    tops = {name.split("/")[0] for name in installed.files}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"zoo"}
