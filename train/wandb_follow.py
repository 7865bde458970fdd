"""The process beside a training that tells W&B of it: `python -m zoo.train.wandb_follow FOLDER`.

It loads no torch. It reads `log.csv` as it grows, and metrics and pictures at the end, which standard input
announces. Where no server is in reach or nobody is logged in, W&B writes into the run folder.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.train.runs.log import read_log
from zoo.train.runs.wandb import FINISHED, WandbRun, read_wandb_run

if TYPE_CHECKING:
    import wandb

log = logging.getLogger("zoo.train.wandb")

LOOK_EVERY_S = 2.0
LOOK_SHARE = 20.0
"""A pause is so many times as long as reading took: a long log takes a small share of a core."""
PICTURES = ("preview.png", "curves.png")


class Ending:
    """What standard input says at the end of the run; it ends without a word if the training was killed."""

    def __init__(self) -> None:
        self.word: str | None = None
        self._said = threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        self.word = sys.stdin.readline()
        self._said.set()

    def wait(self, seconds: float) -> bool:
        """Return whether the run has ended, after so long at most."""
        return self._said.wait(seconds)


class Follower:
    """Hands over rows of a log that W&B lacks.

    Args:
        run: in W&B, begun.
        folder: of the run.
        kept: what `wandb.json` says.
    """

    def __init__(self, run: wandb.Run, folder: Path, kept: WandbRun) -> None:
        self.run, self.folder, self.kept = run, folder, kept
        if not run.offline:  # the server knows better than we which steps it has
            self.kept = kept.model_copy(update={"sent": run.step - 1})
        self.pause_s = LOOK_EVERY_S

    def look(self) -> None:
        """Hand over the rows that are new."""
        begin = time.perf_counter()
        rows = [row for row in read_log(self.folder / "log.csv") if row["step"] > self.kept.sent]
        for row in rows:
            self.run.log(
                {name: value for name, value in row.items() if name != "step"}, step=int(row["step"])
            )
        if rows:
            self.kept = self.kept.model_copy(update={"sent": int(rows[-1]["step"])})
            self.kept.write(self.folder)
        self.pause_s = max(LOOK_EVERY_S, LOOK_SHARE * (time.perf_counter() - begin))

    def conclude(self) -> None:
        """Hand over the metrics and pictures of a finished run."""
        import wandb

        metrics = json.loads((self.folder / "metrics.json").read_text(encoding="utf-8"))
        self.run.summary["final"] = {key: value for key, value in metrics.items() if key != "curve"}
        pictures = [path for name in PICTURES if (path := self.folder / name).is_file()]
        self.run.log({path.stem: wandb.Image(str(path)) for path in pictures})


def follow(folder: Path, ending: Ending) -> None:
    """Hand over the figures of a run until it ends."""
    kept = read_wandb_run(folder)
    assert kept is not None  # whoever starts this process writes the file
    follower = Follower(_begun(folder, kept), folder, kept)
    has_ended = False
    while not has_ended:
        has_ended = ending.wait(follower.pause_s)
        follower.look()
    is_finished = ending.word == FINISHED
    if is_finished:
        follower.conclude()
    follower.run.finish(exit_code=0 if is_finished else 1)


def _begun(folder: Path, kept: WandbRun) -> wandb.Run:
    """Return the W&B run, begun or continued; offline if that is all that can be had."""
    import wandb

    recipe = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))["recipe"]

    def begin(mode: Any = None) -> wandb.Run:
        return wandb.init(
            project=kept.project, id=kept.id, name=folder.resolve().name, dir=folder,
            resume="allow", config=recipe, mode=mode, settings=wandb.Settings(console="off"),
        )  # fmt: skip

    try:
        run = begin()
    except wandb.Error as error:
        wandb.teardown()  # it holds the id of the run
        log.warning(
            "W&B takes no figures now (%s): they are written to %s; send them later with wandb sync",
            " ".join(str(error).split()),
            folder / "wandb",
        )
        return begin("offline")
    if run.offline:
        log.info("W&B is offline: %s; send it later with wandb sync", Path(run.dir).parent)
    else:
        log.info("W&B: %s", run.url)
    return run


def main() -> None:
    """Follow the run in the folder that the command line names."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        follow(Path(sys.argv[1]), Ending())
    except Exception as error:  # whatever W&B dies of, the training beside must only be told
        log.warning("W&B takes no more figures (%s: %s)", type(error).__name__, " ".join(str(error).split()))
        logging.shutdown()
        os._exit(1)  # what W&B does at the end of a process fails again, at length


if __name__ == "__main__":
    main()
