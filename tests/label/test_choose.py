"""Choice of images from their measurements."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from zoo.data.inspect.duplicates import Seen
from zoo.label import choose as module
from zoo.label.choose import Choice, Rules, choose
from zoo.label.scan import Looks, Scan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray


def texture(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (32, 32)).astype(np.uint8)


def scan_of(
    features: ArrayLike, unreliability: Sequence[float] = (), *, first: int = 0, failures: Sequence[int] = ()
) -> Scan:
    """Return measurements of images that all look different; `first` numbers their pictures."""
    found = np.array(features, np.float32).reshape(len(features), -1 if len(features) else 1)  # type: ignore[arg-type]
    count = len(found)
    scores = np.array(unreliability or [0.5] * count, np.float32)
    numbers = range(first, first + count)
    thumbs = np.array([texture(number) for number in numbers]).reshape(count, 32, 32)
    digests = [str(number).encode() for number in numbers]
    return Scan(scores, scores[::-1], found, thumbs, digests, dict.fromkeys(failures, "broken"))


NOTHING = scan_of([])


def chosen(pool: Scan, labeled: Scan, rules: Rules) -> Choice:
    names = [f"image-{index}" for index in range(len(pool.digests))]
    return choose(pool, labeled, names, rules._replace(groups=rules.groups or range(len(names))))


def rules(strategy: str = "reliability", count: int = 2, seed: int = 0, groups: Sequence[int] = ()) -> Rules:
    return Rules(strategy, count, seed, groups)  # type: ignore[arg-type]


def order(choice: Choice) -> list[int]:
    return [pick.candidate for pick in choice.picks]


def test_an_image_is_worth_its_unreliability_times_its_distance() -> None:
    labeled = scan_of([[0.0]], first=100)
    pool = scan_of([[1.0], [4.0], [4.5], [-3.0]], [0.9, 0.5, 0.4, 0.1])
    # 0.9, 2.0, 1.8, 0.3; then, with 4.0 chosen: 0.9, -, 0.2, 0.3
    choice = chosen(pool, labeled, rules(count=2))
    assert order(choice) == [1, 0]
    assert [(pick.distance, pick.nearest) for pick in choice.picks] == [(4.0, 0), (1.0, 0)]
    choice = chosen(pool, labeled, rules(count=3))
    assert (choice.picks[2].candidate, choice.picks[2].nearest) == (3, 0)


def test_without_labels_the_least_reliable_image_is_first() -> None:
    choice = chosen(scan_of([[0.0], [1.0], [9.0]], [0.3, 0.6, 0.1]), NOTHING, rules(count=3))
    assert order(choice) == [1, 2, 0]  # then 0.1 x 8 is above 0.3 x 1
    assert choice.picks[0].nearest is None
    assert choice.picks[1].nearest == 0


def test_core_set_is_k_center_greedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROWS", 7)
    monkeypatch.setattr(module, "CENTERS", 3)
    random = np.random.default_rng(0)
    pool, labeled = random.normal(size=(40, 5)), random.normal(size=(8, 5))
    expected: list[int] = []
    for _ in range(12):
        centers = [*labeled, *(pool[index] for index in expected)]
        distances = [min(float(np.linalg.norm(row - center)) for center in centers) for row in pool]
        expected.append(int(np.argmax(distances)))
    assert order(chosen(scan_of(pool), scan_of(labeled, first=100), rules("core-set", 12))) == expected


def test_entropy_and_random_ignore_distances() -> None:
    pool = scan_of([[0.0]] * 4, [0.1, 0.4, 0.2, 0.3])  # entropies 0.3, 0.2, 0.4, 0.1
    assert order(chosen(pool, NOTHING, rules("entropy", 4))) == [2, 0, 1, 3]
    found = [order(chosen(pool, NOTHING, rules("random", 4, seed))) for seed in range(6)]
    assert all(sorted(one) == [0, 1, 2, 3] for one in found)
    assert len(set(map(tuple, found))) > 1
    assert order(chosen(pool, NOTHING, rules("random", 4, 3))) == found[3]


def test_a_group_is_used_again_once_each_group_is() -> None:
    pool = scan_of([[9.0], [8.0], [1.0], [2.0]], [0.5] * 4)
    found = order(chosen(pool, scan_of([[0.0]], first=100), rules("entropy", 4, groups=[0, 0, 1, 2])))
    assert found == [0, 2, 3, 1]  # 2 and 3 before the second of group 0


@pytest.mark.parametrize("strategy", ["reliability", "random", "entropy", "core-set"])
def test_copies_of_labeled_and_of_chosen_images_and_broken_ones_are_never_chosen(strategy: str) -> None:
    labeled = scan_of([[0.0]], first=100)
    pool = scan_of([[1.0], [2.0], [3.0], [4.0], [5.0]], failures=[4])
    noise = np.random.default_rng(1).integers(-2, 3, (32, 32))
    pool.thumbs[0] = np.clip(labeled.thumbs[0] + noise, 0, 255)  # re-encoded
    pool.thumbs[1] = np.clip(pool.thumbs[2] + noise, 0, 255)
    pool.thumbs[3], pool.digests[3] = pool.thumbs[2], pool.digests[2]
    choice = chosen(pool, labeled, rules(strategy, 5))
    assert len(choice.picks) == 1  # one of the three that are alike
    assert choice.picks[0].candidate in (1, 2, 3)
    assert dict(choice.duplicates)[0] == 0
    assert len(choice.duplicates) == 3


def test_an_image_of_one_gray_is_a_duplicate_of_an_identical_one_alone() -> None:
    seen, flat = Seen(), np.full((32, 32), 7, np.uint8)
    seen.add(flat, b"a", 5)
    assert seen.find(flat, b"a") == 5
    assert seen.find(flat, b"b") is None


def test_copies_of_held_out_images_are_left_out_but_these_are_no_centers() -> None:
    labeled, pool = scan_of([[0.0]], first=100), scan_of([[1.0], [2.0], [3.0]])
    held_out = Looks(pool.thumbs[[2, 1]], [b"other", pool.digests[1]], {})
    choice = choose(pool, labeled, ["a", "b", "c"], rules(count=3)._replace(groups=range(3)), held_out)
    assert order(choice) == [0]
    assert set(choice.duplicates) == {(2, 1), (1, 2)}
    broken = Looks(pool.thumbs[[2]], [pool.digests[2]], {0: "broken"})
    choice = choose(pool, labeled, ["a", "b", "c"], rules(count=3)._replace(groups=range(3)), broken)
    assert len(choice.picks) == 3
