"""What a comparison shares between its methods, and what stays theirs."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Any

import pytest

from zoo.errors import DatasetError, RecipeError, ZooError
from zoo.models.deployable import Deployable
from zoo.train.compare import plan as compare_plan
from zoo.train.compare.plan import OWN, Request, reference_recipe, shared_settings, write_recipe
from zoo.train.compare.run_all import Facts, start
from zoo.train.loop.hardware import Hardware
from zoo.train.methods.table import METHODS, build_method
from zoo.train.recipe.read import default_recipe, load_recipe

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from zoo.train.compare.record import Comparison

    Plan = Callable[..., Comparison]

FACTS = Facts("zoo compare", {"cpu": "a processor", "cores": 2, "gpu": None}, {"zoo": "0"})
BOTH = ("supervised", "eln")


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Return a function that plans a comparison on shapes in `tmp_path/c`."""

    def plan(methods: tuple[str, ...] | None = BOTH, *settings: str, **options: Any) -> Comparison:
        values: dict[str, Any] = {"spec": "shapes", "seeds": (0,), "steps": 40, "device": "cpu"}
        request = Request(methods, settings=settings, **{**values, **options})
        return start(request, tmp_path / "c", FACTS).read()

    return plan


def recipe_of(folder: Path, method: str) -> dict[str, Any]:
    return tomllib.loads((folder / "c/recipes" / f"{method}.toml").read_text())


def test_the_runs_go_seed_by_seed(plan: Plan) -> None:
    comparison = plan(seeds=(3, 5))
    assert [run.name for run in comparison.runs] == ["supervised-3", "eln-3", "supervised-5", "eln-5"]
    assert all(run.state == "planned" for run in comparison.runs)
    assert comparison.data["labeled"] == 30


def test_all_methods_that_segment_are_compared_by_default(plan: Plan) -> None:
    segmenting = set()
    for name in METHODS:
        recipe = load_recipe(default_recipe(name, "shapes")).for_classes(7)
        if isinstance(build_method(recipe.method, recipe.network, pretrained=False).deployable(), Deployable):
            segmenting.add(name)
    comparison = plan(None)
    assert comparison.methods[0] == "supervised"
    assert set(comparison.methods) == segmenting


@pytest.mark.parametrize("settings", [(), ("data.partition=auto",)])
def test_all_methods_get_the_partition_that_the_automatic_one_stands_for(
    settings: tuple[str, ...], plan: Plan, tmp_path: Path, tiny_folder: Path
) -> None:
    small = ("network.encoder=test_resnet", "method.optimizer.lr=0.1", *settings)
    options = {"spec": str(tiny_folder), "changes": {"pretrained": False}}
    comparison = plan(BOTH, *small, **options)
    assert [recipe_of(tmp_path, method)["data"]["partition"] for method in BOTH] == ["1/8", "1/8"]
    assert (comparison.data["partition"], comparison.data["labeled"]) == ("1/8", 1)
    assert "9 of 10 training masks are not used" in comparison.data["hidden_note"]
    assert "data.partition" not in comparison.candidates[1].overridden


def test_labels_only_alone_use_all_masks(plan: Plan, tmp_path: Path, tiny_folder: Path) -> None:
    comparison = plan(("supervised",), "network.encoder=test_resnet", spec=str(tiny_folder))
    assert recipe_of(tmp_path, "supervised")["data"]["partition"] == "full"
    assert (comparison.data["labeled"], comparison.data["hidden_note"]) == (10, None)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mlmt", "method mlmt leaves no segmentation model, so it has no mIoU"),
        ("foo", "method foo is unknown, expected one of eln, rrn, s4gan, supervised, u2pl$"),
    ],
)
def test_a_method_that_cannot_be_compared_is_refused_before_a_device_is_looked_for(
    name: str, message: str, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Hardware, "accelerator", lambda *_: pytest.fail("a device was looked for"))
    with pytest.raises(RecipeError, match=message):
        plan(("supervised", name))


def test_data_network_and_steps_are_alike_and_the_method_is_its_own(plan: Plan, tmp_path: Path) -> None:
    changed = ("network.decoder_channels=24", "data.augment.scale=[1.0,1.0]", "data.batch_l=3")
    comparison = plan(BOTH, *changed)
    first, second = (recipe_of(tmp_path, method) for method in BOTH)
    for key in ("steps", "validate_every", "precision", "pretrained", "data", "network"):
        assert first[key] == second[key], key
    assert first["network"]["decoder"]["decoder_channels"] == 24
    assert first["data"]["batch_u"] == first["data"]["batch_l"] == 3
    assert (first["method"]["name"], second["method"]["name"]) == BOTH
    assert second["method"]["pretrain_steps"] == 18  # 180 of 400, of 40
    assert comparison.candidates[1].phases == {"pretrain": 18, "localize": 6, "semi": 16}


