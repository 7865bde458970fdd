from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Annotated, Any

import pytest
from pydantic import BaseModel

from zoo.catalog import recipe_names
from zoo.data.open import open_source
from zoo.errors import RecipeError
from zoo.train.data.streams import TrainingData
from zoo.train.method import ScalesWithRun, Steps, scaled
from zoo.train.methods.table import METHODS
from zoo.train.recipe.read import default_recipe, find_recipe, load_recipe, validate_recipe
from zoo.train.recipe.schema import Recipe

if TYPE_CHECKING:
    from pathlib import Path

REPORTED = {  # methods.md, A8, ResNet-50: ELN, labels only
    "eln_voc_1-20": (70.52, 59.88),
    "eln_voc_1-8": (73.20, 67.63),
    "eln_voc_1-4": (74.63, 70.56),
    "eln_cityscapes_1-8": (70.33, 59.88),
    "eln_cityscapes_1-4": (73.52, 61.86),
    "eln_cityscapes_1-2": (75.33, 67.63),
}


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """Return a function that writes a recipe file and returns its path as text."""

    def write(text: str, name: str = "mine.toml") -> str:
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write


MINE = """
steps = 100
validate_every = 10
[method]
name = "eln"
pretrain_steps = 20
localize_steps = 10
"""


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """Return a folder of ten masks and, under another name than usual, two images without masks."""
    shutil.copytree(tiny_folder, tmp_path / "data")
    (tmp_path / "data" / "others").mkdir()
    for name in ("0.png", "1.png"):
        shutil.copy(tiny_folder / "val/images" / name, tmp_path / "data" / "others" / name)
    (tmp_path / "data" / "data.toml").write_text('unlabeled = "others"\n')
    return tmp_path / "data"


