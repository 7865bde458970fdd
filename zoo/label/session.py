"""One choice of images by a model out of a pool."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from zoo.data.split import SEQUENCE, make_groups
from zoo.errors import ZooError
from zoo.label.choose import Rules, choose
from zoo.label.folder import Labeling
from zoo.label.scan import Scorer, look, scan, score_of
from zoo.predictors.eager import load_eager

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from zoo.label.choose import Choice, Strategy
    from zoo.label.pool import Pool
    from zoo.label.scan import Scan
    from zoo.predictors.eager import EagerPredictor

log = logging.getLogger(__name__)

VIDEO = "video"


@dataclass(frozen=True)
class Request:
    """Options of a choice.

    Args:
        count: number of images.
        strategy: strategy of the choice.
        score: output that says how reliable each pixel is; None for the best available.
        groups: expression whose first group names the group of an image, `video`, or None.
        seed: seed of random choices.
        batch: number of images in a batch; None to choose it by their size.
    """

    count: int
    strategy: Strategy
    score: str | None = None
    groups: str | None = None
    seed: int = 0
    batch: int | None = None


def choose_images(
    pool: Pool, model: Path, device: str, request: Request, header: dict[str, Any]
) -> tuple[Labeling, EagerPredictor]:
    """Return the images to label next, and the predictor that chose them.

    Args:
        pool: candidates and labeled images.
        model: bundle.
        device: `cpu` or `cuda`.
        request: options.
        header: what the record says besides.

    Raises:
        ZooError: more images are requested than there are, none is left to choose, or the model lacks the
            score.
    """
    names = [item.name for item in pool.candidates]
    if request.count > len(names):
        raise ZooError(
            f"--count {request.count}: got more images than the {len(names):,} candidates, expected 1.."
            f"{len(names)}, unreadable images and near-duplicates among these are left out too: ask for fewer"
        )
    groups = _groups([item.train_id for item in pool.candidates], request.groups)
    predictor = load_eager(model, device)
    if not predictor.format.is_rgb:
        raise ZooError(
            f"{model} takes images of {predictor.format}, expected a model of 8-bit RGB, which zoo label "
            f"shows: choose images to label by hand"
        )
    score = score_of(predictor, request.score)
    log.info("scoring %d candidates and %d labeled images by %s", len(names), len(pool.labeled), score)
    scorer = Scorer(predictor, score, entropy=request.strategy == "entropy")
    found = scan(scorer, pool.candidates, request.batch)
    labeled = scan(scorer, pool.labeled, request.batch)
    rules = Rules(request.strategy, request.count, request.seed, groups)
    choice = choose(found, labeled, names, rules, look(pool.held_out))
    if not choice.picks:
        raise _nothing_left(pool, found, choice)
    used = header | asdict(request) | {"score": score}
    return Labeling(pool, found, choice, score, used), predictor


def _nothing_left(pool: Pool, found: Scan, choice: Choice) -> ZooError:
    """Return the error for a pool of which all images are left out, with the number of each reason."""
    of_labeled = sum(center < len(pool.labeled) for _, center in choice.duplicates)
    counts = {
        "identical or nearly so to labeled images": of_labeled,
        "identical or nearly so to val images": len(choice.duplicates) - of_labeled,
        "unreadable": len(found.failures),
    }
    reasons = " and ".join(f"{count:,} {reason}" for reason, count in counts.items() if count)
    count = len(pool.candidates)
    return ZooError(
        f"no image is left to label: got {count:,} candidate{'s' * (count != 1)}, {reasons}, expected at "
        f"least one other image: add new images to the pool"
    )


def _groups(ids: Sequence[str], pattern: str | None) -> list[int]:
    """Return the number of the group of each image."""
    found = [0] * len(ids)
    units = make_groups(ids, SEQUENCE if pattern == VIDEO else pattern)
    for number, members in enumerate(units):
        for index in members:
            found[index] = number
    return found
