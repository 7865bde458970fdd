from __future__ import annotations

import re
import subprocess
import sys

import pytest
import typer

from zoo import catalog
from zoo.catalog import Entry, entries, find_entry, nearest, resolve_alias
from zoo.cli import app
from zoo.errors import BundleError
from zoo.train.recipe.read import load_recipe, recipe_names

REPORTED = {name: load_recipe(name).reported for name in recipe_names() if load_recipe(name).reported}


def test_every_figure_that_a_recipe_repeats_is_a_row() -> None:
    figures = {
        (name, reported[key])
        for name, reported in REPORTED.items()
        for key in ("miou", "with_mlmt")
        if reported and key in reported
    }
    assert figures
    assert sorted((entry.recipe, entry.miou) for entry in entries()) == sorted(figures)


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.alias)
def test_a_row_says_what_its_recipe_says(entry: Entry) -> None:
    recipe = load_recipe(entry.recipe)
    assert recipe.reported is not None
    assert entry.method.partition(" + ")[0] == recipe.method.name
    assert entry.partition == recipe.data.partition
    assert entry.architecture == recipe.network.decoder.name
    assert entry.encoder is None or re.match(rf"{entry.encoder}(?!\d)", recipe.network.encoder)
    assert (entry.labels_only, entry.source) == (
        recipe.reported.get("labels_only"),
        recipe.reported["source"],
    )
    assert entry.bundle is None


def test_aliases_are_short_and_each_is_of_one_row() -> None:
    aliases = [entry.alias for entry in entries()]
    assert len(set(aliases)) == len(aliases)
    assert max(map(len, aliases)) <= 40
    assert {"eln-voc-1/8-resnet50", "u2pl-voc-1323-resnet101", "s4gan-mlmt-voc-1/8-v3plus"} <= set(aliases)


def test_the_encoder_is_left_open_where_the_paper_does_not_say_it() -> None:
    entry = find_entry("s4gan-mlmt-voc-1/8-v3plus")
    assert entry is not None
    assert (entry.encoder, entry.miou, entry.labels_only) == (None, 70.4, 63.5)


def test_lists_and_protocols_are_those_of_the_papers() -> None:
    u2pl = {entry.partition: entry for entry in entries() if (entry.method, entry.data) == ("u2pl", "voc")}
    by_pseudoseg = {number for number, entry in u2pl.items() if entry.partition_list == "PseudoSeg"}
    assert by_pseudoseg == {"92", "183", "366"}
    assert u2pl["92"].protocol == "center crop of 513"


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.alias)
def test_the_commands_of_a_row_exist_with_their_options_and_recipes(entry: Entry) -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for line in entry.commands:
        program, name, *words = line.split()
        known = {option for parameter in commands[name].params for option in parameter.opts}
        assert program == "zoo"
        assert {word for word in words if word.startswith("--")} <= known
        if "--recipe" in words:
            assert load_recipe(words[words.index("--recipe") + 1]).method.name == words[0]
            assert load_recipe(words[words.index("--recipe") + 1]).data.partition == entry.partition
        elif name == "train":
            assert words[words.index("--partition") + 1] == entry.partition
    assert len(entry.commands) == (3 if entry.method == "s4gan + mlmt" else 1)


def test_an_alias_without_weights_is_an_error_with_the_command_that_makes_them() -> None:
    with pytest.raises(
        BundleError,
        match=r"^eln-voc-1/8-resnet50 has no weights yet, only the figure of the paper \(73.2 mIoU\): make "
        r"them with zoo train eln --recipe eln_voc_1-8 --data voc:DIR$",
    ):
        resolve_alias("eln-voc-1/8-resnet50")


def test_an_alias_with_weights_is_the_name_of_its_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(catalog.BUNDLES, "eln-voc-1/8-resnet50", "team/eln-voc")
    entries.cache_clear()
    try:
        assert resolve_alias("eln-voc-1/8-resnet50") == "team/eln-voc"
    finally:
        entries.cache_clear()


def test_any_other_name_stays_what_it_is() -> None:
    assert resolve_alias("owner/name@main") == "owner/name@main"
    assert find_entry("owner/name") is None


def test_a_misspelled_alias_has_near_ones() -> None:
    assert nearest("eln-voc-1/8-resnet5")[0] == "eln-voc-1/8-resnet50"
    assert nearest("u2pl_voc_1323")[0] == "u2pl-voc-1323-resnet101"
    assert nearest("team/mdel", ["team/model"])[0] == "team/model"
    assert nearest("zzz") == ()


def test_the_catalog_is_read_without_the_training_code() -> None:
    program = "import sys; from zoo.catalog import entries; entries(); print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "pydantic", "zoo.train"} & set(result.stdout.split())
