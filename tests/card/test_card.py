from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from huggingface_hub import ModelCard

from zoo.bundle.bundle import BundleConfig, load_config
from zoo.card.card import model_card
from zoo.card.licenses import data_name
from zoo.models.encoder import pretrained_origin

if TYPE_CHECKING:
    from pathlib import Path

VAL = {
    "miou": 0.61234567,
    "pixel_accuracy": 0.9,
    "iou": {"class-0": 0.9, "class-1": 0.3, "class-2": None},
    "images": 12,
    "data": "/secret/customer/roads",
    "split": "val",
    "protocol": "whole",
}
PROVENANCE = {
    "step": 400,
    "partition": {"counts": {"labeled": 30, "unlabeled": 450}, "digest": "0123abc"},
    "parameters": {"kept": 1234567},
    "pretrained_weights": {"resnet50.tv_in1k": "bsd-3-clause", "own_net": None},
}


@pytest.fixture
def config(tiny_bundle: Path) -> BundleConfig:
    """Return the configuration of a bundle that was trained and measured on a folder."""
    recipe = {"data": {"spec": "/secret/customer/roads"}, "pretrained": True}
    update = {"method": "eln", "recipe": recipe, "provenance": PROVENANCE, "metrics": {"val": VAL}}
    return load_config(tiny_bundle).model_copy(update=update)


def change_recipe(config: BundleConfig, **changes: Any) -> BundleConfig:
    return config.model_copy(update={"recipe": {**config.recipe, **changes}})


def test_the_hubs_own_reader_finds_task_license_and_tags(config: BundleConfig) -> None:
    data = ModelCard(model_card(config)).data
    assert (data.library_name, data.pipeline_tag, data.license) == (
        "semiseg-zoo",
        "image-segmentation",
        "unknown",
    )
    assert data.tags == ["semantic-segmentation", "semi-supervised", "eln"]


def test_the_hubs_own_reader_finds_the_results_with_protocol_and_partition(config: BundleConfig) -> None:
    data = ModelCard(model_card(config)).data
    assert data.model_name == "eln on roads"
    miou, accuracy = data.eval_results or ()
    assert (miou.metric_type, miou.metric_name, miou.metric_value) == ("mean_iou", "mIoU", 0.6123)
    assert (accuracy.metric_type, accuracy.metric_value) == ("accuracy", 0.9)
    assert (miou.task_type, miou.dataset_name, miou.dataset_split) == ("image-segmentation", "roads", "val")
    assert miou.dataset_args == {"partition": "0123abc", "labeled": 30, "unlabeled": 450, "images": 12}
    assert miou.metric_args == {"protocol": "whole"}


def test_a_model_that_was_not_measured_claims_no_results(config: BundleConfig) -> None:
    card = model_card(config.model_copy(update={"metrics": {}}))
    data = ModelCard(card).data
    assert data.eval_results is None
    assert "model_name" not in data.to_dict()
    assert "Not evaluated yet" in card
    assert "Its accuracy has not been measured." in card


def test_labels_only_is_not_called_semi_supervised(config: BundleConfig) -> None:
    data = ModelCard(model_card(config.model_copy(update={"method": "supervised"}))).data
    assert data.tags == ["semantic-segmentation", "supervised"]


def test_a_bundle_of_which_nothing_is_recorded_has_a_card(tiny_bundle: Path) -> None:
    card = model_card(load_config(tiny_bundle))
    assert "started from unknown weights" in card
    assert "| parameters | unknown |" in card
    assert "| encoder weights | unknown | which weights it started from was not recorded |" in card


def test_a_path_of_the_users_machine_is_not_published(config: BundleConfig) -> None:
    card = model_card(config)
    assert "secret" not in card
    assert "# eln on roads" in card


