from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.data.split import SEQUENCE, make_groups, order_units, take
from zoo.errors import DatasetError


def example(seed: int, images: int = 120) -> tuple[np.ndarray, list[str]]:
    """Return which of four classes images show, the last of them very rare, and their ids."""
    random = np.random.default_rng(seed)
    presence = random.random((images, 4)) < np.array([0.95, 0.5, 0.2, 0.0])
    presence[random.choice(images, 3, replace=False), 3] = True
    return presence, [f"train/{index:04d}" for index in range(images)]


@given(st.integers(0, 10_000), st.integers(8, 60))
@settings(max_examples=40)
def test_every_class_is_kept_in_the_share_it_has(seed: int, count: int) -> None:
    presence, ids = example(seed)
    units = make_groups(ids, None)
    chosen = take(order_units(presence, units, ids, seed), units, count)
    assert len(chosen) == count
    found, share = presence[chosen].sum(axis=0), presence.mean(axis=0)
    assert (found[share > 0] >= 1).all()
    assert np.abs(found - count * share).max() < 3


@given(st.integers(0, 10_000))
@settings(max_examples=20)
def test_samples_of_one_seed_are_nested_and_of_another_differ(seed: int) -> None:
    presence, ids = example(seed)
    units = make_groups(ids, None)
    order = order_units(presence, units, ids, seed)
    assert sorted(order) == list(range(len(units)))
    samples = [set(take(order, units, count)) for count in (5, 10, 20, 40)]
    assert all(small < large for small, large in itertools.pairwise(samples))
    assert order_units(presence, units, ids, seed) == order
    assert order_units(presence, units, ids, seed + 1) != order


def test_images_that_show_no_class_are_taken_as_well() -> None:
    presence, ids = np.zeros((5, 3), bool), list("abcde")
    units = make_groups(ids, None)
    assert sorted(order_units(presence, units, ids, 0)) == [0, 1, 2, 3, 4]


@given(st.integers(0, 10_000), st.integers(1, 100))
@settings(max_examples=30)
def test_a_group_is_whole_in_a_sample_or_not_at_all(seed: int, count: int) -> None:
    random = np.random.default_rng(seed)
    ids = [f"train/video{video}_{frame:04d}" for video in range(8) for frame in range(random.integers(2, 20))]
    presence = random.random((len(ids), 3)) < 0.5
    units = make_groups(ids, SEQUENCE)
    assert len(units) == 8
    chosen = set(take(order_units(presence, units, ids, seed), units, count))
    for unit in units:
        assert chosen.issuperset(unit) or chosen.isdisjoint(unit)
    sizes = np.cumsum([len(units[each]) for each in order_units(presence, units, ids, seed)])
    assert abs(len(chosen) - count) == np.abs(sizes - count).min()


def test_folders_are_videos_where_names_have_numbers_alone() -> None:
    ids = [f"train/{video}/{frame:04d}" for video in ("v1", "v2", "deep/v1") for frame in range(3)]
    assert [len(unit) for unit in make_groups(ids, SEQUENCE)] == [3, 3, 3]


@pytest.mark.parametrize(
    ("name", "video"),
    [
        ("0016E5_08159", "0016E5"),
        ("0001TP_006690", "0001TP"),
        ("Seq05VD_f00000", "Seq05VD"),
        ("aachen-000013", "aachen"),
        ("clip.frame0007", "clip"),
        ("00012", ""),
    ],
)
def test_the_number_of_a_frame_is_not_part_of_its_video(name: str, video: str) -> None:
    match = re.fullmatch(SEQUENCE, name)
    assert match is not None
    assert match[1] == video


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", r"--groups '\(' is not a valid expression"),
        ("[a-z]+", "has no group, expected one in parentheses"),
        (r"(\d+)", "does not match train/a_1, expected it to match every name"),
    ],
)
def test_an_expression_that_cannot_group_is_refused(pattern: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        make_groups(["train/a_1"], pattern)


CAMVID = Path(__file__).resolve().parents[3] / "shared" / "data" / "camvid"


@pytest.mark.skipif(not CAMVID.is_dir(), reason=f"{CAMVID} is not here")
def test_no_sequence_of_camvid_is_on_both_sides() -> None:
    ids = sorted(f"train/{path.stem}" for path in (CAMVID / "train" / "images").iterdir())
    units = make_groups(ids, SEQUENCE)
    presence = np.ones((len(ids), 1), bool)
    chosen = {ids[index] for index in take(order_units(presence, units, ids, 0), units, 46)}
    labeled = {id_.split("_")[0] for id_ in chosen}
    assert labeled
    assert labeled.isdisjoint({id_.split("_")[0] for id_ in ids if id_ not in chosen})
