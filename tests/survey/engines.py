"""Survey of TensorRT-RTX engines: what builds without a GPU, in which precisions, and how large it becomes.

    python tests/survey/engines.py                              # those in NAMES that the table lacks
    python tests/survey/engines.py vit_small_patch14_dinov2 --imgsz 518,518

Models have random weights and one training step; `zoo.export` writes their ONNX files and builds the engines.
The results are `docs/results/engines.json` and, as a table, `docs/results/engines.md`.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
import torch

from zoo.bundle.bundle import write_json
from zoo.card.tables import escaped
from zoo.errors import ExportError
from zoo.export.options import ExportOptions
from zoo.export.pipeline import export_bundle
from zoo.export.to_tensorrt import build_engine, build_targets, load_builder, make_profile, plan_engine
from zoo.machine import cpu_model
from zoo.predictors.artifact import TRT_ONNX_NAMES
from zoo.predictors.backends import versions
from zoo.registry.checks import read_metadata
from zoo.train.loop.hardware import Hardware
from zoo.train.recipe.read import load_recipe
from zoo.train.session import start

if TYPE_CHECKING:
    from collections.abc import Iterable

    from zoo.predictors.artifact import Precision

    Record = dict[str, Any]

NAMES = """
tf_efficientnet_lite0 pvt_v2_b0 deit_tiny_patch16_224 vit_tiny_patch16_224 vit_small_patch14_dinov2
swin_tiny_patch4_window7_224
""".split()  # noqa: SIM905 - one a line takes a page
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
SM = (86, 89, 120)
SETTINGS = ["data.workers=0", "data.batch_l=2", "method.optimizer.encoder_lr_mult=1.0"]
RESULTS = Path(__file__).parents[2] / "docs/results"


def examine(name: str, imgsz: tuple[int, int], folder: Path) -> Iterable[Record]:
    """Yield one record per precision of an encoder."""
    changes = {"network.encoder": name, "pretrained": False, "data.spec": "shapes:4", "data.imgsz": imgsz}
    recipe = load_recipe("supervised_shapes", SETTINGS, 1, {**changes, "validate_every": 0})
    bundle = folder / "run/bundle"
    start(recipe, folder / "run", Hardware("cpu"))
    for precision in PRECISIONS:
        row = {
            "name": name,
            "decoder": recipe.network.decoder.name,
            "imgsz": list(imgsz),
            "precision": precision,
        }
        options = ExportOptions(
            precision=(precision,), int8_for=("trt",), min_agreement=0.0, max_drop=1, calibration_images=8
        )
        try:
            export_bundle(bundle, options)
            yield row | built(bundle / TRT_ONNX_NAMES[precision], imgsz)
        except ExportError as error:
            yield row | {"refused": str(error)}


def built(path: Path, imgsz: tuple[int, int]) -> Record:
    """Return the processor time of a build and the sizes of the ONNX file and the engine."""
    api = load_builder(SM)
    (target,) = build_targets(api, SM)
    planned = plan_engine(
        api, path, read_metadata(onnx.load(path), path), target, make_profile(imgsz, (1, 1, 4))
    )
    begin = time.process_time()
    _, info = build_engine(api, path, planned)
    seconds = time.process_time() - begin
    return {"processor_seconds": seconds, "onnx_bytes": path.stat().st_size, "bytes": info.bytes}


def table(rows: list[Record]) -> str:
    """Return the page of results."""
    sms, version = ", ".join(map(str, SM)), versions()
    head = f"""# TensorRT-RTX engines

`python tests/survey/engines.py`: engines for SM {sms} and batches of 1 to 4, built without a
GPU, of models with random weights (one training step of `supervised` on `shapes`, 7 classes). {cpu_model()},
TensorRT-RTX {version["tensorrt_rtx"]}, torch {version["torch"]}. [JSON](engines.json)

**No engine ran**: the machine has no GPU, so neither speed nor agreement is known. *Processor s*: time of the
build alone, in which waiting does not count, as the machine was shared. TensorRT-RTX compiles the rest when a
GPU first runs a shape.

| encoder | decoder | size | precision | engine | processor s | ONNX MB | engine MB |
|---|---|--:|---|---|--:|--:|--:|
"""
    return head + "".join(f"| {' | '.join(cells(row))} |\n" for row in rows)


def cells(row: Record) -> tuple[str, ...]:
    """Return the cells of a row."""
    size = "x".join(map(str, row["imgsz"]))
    which = (row["name"], row["decoder"], size, row["precision"])
    if "refused" in row:
        return (*which, escaped(f"refused: {row['refused']}"), "", "", "")
    megabytes = (f"{row[key] / 1e6:.1f}" for key in ("onnx_bytes", "bytes"))
    return (*which, "builds", f"{row['processor_seconds']:.1f}", *megabytes)


def main() -> None:
    """Build engines and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="encoders to examine (again); default: all that are missing")
    parser.add_argument("--imgsz", default="256,256", metavar="H,W")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR")
    asked = parser.parse_args()
    height, width = map(int, asked.imgsz.split(","))
    logging.disable(logging.INFO)
    torch.set_num_threads(1)
    path = asked.out / "engines.json"
    rows: list[Record] = json.loads(path.read_text())["engines"] if path.is_file() else []
    done = {row["name"] for row in rows}
    for name in asked.names or [name for name in NAMES if name not in done]:
        with tempfile.TemporaryDirectory(prefix="zoo-engines-") as folder:
            found = list(examine(name, (height, width), Path(folder)))
        rows = [row for row in rows if (row["name"], row["imgsz"]) != (name, [height, width])] + found
        sys.stdout.write("".join(f"{row}\n" for row in found))
        write_json(path, {"versions": versions(), "engines": rows})
        (asked.out / "engines.md").write_text(table(rows))


if __name__ == "__main__":
    main()