def test_names_of_classes_change_nothing_but_their_cell(config: BundleConfig) -> None:
    names = ("a|b", "<script>alert(1)</script>", "of two\nlines", *config.names[3:])
    iou = {name: number / 10 for number, name in enumerate(names, 1)}
    metrics = {"val": config.metrics["val"] | {"iou": iou}}
    card = model_card(config.model_copy(update={"names": names, "metrics": metrics}))
    assert "<script>" not in card
    assert "| classes | a&#124;b, &lt;script&gt;alert(1)&lt;/script&gt;, of two lines, " in card
    assert "| a&#124;b | 0.100 |" in card
    assert "| of two lines | 0.300 |" in card


def test_licenses_are_told_of_code_weights_and_data(config: BundleConfig) -> None:
    card = model_card(config)
    assert "| code | apache-2.0 |" in card
    assert "| encoder weights | bsd-3-clause | timm, of resnet50.tv_in1k |" in card
    assert "| encoder weights | unknown | timm, of own_net |" in card
    assert "| training data | unknown | roads: see its own terms |" in card


def test_drawn_images_and_random_weights_have_no_license(config: BundleConfig) -> None:
    card = model_card(change_recipe(config, pretrained=False, data={"spec": "shapes"}))
    assert "| encoder weights | none | started from random weights |" in card
    assert "| training data | none | shapes: images drawn by this program |" in card


def test_a_folder_that_is_called_shapes_is_not_taken_for_the_drawn_ones(config: BundleConfig) -> None:
    card = model_card(change_recipe(config, data={"spec": "/data/shapes"}))
    assert "| training data | unknown | shapes: see its own terms |" in card


def test_timm_says_which_weights_an_encoder_starts_from_and_their_license() -> None:
    tv = pretrained_origin("resnet50.tv_in1k")
    assert (tv.kind, tv.name, tv.license) == ("timm", "resnet50.tv_in1k", "bsd-3-clause")
    assert pretrained_origin("resnet101s.gluon_in1k").name == "resnet101s.gluon_in1k"
    assert pretrained_origin("resnet50").name.startswith("resnet50.")


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("voc:/data/VOC", "voc"),
        ("roads/", "roads"),
        ("a/roads/data.toml", "roads"),
        ("x.toml", "x"),
        (None, "unknown"),
    ],
)
def test_data_are_called_by_their_name(spec: str | None, name: str) -> None:
    assert data_name(spec) == name


def test_a_part_of_a_composed_model_brings_its_own_weights(config: BundleConfig) -> None:
    part = {
        "method": "mlmt", "weights": "teacher", "weights_sha256": "f" * 64, "recipe": {"pretrained": True},
        "provenance": PROVENANCE | {"pretrained_weights": {"net.tag": "mit"}},
    }  # fmt: skip
    segmentation = part | {"recipe": {"pretrained": False}}
    provenance = PROVENANCE | {"parts": {"segmentation": segmentation, "classifier": part}}
    card = model_card(config.model_copy(update={"provenance": provenance}))
    assert "| encoder weights | mit | timm, of net.tag |" in card
    assert "| encoder weights | none | started from random weights |" in card
    assert "bsd-3-clause" not in card


def test_limits_name_the_weakest_class_and_those_never_seen(config: BundleConfig) -> None:
    card = model_card(config)
    assert "Its weakest class on `val` is class-1, IoU 0.300." in card
    assert "No image of `val` shows class-2" in card


def test_the_papers_figure_is_marked_as_the_papers(config: BundleConfig) -> None:
    reported = {"miou": 73.2, "source": "Table 1, R50"}
    card = model_card(change_recipe(config, reported=reported))
    assert "Reported by the paper for this recipe, not measured here: mIoU 73.2 % (Table 1, R50)" in card
    assert "73.2" not in model_card(config)
    assert len(ModelCard(card).data.eval_results or ()) == 2


def test_use_in_python_runs_in_three_lines(config: BundleConfig) -> None:
    block = model_card(config).split("```python\n")[1].split("```")[0]
    assert len(block.splitlines()) == 3
    compile(block, "card", "exec")
