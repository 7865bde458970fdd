"""What a comparison shares between its methods, and what stays theirs."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Any

import pytest

from zoo.errors import DatasetError, RecipeError, ZooError
from zoo.models.deployable import Deployable
from zoo.train.compare import plan as compare_plan
from zoo.train.compare.plan import write_recipe
from zoo.train.compare.report import facts
from zoo.train.compare.run_all import Facts, start
from zoo.train.compare.shared import OPTIMIZER, OWN, Request, is_below, reference_recipe, shared_settings
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
        values |= {"controls": False}
        request = Request(methods, settings=settings, **{**values, **options})
        return start(request, tmp_path / "c", FACTS).read()

    return plan


def recipe_of(folder: Path, method: str) -> dict[str, Any]:
    return tomllib.loads((folder / "c/recipes" / f"{method}.toml").read_text())


def test_the_runs_go_seed_by_seed(plan: Plan) -> None:
    comparison = plan(seeds=(3, 5))
    assert [run.name for run in comparison.runs] == [
        *("start-3", "supervised-3", "eln-3"),
        *("start-5", "supervised-5", "eln-5"),
    ]
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
    assert "data.partition" not in comparison.compared[1].overridden


def test_labels_only_alone_use_all_masks(plan: Plan, tmp_path: Path, tiny_folder: Path) -> None:
    comparison = plan(("supervised",), "network.encoder=test_resnet", spec=str(tiny_folder))
    assert recipe_of(tmp_path, "supervised")["data"]["partition"] == "full"
    assert (comparison.data["labeled"], comparison.data["hidden_note"]) == (10, None)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mlmt", "method mlmt leaves no segmentation model, so it has no mIoU"),
        (
            "foo",
            "method foo is unknown, expected one of eln, fixmatch, rrn, s4gan, supervised, u2pl, unimatch$",
        ),
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
    assert [each["data"].pop("labeled_view") for each in (first, second)] == ["weak", "strong"]
    for key in ("steps", "validate_every", "precision", "pretrained", "data", "network"):
        assert first[key] == second[key], key
    assert first["network"]["decoder"]["decoder_channels"] == 24
    assert first["data"]["batch_u"] == first["data"]["batch_l"] == 3
    assert (first["method"]["name"], second["method"]["name"]) == BOTH
    assert comparison.warm_steps == 18  # 180 of 400, of 40
    assert first["steps"] == comparison.settings["steps"] == 22
    assert comparison.candidates[0].phases == {"train": 18}
    assert comparison.compared[1].phases == {"localize": 6, "semi": 16}  # it needs no labels-only phase
    assert comparison.compared[1].overridden["method.pretrain_steps"] == (18, 0)


def test_without_a_warm_start_each_row_has_its_own_labels_only_phase(plan: Plan, tmp_path: Path) -> None:
    comparison = plan(warm_steps=0)
    assert [run.name for run in comparison.runs] == ["supervised-0", "eln-0"]
    assert comparison.compared[1].phases == {"pretrain": 18, "localize": 6, "semi": 16}
    assert comparison.compared[1].starts == ()
    assert recipe_of(tmp_path, "eln")["steps"] == 40


def test_the_warm_start_is_as_long_whichever_methods_are_compared(plan: Plan) -> None:
    comparison = plan(("supervised", "s4gan"))
    assert comparison.warm_steps == 18
    assert comparison.compared[1].phases == {"adversarial": 10, "train": 12}  # 180 of 400, of 22


def test_two_networks_continue_two_warm_starts(plan: Plan) -> None:
    comparison = plan(("supervised", "rrn", "eln"))
    assert [each.name for each in comparison.candidates] == ["start", "start_2", "supervised", "rrn", "eln"]
    starts = {each.name: each.starts for each in comparison.compared}
    assert starts == {"supervised": ("start",), "rrn": ("start", "start_2"), "eln": ("start",)}
    first, second, _, rrn, _ = comparison.runs
    assert (first.other_seed, second.other_seed, rrn.other_seed) == (1_000_000, 2_000_000, None)
    assert rrn.starts == ("start-0", "start_2-0")


def test_one_optimizer_and_network_are_for_all_rows(plan: Plan, tmp_path: Path) -> None:
    comparison = plan(None)
    reference = recipe_of(tmp_path, "supervised")
    for name in comparison.methods:
        recipe = recipe_of(tmp_path, name)
        assert recipe["method"]["optimizer"] == reference["method"]["optimizer"], name
        decoder = recipe["network"]["decoder"] | {"separate_embedding": False}
        assert recipe["network"] | {"decoder": decoder} == reference["network"], name
        augment = {
            key: recipe["data"]["augment"][key] for key in ("scale", "flip")
        }  # the strong view is its own, and so is the view of labeled images
        own = {"augment": reference["data"]["augment"] | augment, "labeled_view": "weak"}
        assert recipe["data"] | own == reference["data"], name
    rrn = next(each for each in comparison.compared if each.name == "rrn")
    assert rrn.overridden["network.decoder.dropout.aspp"] == (0.0, 0.1)
    assert rrn.own["method.optimizer_d"][1] == "adam, lr 0.001, constant"
    u2pl = next(each for each in comparison.compared if each.name == "u2pl")
    assert u2pl.own == {
        "network.decoder.separate_embedding": (False, True),
        "data.labeled_view": ("weak", "cutmix"),
    }


def test_methods_can_keep_their_recipes(plan: Plan, tmp_path: Path) -> None:
    comparison = plan(("supervised", "rrn", "u2pl"), spec="shapes", own_recipes=True)
    assert comparison.warm_steps == 0
    for name in comparison.methods:
        own = load_recipe(default_recipe(name, "shapes"))
        found = load_recipe(str(tmp_path / f"c/recipes/{name}.toml"))
        assert (found.network, found.data.batch_u) == (own.network, own.data.batch_u)
        assert found.method.optimizer == own.method.optimizer
    rrn, u2pl = comparison.compared[1:]
    assert rrn.own["network.decoder.dropout.aspp"] == (0.1, 0.0)
    assert u2pl.own["network.decoder.channel_dropout"] == (False, True)


def test_a_method_with_other_settings_of_its_optimizer_is_told_with_its_recipe(
    plan: Plan, tmp_path: Path
) -> None:
    comparison = plan(("supervised", "s4gan"), "s4gan.optimizer.lr=0.5", "method.optimizer.schedule=cosine")
    assert recipe_of(tmp_path, "start")["method"]["optimizer"]["schedule"] == "cosine"
    assert recipe_of(tmp_path, "s4gan")["method"]["optimizer"]["schedule"] == "cosine"
    assert comparison.compared[1].own["method.optimizer.lr"] == (0.002, 0.5)


def test_precision_and_settings_reach_all_recipes(plan: Plan, tmp_path: Path) -> None:
    comparison = plan(None, "data.workers=0", changes={"precision": "bf16"}, controls=True)
    for each in comparison.candidates:
        recipe = recipe_of(tmp_path, each.name)
        assert (recipe["precision"], recipe["data"]["workers"]) == ("bf16", 0), each.name


def test_a_file_of_encoder_weights_is_read_by_the_warm_start_alone(plan: Plan, tmp_path: Path) -> None:
    comparison = plan(BOTH, "encoder_weights=w.safetensors")
    assert recipe_of(tmp_path, "start")["encoder_weights"] == "w.safetensors"
    for name in BOTH:
        assert "encoder_weights" not in recipe_of(tmp_path, name)
    assert not any("encoder_weights" in each.overridden for each in comparison.candidates)
    load_recipe(str(tmp_path / "c/recipes/eln.toml"), changes={"start_from": ["run"]})  # no conflict


def test_controls_are_rows_beside_what_they_are_controls_of(plan: Plan, tmp_path: Path) -> None:
    comparison = plan(("supervised", "rrn", "eln"), controls=True)
    assert list(comparison.entries) == [
        "supervised",
        "supervised-strong",
        "supervised-ensemble",
        "rrn",
        "rrn branch_1",
        "rrn branch_2",
        "eln",
        "eln teacher",
    ]
    strong, ensemble = (recipe_of(tmp_path, f"supervised-{name}") for name in ("strong", "ensemble"))
    assert strong["data"]["labeled_view"] == "strong"
    assert (ensemble["method"]["lambda_cps"], ensemble["method"]["self_training"]) == (0, "none")
    assert recipe_of(tmp_path, "eln")["also_score"] == ["teacher"]
    controls = {each.name: each for each in comparison.compared if each.role == "control"}
    assert controls["supervised-ensemble"].phases == {"cross": 22}
    assert controls["supervised-ensemble"].starts == ("start", "start_2")
    assert controls["supervised-ensemble"].kept["fused"] == 2 * controls["supervised-strong"].kept["student"]


def test_a_control_beside_a_method_that_is_not_compared_is_left_out(plan: Plan) -> None:
    assert plan(("supervised", "eln"), controls=True).methods == ("supervised", "supervised-strong", "eln")


def test_looks_are_planned_for_seeds_that_are_added(plan: Plan) -> None:
    comparison = plan(seeds=(0, 1, 2), until_clear=14)
    assert comparison.looks == (3, 6, 12, 14)
    assert comparison.confidence == pytest.approx(0.9875)


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
    assert comparison.compared[1].overridden == {
        "network.decoder.decoder_channels": (64, 48),
        "network.decoder.dropout.fuse_1": (0.4, 0.1),
        "method.pretrain_steps": (18, 0),
    }
    network = recipe_of(tmp_path, "eln")["network"]["decoder"]
    assert (network["decoder_channels"], network["dropout"]["fuse_1"]) == (48, 0.1)


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
    shared = shared_settings(reference_recipe(Request(None, "shapes", (0,)), 400))
    assert not {key for key in shared if is_below(key, OWN) and not is_below(key, (OPTIMIZER,))}
    assert {"data.spec", "data.augment.scale", "network.encoder", "steps", "precision"} <= set(shared)
    assert {"method.optimizer.lr", "network.decoder.dropout.aspp", "data.batch_u"} <= set(shared)
    assert not {"seed", "data.augment.jitter", "network.embedding_channels", "method.name"} & set(shared)


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
        (BOTH, ("seed=3",), {}, "--set seed=3: every row runs with the same seeds, give them by --seeds"),
        (BOTH, ("steps=30",), {}, "--set steps=30: it would not change the phases of methods, give --steps"),
        (
            BOTH,
            (),
            {"warm_steps": 40},
            "the warm start has 40 steps, expected less than the 40 of a whole",
        ),
        (BOTH, (), {"warm_steps": 9, "own_recipes": True}, "--own-recipes with --warm-steps 9: networks of"),
        (("eln",), (), {"until_clear": 3}, "--until-clear needs supervised, which differences are taken to"),
        (("eln",), ("supervised.optimizer.lr=1",), {}, "supervised is not compared, expected one of eln"),
        (BOTH, ("eln.foo=1",), {}, "recipe eln_shapes: method.foo: no such setting"),
        (BOTH, ("foo=1",), {}, "recipe supervised_shapes: foo: no such setting"),
        (BOTH, (), {"steps": 2}, "eln: method.pretrain_steps [+] method.localize_steps is 1"),
        (BOTH, (), {"changes": {"data.partition": "full"}}, "eln: data.partition full: all 480 images"),
        (BOTH, (), {"changes": {"precision": "fp16"}}, "--precision fp16 needs a GPU"),
        (
            BOTH,
            ("data.partition_seed=7",),
            {},
            "data.partition_seed=7: each seed of a comparison",
        ),
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


def test_the_loss_on_labels_and_its_weights_are_for_all_rows(plan: Plan, tmp_path: Path) -> None:
    settings = ("loss=cross_entropy + dice", "class_weights=median_frequency", "data.rare_classes=0.5")
    comparison = plan(None, *settings)
    for name in ("start", *comparison.methods):
        recipe = recipe_of(tmp_path, name)
        assert (recipe["loss"], recipe["class_weights"]) == ("cross_entropy + dice", "median_frequency"), name
        assert recipe["data"]["rare_classes"] == 0.5, name
    words = "cross_entropy + dice, class weights median_frequency, 50% of the images for rare classes"
    assert dict(facts(comparison))["loss on labels"] == words
