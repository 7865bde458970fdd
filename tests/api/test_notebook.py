"""The live view of a notebook, and that nothing needs one."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any, ClassVar

import zoo
from zoo.api.notebook import LiveRun, Place, in_notebook, live_run, live_table
from zoo.api.tables import Table

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


class Shown(Place):
    """Place that keeps what it shows."""

    pages: ClassVar[list[str]] = []

    def show(self, html: str) -> None:
        self.pages.append(html)


def test_outside_of_a_notebook_nothing_is_shown() -> None:
    assert not in_notebook()
    assert live_run(None) == []
    assert live_run(live=False) == []
    assert live_table() is None


def test_training_imports_no_ipython(tiny_recipe: Path, tmp_path: Path) -> None:
    program = (
        f"import sys, zoo; sys.modules['IPython'] = None; "
        f"zoo.fit('eln', recipe={str(tiny_recipe)!r}, steps=3, out={str(tmp_path / 'run')!r}, device='cpu')"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_a_run_shows_its_curves_and_its_predictions(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zoo.api.notebook.Place", Shown)
    Shown.pages.clear()
    run = zoo.fit("eln", recipe=tiny_recipe, out=tmp_path / "run", device="cpu", callbacks=[LiveRun()])
    headlines = [page for page in Shown.pages if page.startswith("<p>")]
    assert "step 10 of 10; " in headlines[-1]
    assert f"val/miou {run.metrics['val']['miou']:.4g}" in headlines[-1]
    pictures = [page for page in Shown.pages if page.startswith("<img")]
    assert pictures
    assert all("data:image/png;base64," in page for page in Shown.pages)


def test_a_table_is_text_and_html_that_escapes() -> None:
    table: Any = Table("Rows", ("name", "mIoU"), [("a<b", "0.5")])
    assert str(table).splitlines()[0] == "Rows"
    assert "| a<b | 0.5 |" in str(table)
    assert "<tr><td>a&lt;b</td><td>0.5</td></tr>" in table._repr_html_()
