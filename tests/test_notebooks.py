"""The notebooks of docs/notebooks run from top to bottom, on small data."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"
NOTEBOOKS = sorted(path.name for path in FOLDER.glob("*.ipynb"))

SECONDS = 900
"""Time limit of a cell."""


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


SMALL: dict[str, dict[str, Any]] = {
    "own_data.ipynb": {"ENCODER": "test_resnet", "PRETRAINED": False, "STEPS": 30, "IMGSZ": 64},
    "compare_methods.ipynb": {"STEPS": 8, "SEEDS": 1, "SETTINGS": {"data.workers": 0}},
    "export_and_serve.ipynb": {"STEPS": 20, "PORT": free_port()},
}
"""Values for the cell tagged `parameters`."""


def read(name: str) -> Any:
    return nbformat.read(FOLDER / name, as_version=4)  # type: ignore[no-untyped-call]


def parameters(book: Any) -> Any:
    """Return the cell tagged `parameters`."""
    (cell,) = (cell for cell in book.cells if "parameters" in cell.metadata.get("tags", ()))
    return cell


def shown(book: Any) -> str:
    """Return all outputs as text."""
    texts = []
    for cell in book.cells:
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            texts += [output.get("text", ""), data.get("text/html", ""), data.get("text/plain", "")]
            texts += ["PNG" for kind in data if kind == "image/png"]
    return "\n".join(texts)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_has_no_outputs_and_known_parameters(name: str) -> None:
    book = read(name)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in book.cells)
    assert SMALL[name].keys() <= set(re.findall(r"^(\w+) = ", parameters(book).source, re.MULTILINE))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("own_data.ipynb", ("step 30 of 30; ", "data:image/png;base64,", "mIoU 0.", "PNG")),
        ("compare_methods.ipynb", ("<th>mIoU</th>", "report.html", "PNG")),
        ("export_and_serve.ipynb", ("step 20 of 20; ", "<td>eager</td>", "equal pixels: [", "PNG")),
    ],
)
def test_a_notebook_runs_from_top_to_bottom(
    name: str, expected: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(FOLDER.parents[1]))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    book = read(name)
    cell = parameters(book)
    for key, value in SMALL[name].items():
        cell.source = re.sub(rf"^{key} = .*$", f"{key} = {value!r}", cell.source, flags=re.MULTILINE)
    (tmp_path / "work").mkdir()
    client = NotebookClient(
        book, timeout=SECONDS, kernel_name="python3", resources={"metadata": {"path": tmp_path / "work"}}
    )
    client.execute()  # raises the error of a cell
    text = shown(book)
    assert [word for word in expected if word not in text] == []


def test_every_notebook_is_run() -> None:
    assert set(NOTEBOOKS) == SMALL.keys()
    assert len(NOTEBOOKS) == 3