@pytest.mark.parametrize("method", METHODS)
def test_all_masks_of_a_folder_are_used_unless_a_method_needs_some_without(
    method: str, folder: Path, tiny_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    needed = METHODS[method].needs_unlabeled
    for data, count, told in ((folder, 10, False), (tiny_folder, 1 if needed else 10, needed)):
        caplog.clear()
        recipe = load_recipe(default_recipe(method, str(data)), changes={"data.spec": str(data)})
        drawn = TrainingData.draw(recipe, open_source(str(data)))
        assert len(drawn.partition.labeled) == count
        assert drawn.recipe.data.partition == ("full" if count == 10 else "1/8")
        assert [record.levelname for record in caplog.records] == ["WARNING"] * told
        assert all("warning: 9 of 10 training masks" in text for text in caplog.messages)


@pytest.mark.parametrize("partition", ["1/2", "5", 5])
def test_a_partition_that_is_given_is_taken(
    partition: str | int, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = load_recipe("eln", changes={"data.partition": partition})
    drawn = TrainingData.draw(recipe, open_source(str(folder)))
    assert (len(drawn.partition.labeled), drawn.partition.hidden, caplog.messages) == (5, None, [])
    assert drawn.recipe.data.partition == str(partition)


def test_a_recipe_of_ones_own_decides_by_itself(write: Any, tiny_folder: Path) -> None:
    own = write(MINE + '[data]\npartition = "1/5"\n')
    source = open_source(str(tiny_folder))
    assert len(TrainingData.draw(load_recipe(own), source).partition.labeled) == 2
    assert len(TrainingData.draw(load_recipe(write(MINE)), source).partition.labeled) == 10


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_of_the_package_loads(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.recipe == name
    assert recipe.method.name == name.partition("_")[0]
    assert recipe.pretrained == (not name.endswith("shapes"))


@pytest.mark.parametrize("name", recipe_names())
def test_the_authors_settings_fit_every_recipe(name: str) -> None:
    recipe = load_recipe(name, ["preset=official"])
    assert recipe.preset == "official"
    if recipe.method.name == "eln":
        assert recipe.method.contrast == "official"
        assert recipe.method.filter.reduction == "sum"
        assert recipe.method.train_bn_affine is False


@pytest.mark.parametrize("name", REPORTED)
def test_the_reported_figures_are_those_of_the_paper(name: str) -> None:
    reported = load_recipe(name).reported
    assert reported is not None
    assert (reported["miou"], reported["labels_only"]) == REPORTED[name]
    assert "R50" in str(reported["source"])


def test_no_other_recipe_of_eln_claims_a_figure() -> None:
    names = [name for name in recipe_names() if name.startswith("eln")]
    reported = {name: load_recipe(name).reported or {} for name in names}
    assert {name for name, figures in reported.items() if "miou" in figures} == set(REPORTED)


@pytest.mark.parametrize("name", REPORTED)
def test_the_papers_rows_have_its_partition_network_and_length(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.data.partition == name.rpartition("_")[2].replace("-", "/")
    assert recipe.network.encoder.startswith("resnet50")
    assert recipe.steps == 133_000
    assert recipe.method.pretrain_steps == {"voc": 18_620, "cityscapes": 26_600}[name.split("_")[1]]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        pytest.param([], ("base", [64, 64], 5), id="base-and-file"),
        pytest.param(["preset=official"], ("base", [65, 65], 5), id="preset-over-file"),
        pytest.param(["preset=official", "data.imgsz=[70, 70]"], ("base", [70, 70], 5), id="set-over-preset"),
        pytest.param(["data.spec=set"], ("set", [64, 64], 5), id="set-over-base"),
    ],
)
def test_later_settings_win(settings: list[str], expected: tuple[str, list[int], int], write: Any) -> None:
    write(MINE + '[data]\nspec = "base"\nimgsz = [32, 32]\nbatch_l = 3', "base.toml")
    mine = write(
        'base = "base.toml"\n[data]\nimgsz = [64, 64]\nbatch_l = 5\n[official.data]\nimgsz = [65, 65]'
    )
    data = load_recipe(mine, settings).data
    assert (data.spec, list(data.imgsz), data.batch_l) == expected


def test_a_preset_may_stand_in_the_file(write: Any) -> None:
    recipe = load_recipe(write('preset = "official"\n' + MINE))
    assert recipe.method.contrast == "official"


def test_a_setting_undoes_a_single_one_of_the_preset() -> None:
    method = load_recipe("eln", ["preset=official", "method.contrast=none"]).method
    assert (method.contrast, method.filter.reduction) == ("none", "sum")


def test_bases_in_a_circle_are_an_error(write: Any) -> None:
    write("base = 'b.toml'", "a.toml")
    with pytest.raises(RecipeError, match=r"a\.toml: base is 'b\.toml', expected .* another"):
        load_recipe(write("base = 'a.toml'", "b.toml"))


def test_bases_may_have_bases(write: Any) -> None:
    write(MINE, "a.toml")
    write('base = "a.toml"\nseed = 1', "b.toml")
    recipe = load_recipe(write('base = "b.toml"\nprecision = "bf16"', "c.toml"))
    assert (recipe.recipe, recipe.steps, recipe.seed, recipe.precision) == ("c", 100, 1, "bf16")


def test_settings_win_over_options() -> None:
    assert load_recipe("eln", ["seed=2"], changes={"seed": 1}).seed == 2


@pytest.mark.parametrize(
    ("steps", "expected"), [(100, (20, 10, 10)), (50, (10, 5, 5)), (7, (1, 1, 1)), (1000, (200, 100, 100))]
)
def test_a_run_of_other_length_keeps_the_shares(steps: int, expected: tuple[int, ...], write: Any) -> None:
    recipe = load_recipe(write(MINE), steps=steps)
    assert recipe.steps == steps
    assert (recipe.method.pretrain_steps, recipe.method.localize_steps, recipe.validate_every) == expected


@pytest.mark.parametrize(("steps", "expected"), [(133_000, 266), (266_000, 532), (13_300, 200), (100, 200)])
def test_the_epoch_of_eln_keeps_its_share_down_to_what_its_teacher_averages_over(
    steps: int, expected: int
) -> None:
    assert load_recipe("eln_voc_1-8", steps=steps).method.reset_every == expected


class Table(BaseModel):
    length: Steps = 10
    wait_steps: int = 10


class Settings(BaseModel):
    length: Steps = 10
    pause: Annotated[int, ScalesWithRun(at_least=4)] = 6
    short: Annotated[int, ScalesWithRun(at_least=4)] = 3
    none: Steps = 0
    wait_steps: int = 10
    table: Table = Table()


def test_what_is_scaled_is_declared_whatever_its_name_and_wherever_it_stands() -> None:
    half, twice = (scaled(Settings(), 100, steps) for steps in (50, 200))
    assert half == Settings(length=5, pause=4, short=3, table=Table(length=5))
    assert twice == Settings(length=20, pause=12, short=6, table=Table(length=20))


@pytest.mark.parametrize(
    ("method", "dropout", "of_channels"),
    [("rrn", (0, 0, 0), False), ("s4gan", (0, 0, 0), False), ("u2pl", (0.1, 0.1, 0.1), True)],
)
def test_a_method_has_the_dropout_of_its_own_paper_wherever_its_decoder_is_deeplabv3plus(
    method: str, dropout: tuple[float, ...], of_channels: bool
) -> None:
    recipes = [load_recipe(name) for name in recipe_names() if name.partition("_")[0] == method]
    decoders = [each.network.decoder for each in recipes if each.network.decoder.name == "deeplabv3plus"]
    assert len(decoders) > 1
    for decoder in decoders:
        assert tuple(decoder.dropout.model_dump().values()) == dropout
        assert decoder.channel_dropout == of_channels


def test_no_evaluation_and_no_phase_stay_none_in_a_run_of_other_length(write: Any) -> None:
    text = MINE.replace("validate_every = 10", "").replace("localize_steps = 10", "localize_steps = 0")
    recipe = load_recipe(write(text), steps=7)
    assert (recipe.validate_every, recipe.method.localize_steps) == (0, 0)


def test_a_phase_that_is_set_is_not_scaled(write: Any) -> None:
    assert load_recipe(write(MINE), ["method.pretrain_steps=3"], steps=50).method.pretrain_steps == 3


@pytest.mark.parametrize("name", ["eln", "eln_shapes", "eln_voc_1-8", "eln_cityscapes_1-8"])
@pytest.mark.parametrize("steps", [6, 100])
def test_a_shortened_run_keeps_all_three_phases(name: str, steps: int) -> None:
    method = load_recipe(name, steps=steps).method
    assert method.pretrain_steps >= 1
    assert method.localize_steps >= 1
    assert method.pretrain_steps + method.localize_steps < steps


@pytest.mark.parametrize(
    ("text", "key", "expected"),
    [
        ("method.optimizer.lr=1e-4", "method.optimizer.lr", 1e-4),
        ("method.optimizer.lr=5e-6", "method.optimizer.lr", 5e-6),
        ("data.spec=no", "data.spec", "no"),
        ("data.spec=C:/my data", "data.spec", "C:/my data"),
        ('data.spec="8"', "data.spec", "8"),
        ("data.spec=a=b", "data.spec", "a=b"),
        ("pretrained=false", "pretrained", False),
        ("data.partition=1/8", "data.partition", "1/8"),
        ("data.imgsz=[32, 48]", "data.imgsz", (32, 48)),
        ("method.alphas=[]", "method.alphas", ()),
        (" seed = 3 ", "seed", 3),
        ("method.filter={kind = 'confidence'}", "method.filter.kind", "confidence"),
    ],
)
def test_a_setting_has_the_type_that_toml_gives_it(text: str, key: str, expected: Any) -> None:
    value: Any = load_recipe("eln", [text])
    for name in key.split("."):
        value = getattr(value, name)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["method.ema_dekay=0.9"], r"recipe eln: method\.ema_dekay: no such setting"),
        (["optimizer.lr=1e-3"], r"optimizer: no such setting here, expected method\.optimizer: settings of"),
        (["queue_size=9"], r"recipe eln: queue_size: no such setting; check"),  # U2PL has one
        (
            ["data.optimizer.lr=1"],
            r"recipe eln: data\.optimizer: no such setting; nearest: method\.optimizer",
        ),
        (["select_on=x"], r"select_on is 'x': expected 1/5 or a number"),
        (["method.ema_decay=1.5"], r"method\.ema_decay is 1\.5: .*less than 1"),
        (["method.optimizer.lr=0"], r"method\.optimizer\.lr is 0: .*greater than 0"),
        (["method.optimizer.lr=fast"], r"method\.optimizer\.lr is 'fast': .*number"),
        (["steps=0"], r"steps is 0: .*greater than or equal to 1"),
        (["data.resize=crop"], r"data\.resize is 'crop': .*'fit', 'stretch' or 'none'"),
        (["data.imgsz=64"], r"data\.imgsz is 64"),
        (["data.imgsz=[31, 64]"], r"data\.imgsz is \[31, 64\]: expected 32 or more pixels a side"),
        (["data.imgsz=[0, 64]"], r"data\.imgsz.* is 0: .*greater than"),
        (["data.augment.scale=[0, 1]"], r"data\.augment\.scale\.0 is 0: .*greater than 0"),
        (["method.name=yolo"], r"recipe eln: method.*yolo.*eln"),
        (["method=5"], r"recipe eln: method"),
        (["preset=theirs"], r"preset is 'theirs': .*'default' or 'official'"),
        (["seed"], r"--set seed: expected key=value"),
        (["=3"], r"--set =3: expected key=value"),
        (["seed.x=1"], r"recipe eln: seed is .*integer"),
    ],
)
def test_a_wrong_setting_is_an_error_of_one_line(settings: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        load_recipe("eln", settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps = ", r"mine\.toml is not TOML"),
        ("steps = 1\nsteps = 2", r"mine\.toml is not TOML"),
        ("[method]\nname = 'eln'", r"recipe mine: steps: this setting is required"),
        ("steps = 10", r"recipe mine: method: this setting is required"),
        ("steps = 10\nmethod = 'eln'", r"recipe mine: method"),
        ("base = 'nowhere.toml'", r"base is 'nowhere\.toml', expected the name of another recipe file"),
        ("base = 3", r"mine\.toml: base is 3"),
        ("base = 'mine.toml'", r"base is 'mine\.toml', expected the name of another"),
        ("base = '.'", r"base is '\.'"),
    ],
)
def test_a_wrong_file_is_an_error_of_one_line(text: str, message: str, write: Any) -> None:
    path = write(text)
    for steps in (None, 5):
        with pytest.raises(RecipeError, match=message) as caught:
            load_recipe(path, steps=steps)
        assert "\n" not in str(caught.value)