def test_what_a_recipe_says_otherwise_is_overridden_and_told(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own.toml"
    write_recipe(
        own, load_recipe("eln_shapes", ["network.decoder_channels=64", "network.dropout.fuse_1=0.4"])
    )
    default = compare_plan.default_recipe
    monkeypatch.setattr(
        compare_plan, "default_recipe", lambda name, spec: str(own) if name == "eln" else default(name, spec)
    )
    comparison = plan()
    assert comparison.candidates[1].overridden == {"network.decoder.decoder_channels": (64, 48)}
    network = recipe_of(tmp_path, "eln")["network"]["decoder"]
    assert (network["decoder_channels"], network["dropout"]["fuse_1"]) == (48, 0.4)


def test_a_setting_can_be_meant_for_one_method(plan: Plan, tmp_path: Path) -> None:
    plan(BOTH, "eln.optimizer.lr=0.5", "eln.alphas=[2.0, 4.0]", "method.optimizer.weight_decay=0.25")
    supervised, eln = (recipe_of(tmp_path, method)["method"] for method in BOTH)
    assert (eln["optimizer"]["lr"], eln["alphas"]) == (0.5, [2.0, 4.0])
    assert supervised["optimizer"]["lr"] == 0.002
    assert supervised["optimizer"]["weight_decay"] == eln["optimizer"]["weight_decay"] == 0.25


@pytest.mark.parametrize("method", METHODS)
def test_a_recipe_that_is_written_gives_itself_back(method: str, tmp_path: Path) -> None:
    recipe = load_recipe(default_recipe(method, "shapes"), ['data.spec=my "data" é'])
    write_recipe(tmp_path / "recipe.toml", recipe)
    assert load_recipe(str(tmp_path / "recipe.toml")) == recipe


def test_settings_are_shared_or_own_and_nothing_between() -> None:
    shared = shared_settings(reference_recipe(Request(None, "shapes", (0,))))
    assert not {key for key in shared for own in OWN if key == own or key.startswith(f"{own}.")}
    assert {"data.spec", "data.augment.scale", "network.encoder", "steps", "precision"} <= set(shared)
    assert not {"seed", "data.augment.jitter", "network.dropout.aspp"} & set(shared)


@pytest.mark.parametrize(("settings", "batch"), [((), 8), (("data.batch_l=6",), 6), (("data.batch_u=3",), 3)])
def test_the_unlabeled_batch_is_that_of_all_runs(
    settings: tuple[str, ...], batch: int, plan: Plan, tmp_path: Path
) -> None:
    assert plan(BOTH, *settings).settings["data.batch_u"] == batch
    for method in BOTH:
        assert load_recipe(str(tmp_path / f"c/recipes/{method}.toml")).data.batch_u == batch


@pytest.mark.parametrize(
    ("methods", "settings", "options", "message"),
    [
        (("supervised", "foo"), (), {}, "method foo is unknown, expected one of eln, "),
        (BOTH, ("seed=3",), {}, "--set seed=3: every method runs with the same seeds, give them by --seeds"),
        (("eln",), ("supervised.optimizer.lr=1",), {}, "supervised is not compared, expected one of eln"),
        (BOTH, ("eln.foo=1",), {}, "recipe eln_shapes: method.foo: no such setting"),
        (BOTH, ("foo=1",), {}, "recipe supervised_shapes: foo: no such setting"),
        (BOTH, (), {"steps": 2}, "eln: method.pretrain_steps [+] method.localize_steps is 2"),
        (BOTH, (), {"changes": {"data.partition": "full"}}, "eln: data.partition full: all 480 images"),
        (BOTH, (), {"changes": {"precision": "fp16"}}, "--precision fp16 needs a GPU"),
    ],
)
def test_a_plan_that_cannot_be_run_is_refused_and_leaves_nothing(
    methods: tuple[str, ...],
    settings: tuple[str, ...],
    options: dict[str, Any],
    message: str,
    plan: Plan,
    tmp_path: Path,
) -> None:
    with pytest.raises(RecipeError, match=message):
        plan(methods, *settings, **options)
    assert list(tmp_path.iterdir()) == []


def test_data_without_masks_are_refused_before_anything_runs(plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "data/train/images").mkdir(parents=True)
    with pytest.raises(DatasetError, match="got no images in train/images or val/images"):
        plan(spec=str(tmp_path / "data"))
    assert not (tmp_path / "c").exists()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ZooError, match=r"file/c cannot be written \(Not a directory\), expected a folder"):
        start(Request(BOTH, "shapes", (0,), device="cpu"), tmp_path / "file" / "c", FACTS)


def test_a_folder_with_other_files_is_left_alone(plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c/thesis.tex").touch()
    with pytest.raises(ZooError, match="holds other files, expected a new or empty folder"):
        plan()
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["thesis.tex"]
