import json
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo.data.partition import Partition, make_partition
from zoo.errors import DatasetError

if TYPE_CHECKING:
    from zoo.data.source import Source

TRAIN = ("train/2007_000032", "train/2007_000039", "train/city/a_1", "train/city/b_1", "train/with space")


def source_of(train, unlabeled=(), val=(), precise=None):
    splits = {"train": tuple(train), "unlabeled": tuple(unlabeled), "val": tuple(val)}
    source = SimpleNamespace(spec="folder", ids=splits.__getitem__, precise_ids=lambda: precise)
    return cast("Source", source)


def numbered(count):
    return source_of(f"train/{number:05d}" for number in range(count))


def listing(folder: Path, text: str) -> str:
    path = folder / "list.txt"
    path.write_text(text)
    return str(path)


@given(st.integers(1, 300), st.integers(1, 16), st.integers(0, 2**32))
def test_labeled_and_unlabeled_are_disjoint_and_together_all(count, parts, seed):
    source = source_of([f"train/{number}" for number in range(count)], unlabeled=["unlabeled/0"])
    partition = make_partition(source, f"1/{parts}", seed)
    assert set(partition.labeled).isdisjoint(partition.unlabeled)
    assert {*partition.labeled, *partition.unlabeled} == {*source.ids("train"), "unlabeled/0"}
    assert len(partition.labeled) == max(1, int(count / parts + 0.5))


@given(st.integers(0, 2**32))
def test_the_same_seed_gives_the_same_partition_and_finer_ones_are_nested(seed):
    source = numbered(64)
    eighth = make_partition(source, "1/8", seed)
    assert eighth == make_partition(numbered(64), "1/8", seed)
    assert set(make_partition(source, "1/16", seed).labeled) < set(eighth.labeled)


def test_another_seed_gives_another_partition_and_digest():
    one, other = (make_partition(numbered(64), "1/8", seed) for seed in (0, 1))
    assert one.labeled != other.labeled
    assert one.digest != other.digest


def test_a_sample_is_the_same_on_every_machine():
    assert make_partition(numbered(10), "3", 0).labeled == ("train/00001", "train/00004", "train/00009")


@given(st.sets(st.integers(0, 50), min_size=1), st.sets(st.integers(51, 100)))
def test_the_digest_names_the_sets_whatever_their_order(labeled, unlabeled):
    first, second = tuple(map(str, labeled)), tuple(map(str, unlabeled))
    digest = Partition("1/2", 0, first, second).digest
    assert digest == Partition("full", 7, first[::-1], second[::-1]).digest
    assert digest != Partition("1/2", 0, first[1:], (*second, first[0])).digest
    assert len(digest) == 12


@pytest.mark.parametrize(
    ("count", "spec", "expected"), [(10582, "1/8", 1323), (2975, "1/16", 186), (12, "1/8", 2)]
)
def test_a_fraction_is_rounded_half_up_as_in_the_published_lists(count, spec, expected):
    assert len(make_partition(numbered(count), spec, 0).labeled) == expected


@pytest.mark.parametrize("spec", [None, "full", "1/1", "5"])
def test_all_training_images_can_be_labeled(spec):
    partition = make_partition(source_of(TRAIN, unlabeled=["unlabeled/x"]), spec, 0)
    assert partition.labeled == TRAIN
    assert partition.unlabeled == ("unlabeled/x",)


def source_named(spec, unlabeled):
    source = source_of([f"train/{number}" for number in range(16)], unlabeled=unlabeled)
    source.spec = spec
    return source


@pytest.mark.parametrize(
    ("data", "unlabeled", "needed", "spec"),
    [
        ("mine", ["unlabeled/x"], True, "full"),
        ("mine", ["unlabeled/x"], False, "full"),
        ("mine", [], True, "1/8"),
        ("mine", [], False, "full"),
        ("voc-classic:DIR", ["unlabeled/x"], True, "1/8"),
        ("cityscapes:DIR", [], False, "1/8"),
    ],
)
def test_the_automatic_partition_hides_masks_only_where_it_must(data, unlabeled, needed, spec):
    source = source_named(data, unlabeled)
    partition = make_partition(source, "auto", 3, needs_unlabeled=needed)
    chosen = make_partition(source, spec, 3)
    assert (partition.spec, partition.labeled, partition.unlabeled) == (
        spec,
        chosen.labeled,
        chosen.unlabeled,
    )


def test_masks_that_nobody_asked_to_hide_are_told_and_kept_in_the_record(tmp_path):
    partition = make_partition(source_named("mine", []), "auto", 0)
    assert partition.hidden == (14, 16)
    note = partition.hidden_note("mine")
    assert note.startswith("14 of 16 training masks are not used")
    assert "mine has none, and so --partition 1/8 is the default" in note
    assert "--partition full" in note
    partition.write(tmp_path)
    assert Partition.read(tmp_path) == partition


@pytest.mark.parametrize(
    ("data", "unlabeled", "spec"),
    [("mine", [], "1/8"), ("mine", ["unlabeled/x"], "auto"), ("voc:DIR", [], "auto")],
)
def test_masks_that_are_used_or_hidden_on_purpose_are_not_told(data, unlabeled, spec):
    assert make_partition(source_named(data, unlabeled), spec, 0).hidden_note(data) is None


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("6", "--partition 6: got 6 images, expected 1..5, as split train has: .*, or for `full`$"),
        ("0", "got 0 images, expected 1..5"),
        ("-1", "got -1 images, expected 1..5"),
        ("0/8", "expected one such as 1/8"),
        ("9/8", "expected one such as 1/8"),
        ("1/0", "expected one such as 1/8"),
        ("1.5", "got no such file, expected a fraction"),
        ("", "got no such file, expected a fraction"),
    ],
)
def test_a_bad_spec_says_what_was_expected(spec, message):
    with pytest.raises(DatasetError, match=message):
        make_partition(source_of(TRAIN), spec, 0)


