"""Bulk prediction on a Ray cluster with Ray Data; every machine must see the same folders."""

from __future__ import annotations

import json
import math
import re
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import ZooError
from zoo.predict.bulk import Bulk
from zoo.predict.journal import Journal
from zoo.predict.outputs import Job, Result
from zoo.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

AT_ONCE = 64
"""Images passed to an actor per call; it reads ahead and batches them."""


class Actor(Bulk):
    """Process of the cluster that predicts images and writes their results.

    Args:
        model: a bundle folder or an artifact, the same path on every machine.
        device: `cpu` or `cuda`.
        out: absolute path of the output folder.
        kinds: kinds of the requested results.
        jobs: all images.
        batch: images per batch; None selects it automatically.
    """

    def __init__(
        self,
        model: Path | str,
        device: str,
        out: Path,
        kinds: Sequence[str],
        jobs: Sequence[Job],
        batch: int | None,
    ) -> None:
        from zoo.predictors.load import load_predictor

        super().__init__(load_predictor(model, device=device, threads=1), out, kinds, Journal(out, {}))
        self.jobs = jobs
        self.batch = batch

    def __call__(self, rows: dict[str, NDArray[Any]]) -> dict[str, list[str]]:
        """Write the outputs of some images to temporary files and return the results as JSON.

        Args:
            rows: `id`: indices of the images among the jobs.
        """
        from zoo.predict.stream import stream

        jobs = [self.jobs[index] for index in rows["id"]]
        places = {self.jobs[index].name: int(index) for index in rows["id"]}
        results = stream(self.predictor, jobs, lambda job: job.input.read(), self._options(self.batch))
        records = []
        with closing(results):
            for result in results:
                self._check(result)
                records.append([places[result.item.name], *self._finish(result)])
        return {"result": [json.dumps(record) for record in records]}


class BulkOnRay(Bulk):
    """`Bulk` on the running Ray cluster, or on a local one, with one actor per core or GPU.

    Args:
        model: a bundle folder or an artifact, the same path on every machine.
        device: `cpu` or `cuda`.
        bulk: local `Bulk` whose predictor, folder, kinds and journal are used.
    """

    def __init__(self, model: Path | str, device: str, bulk: Bulk) -> None:
        super().__init__(bulk.predictor, bulk.out, bulk.kinds, bulk.journal)
        self.model = model.resolve() if isinstance(model, Path) else model
        self.device = device

    def run(self, jobs: Sequence[Job], batch: int | None = None) -> None:
        """Predict images; an image that fails is added to `failures` and does not stop the others.

        Args:
            jobs: images to predict.
            batch: images per batch; None selects it automatically.

        Raises:
            ZooError: Ray is not installed, the model does not run on a machine of the cluster, or a result
                cannot be written there.
        """
        from zoo.serve.server.ray.cluster import check_installed, connected

        check_installed()
        if not jobs:
            return
        with connected():
            from ray.exceptions import RayError

            try:
                self.journal.start()  # removes old temporary files, so before new ones exist
                with Progress(len(jobs)) as progress:
                    for job, result in self._results(jobs, batch):
                        self._add(job, result)
                        progress.advance()
            except RayError as error:
                raise ZooError(
                    f"an actor failed after {self.done:,} of {len(jobs):,} images ({_reason(error)}), "
                    f"expected the model, the images and {self.out} on every machine: run the same command "
                    f"again, it resumes from here"
                ) from error

    def _results(self, jobs: Sequence[Job], batch: int | None) -> Iterator[tuple[Job, Result]]:
        """Yield each image and its result once its outputs are written, in any order."""
        import ray
        from ray.data import ActorPoolStrategy, DataContext, from_items

        DataContext.get_current().enable_progress_bars = False
        on_gpu = self.device == "cuda"
        there = ray.cluster_resources().get("GPU" if on_gpu else "CPU", 1)
        blocks = math.ceil(len(jobs) / AT_ONCE)
        rows = from_items([{"id": index} for index in range(len(jobs))], override_num_blocks=blocks)
        given = (self.model, self.device, self.out.resolve(), self.kinds, jobs, batch)
        done = rows.map_batches(
            Actor,
            fn_constructor_args=given,
            batch_size=AT_ONCE,
            compute=ActorPoolStrategy(size=max(1, min(blocks, int(there)))),
            num_cpus=1,
            num_gpus=1 if on_gpu else 0,
        )
        for row in done.iter_rows():
            index, record, files = json.loads(row["result"])
            yield jobs[index], Result(record, files)


def _reason(error: Exception) -> str:
    """Return the error line of a remote traceback, without the text that Ray adds."""
    lines = str(error).strip().splitlines()
    named = [line.strip() for line in lines if re.match(r"\s*(?!ray\.)[\w.]+(Error|Exception): ", line)]
    return (named or lines or [type(error).__name__])[-1]