def test_a_file_that_is_not_text_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "binary.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match=r"binary\.toml is not TOML"):
        load_recipe(str(path))


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("eln_voc_1-9", "; near it: eln_voc_1-8, "),
        ("u2pl_voc_93", "; near it: u2pl_voc_92, "),
        ("missing.toml", " such as eln, fixmatch, mlmt, rrn, s4gan, supervised, u2pl, unimatch; zoo list"),
    ],
)
def test_an_unknown_recipe_is_an_error_with_those_near_it(name: str, hint: str) -> None:
    with pytest.raises(RecipeError) as caught:
        find_recipe(name)
    told = str(caught.value)
    assert told.startswith(f"recipe {name} not found, expected a .toml file or a recipe's name{hint}")
    assert told.count(",") <= len(METHODS)


def test_an_unknown_method_is_an_error_with_the_known_ones() -> None:
    with pytest.raises(RecipeError, match=r"method yolo is unknown, expected one of eln, .*supervised"):
        default_recipe("yolo", "shapes")


@pytest.mark.parametrize(
    ("method", "spec", "expected"),
    [
        ("eln", "shapes", "eln_shapes"),
        ("eln", "my/folder", "eln"),
        ("supervised", "shapes", "supervised_shapes"),
    ],
)
def test_the_built_in_shapes_have_a_recipe_of_their_own(method: str, spec: str, expected: str) -> None:
    assert default_recipe(method, spec) == expected


@pytest.mark.parametrize("name", recipe_names())
def test_a_resolved_recipe_is_the_same_after_json(name: str) -> None:
    for settings in ([], ["preset=official"], ["method.optimizer.lr=1e-4", "seed=5"]):
        recipe = load_recipe(name, settings, steps=77)
        again = validate_recipe(json.loads(json.dumps(recipe.model_dump(mode="json"))))
        assert again == recipe
        assert isinstance(again, Recipe)


def test_the_recipes_that_are_compared_differ_in_their_method_alone() -> None:
    ours, baseline = (load_recipe(f"{method}_shapes").model_dump() for method in ("eln", "supervised"))
    for each in (ours, baseline):
        del each["data"]["batch_u"]  # of no use to labels only
    views = [each["data"].pop("labeled_view") for each in (ours, baseline)]
    assert views == ["strong", "weak"]
    different = {key for key in ours if ours[key] != baseline[key]}
    assert different <= {"recipe", "method"}
    assert ours["method"]["optimizer"] == baseline["method"]["optimizer"]
