"""What `--help` says where it would be easy to get it wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from typer.testing import Result

    Zoo = Callable[..., Result]


def help_of(zoo: Zoo, *command: str) -> str:
    return " ".join(zoo(*command, "--help").stdout.split())


@pytest.mark.parametrize("command", [("train",), ("compare",), ("data", "bench")])
def test_a_partition_may_be_all_labels(command: tuple[str, ...], zoo: Zoo) -> None:
    assert "--partition full|1/8|N|FILE" in help_of(zoo, *command)


def test_a_method_is_called_so_and_its_data_have_a_default(zoo: Zoo) -> None:
    text = help_of(zoo, "train")
    assert "zoo train [OPTIONS] {METHOD}" in text
    assert "shapes (built in, the default without --recipe)" in text


@pytest.mark.parametrize("command", ["train", "compare", "predict", "evaluate", "bench"])
def test_the_default_device_is_told_in_the_same_words(command: str, zoo: Zoo) -> None:
    assert "Default: a GPU if PyTorch finds one, else the CPU." in help_of(zoo, command)


def test_export_takes_no_artifacts(zoo: Zoo) -> None:
    text = help_of(zoo, "export")
    assert "A run or bundle folder, owner/name on the Hub, or file:DIR/name;" in text
    assert ".onnx or .engine" not in text
    assert "0.005 for half a point, in place of the" in text


def test_the_commands_about_data_are_all_named(zoo: Zoo) -> None:
    assert "Prepare, check and split images and masks" in help_of(zoo, "data")
    assert "Number of images to take from built-in data" in help_of(zoo, "predict")
