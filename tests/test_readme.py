"""What the README and the guides show must exist, and what there is must stand in them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer

from zoo.cli import app

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDES = sorted((ROOT / "docs").rglob("*.md"))
PAGES = {path.relative_to(ROOT): path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *GUIDES)}
COMMANDS = typer.main.get_command(app)

GROUP = "data"

SHOWN = sorted(
    {
        found
        for text in PAGES.values()
        for found in re.findall(rf"\bzoo ((?:{GROUP} )?[a-z][a-z-]*)((?: [^\n`|#)]*)?)", text)
    }
)


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


def all_commands(group: Any = COMMANDS, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield name and command of all that do something; `bench` is the name of `benchmark` on all pages."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from all_commands(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}".replace("benchmark", "bench"), command


@pytest.mark.parametrize(("command", "rest"), SHOWN)
def test_a_command_that_is_shown_exists_with_its_options(command: str, rest: str) -> None:
    if find_command(command) is None:
        pytest.fail(f"zoo {command}{rest} is no command")
    assert set(re.findall(r"--[a-z-]+", rest)) <= options_of(command)


def test_the_options_of_the_command_table_exist() -> None:
    for command, text in re.findall(
        rf"^\| `zoo ((?:{GROUP} )?[a-z][a-z-]*)[^`]*` \| (.*) \|$", README, re.MULTILINE
    ):
        assert set(re.findall(r"--[a-z-]+", text)) <= options_of(command), command


@pytest.mark.parametrize("name", sorted({name for name, _ in all_commands()}))
def test_each_command_has_a_row_in_the_command_table(name: str) -> None:
    assert re.search(rf"^\| `zoo {name}[ `]", README, re.MULTILINE)


def test_each_option_stands_on_a_page() -> None:
    everything = "\n".join(PAGES.values())
    for name, command in all_commands():
        for parameter in command.params:
            names = (*parameter.opts, *parameter.secondary_opts)
            options = [option for option in names if option.startswith("--")]
            told = [option for option in options if re.search(rf"{option}(?![a-z-])", everything)]
            assert told or not options, f"zoo {name} {options[0]}: say in README.md or docs/ what it is for"


def test_each_extra_stands_in_the_readme() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    section = README.partition("## Extras\n")[2].partition("\n## ")[0]
    assert set(re.findall(r"`([a-z][a-z-]*)`: ", section)) == set(project["optional-dependencies"])


def test_the_two_commands_of_the_first_screen_are_targets_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    first_screen = "\n".join(README.splitlines()[:15])
    for target in ("demo", "test"):
        assert f"make {target}" in first_screen
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_the_environment_is_activated_before_the_first_command_in_it() -> None:
    shell = "\n".join(re.findall(r"^```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL))
    made, activated, used = (shell.index(text) for text in ("make demo", ". .venv/bin/activate", "\nzoo "))
    assert made < activated < used


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_the_files_and_headings_that_a_page_links_to_are_there(page: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", PAGES[page]):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        assert target.exists(), link
        assert not anchor or anchor in headings_of(target), link


def headings_of(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
