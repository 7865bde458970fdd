"""What the README shows must exist: its commands, their options, its files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from zoo.cli import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = typer.main.get_command(app)

SHOWN = sorted(set(re.findall(r"\bzoo (?!data\b)([a-z]+)((?: [^\n`|#)]*)?)", README)))


def options_of(command: str) -> set[str]:
    """Return the long options of a command."""
    parameters = COMMANDS.commands[command].params  # type: ignore[attr-defined]
    return {option for parameter in parameters for option in (*parameter.opts, *parameter.secondary_opts)}


@pytest.mark.parametrize(("command", "rest"), SHOWN)
def test_a_command_of_the_readme_exists_with_its_options(command: str, rest: str) -> None:
    if command not in COMMANDS.commands:  # type: ignore[attr-defined]
        pytest.fail(f"zoo {command}{rest} is no command")
    assert set(re.findall(r"--[a-z-]+", rest)) <= options_of(command)


def test_the_options_of_the_command_table_exist() -> None:
    for command, text in re.findall(r"^\| `zoo ([a-z]+)[^`]*` \| (.*) \|$", README, re.MULTILINE):
        assert set(re.findall(r"--[a-z-]+", text)) <= options_of(command), command


def test_the_two_commands_of_the_first_screen_are_targets_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    first_screen = "\n".join(README.splitlines()[:15])
    for target in ("demo", "test"):
        assert f"make {target}" in first_screen
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_the_files_that_the_readme_links_to_are_there() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert link.startswith("https://") or (ROOT / link).exists(), link