def test_a_source_without_training_images_has_no_partition():
    with pytest.raises(DatasetError, match="no images in split train"):
        make_partition(source_of([]), "1/8", 0)


@pytest.mark.parametrize(
    "entry",
    [
        "train/2007_000032",
        "2007_000032",
        "2007_000032.jpg",
        "JPEGImages/2007_000032.jpg SegmentationClass/2007_000032.png",
        "/JPEGImages/2007_000032.jpg /SegmentationClassAug/2007_000032.png",
        "JPEGImages\\2007_000032.jpg",
    ],
)
def test_the_forms_of_published_lists_are_understood(tmp_path, entry):
    partition = make_partition(source_of(TRAIN), listing(tmp_path, f"# a list\n\n{entry}\r\n"), 0)
    assert partition.labeled == ("train/2007_000032",)
    assert partition.unlabeled == TRAIN[1:]


def test_a_name_may_hold_spaces(tmp_path):
    partition = make_partition(source_of(TRAIN), listing(tmp_path, "images/with space.jpg\n"), 0)
    assert partition.labeled == ("train/with space",)


def test_a_name_may_end_in_a_space(tmp_path):
    source = source_of(["train/a ", "train/a"])
    assert make_partition(source, listing(tmp_path, "train/a \n"), 0).labeled == ("train/a ",)
    assert make_partition(source, listing(tmp_path, "a  \n"), 0).labeled == ("train/a",)


@pytest.mark.parametrize("text", ["train/a train/b\n", "a.png b.png\n", "a a b\n"])
def test_several_images_on_a_line_are_an_error(tmp_path, text):
    with pytest.raises(DatasetError, match=r"list\.txt:1: got .*b.* after train/a, expected one image"):
        make_partition(source_of(["train/a", "train/b"]), listing(tmp_path, text), 0)


def test_folders_tell_images_of_one_name_apart(tmp_path):
    source = source_of(["train/a/1", "train/b/1"])
    partition = make_partition(source, listing(tmp_path, "leftImg8bit/train/b/1.png gtFine/train/b/1.png"), 0)
    assert partition.labeled == ("train/b/1",)


def test_a_name_of_two_images_is_an_error_with_its_line(tmp_path):
    with pytest.raises(DatasetError, match=r"list.txt:2: got '1.png', the name of 2 images"):
        make_partition(source_of(["train/a/1", "train/b/1"]), listing(tmp_path, "a/1\n1.png\n"), 0)


def test_an_unknown_entry_is_an_error_with_its_line(tmp_path):
    with pytest.raises(
        DatasetError, match=r"list.txt:3: got 'nothing', expected an image of split train such as"
    ):
        make_partition(source_of(TRAIN), listing(tmp_path, "# comment\n2007_000032\nnothing\n"), 0)


def test_a_validation_image_is_not_taken_for_a_training_image_of_its_name(tmp_path):
    source = source_of(["train/0003"], val=["val/0003"])
    with pytest.raises(DatasetError, match="got 'val/0003', expected an image of split train"):
        make_partition(source, listing(tmp_path, "val/0003"), 0)


def test_a_duplicate_entry_is_an_error_with_both_lines(tmp_path):
    with pytest.raises(DatasetError, match=r"list.txt:3: got train/2007_000032 again.* line 1"):
        make_partition(source_of(TRAIN), listing(tmp_path, "2007_000032\n\n2007_000032.jpg\n"), 0)


def test_an_empty_list_is_an_error(tmp_path):
    with pytest.raises(DatasetError, match="a list without entries"):
        make_partition(source_of(TRAIN), listing(tmp_path, "\n# nothing\n"), 0)


def test_a_list_that_is_not_text_is_an_error(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(DatasetError, match="not text"):
        make_partition(source_of(TRAIN), str(tmp_path / "list.txt"), 0)


def test_a_written_partition_is_read_back(tmp_path):
    partition = make_partition(source_of(TRAIN, unlabeled=["unlabeled/ä"]), "2", 3)
    partition.write(tmp_path / "run")
    assert Partition.read(tmp_path / "run") == partition
    record = json.loads((tmp_path / "run" / "partition.json").read_text())
    counts = {"labeled": 2, "unlabeled": 4}
    assert record == {"spec": "2", "seed": 3, "counts": counts, "digest": partition.digest}
    assert len(list((tmp_path / "run").iterdir())) == 3


def test_a_written_list_is_itself_a_spec(tmp_path):
    partition = make_partition(source_of(TRAIN), "2", 3)
    partition.write(tmp_path)
    again = make_partition(source_of(TRAIN), str(tmp_path / "labeled.txt"), 0)
    assert again.digest == partition.digest


def test_an_edited_list_is_noticed(tmp_path):
    make_partition(source_of(TRAIN), "2", 0).write(tmp_path)
    (tmp_path / "labeled.txt").write_text("train/2007_000032\n")
    with pytest.raises(DatasetError, match=r"expected .* as in partition\.json"):
        Partition.read(tmp_path)


def test_a_missing_list_is_noticed(tmp_path):
    make_partition(source_of(TRAIN), "2", 0).write(tmp_path)
    (tmp_path / "unlabeled.txt").unlink()
    with pytest.raises(DatasetError, match="no partition that can be read"):
        Partition.read(tmp_path)
