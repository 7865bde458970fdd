"""What the README shows must exist: its commands, their options, its files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer

from zoo.cli import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = typer.main.get_command(app)

GROUP = "data"

SHOWN = sorted(set(re.findall(rf"\bzoo ((?:{GROUP} )?[a-z]+)((?: [^\n`|#)]*)?)", README)))


def find_command(name: str) -> Any:
    """Return a command, also one of a group, `data check`; None if there is none."""
    found: Any = COMMANDS
    for word in name.split():
        found = getattr(found, "commands", {}).get(word)
    return found


def options_of(command: str) -> set[str]:
    """Return the long options of a command."""
    parameters = find_command(command).params
    return {option for parameter in parameters for option in (*parameter.opts, *parameter.secondary_opts)}


@pytest.mark.parametrize(("command", "rest"), SHOWN)
def test_a_command_of_the_readme_exists_with_its_options(command: str, rest: str) -> None:
    if find_command(command) is None:
        pytest.fail(f"zoo {command}{rest} is no command")
    assert set(re.findall(r"--[a-z-]+", rest)) <= options_of(command)


def test_the_options_of_the_command_table_exist() -> None:
    for command, text in re.findall(
        rf"^\| `zoo ((?:{GROUP} )?[a-z]+)[^`]*` \| (.*) \|$", README, re.MULTILINE
    ):
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
