"""Pages from templates."""

from __future__ import annotations

import pytest
from jinja2 import UndefinedError
from markupsafe import Markup

from zoo.pages.html import data_uri, render

BASE = "pages/base.html"


def test_text_is_escaped_and_markup_is_not() -> None:
    page = render(BASE, title="a <b> & c")
    assert "<title>a &lt;b&gt; &amp; c</title>" in page
    assert "<title><i></title>" in render(BASE, title=Markup("<i>"))


def test_a_value_that_is_missing_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="'title' is undefined"):
        render(BASE)


def test_an_image_is_a_url() -> None:
    assert data_uri(b"abc", "png") == "data:image/png;base64,YWJj"
