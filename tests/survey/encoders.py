"""Survey of encoders: training, resume, export, agreement and latency of each, with random weights.

    python tests/survey/encoders.py                    # those in NAMES that the table lacks
    python tests/survey/encoders.py hiera_tiny_224     # one, again
    python tests/survey/encoders.py --latency 512,512  # latencies alone, of all in the table

Each encoder has a process of its own with a limit on its processor time. The results are
`docs/results/encoders.json` and, as a table, `docs/results/encoders.md`, both rewritten after each encoder.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import resource
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import timm
import torch

from zoo.bundle.bundle import write_json
from zoo.card.tables import escaped
from zoo.data.shapes import ShapesSource
from zoo.errors import ZooError
from zoo.export.graph.fold import prepare
from zoo.export.graph.to_onnx import export_onnx
from zoo.export.options import ExportOptions
from zoo.export.pipeline import export_bundle
from zoo.export.untrained import untrained_gate
from zoo.machine import cpu_model
from zoo.models.facts import encoder_facts
from zoo.predictors.artifact import ArtifactMetadata
from zoo.predictors.backends import versions
from zoo.predictors.load import load_predictor
from zoo.train.loop.hardware import Hardware
from zoo.train.loop.validation import predictor_of
from zoo.train.methods.supervised import Supervised
from zoo.train.recipe.read import load_recipe
from zoo.train.session import resume, start

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from multiprocessing.connection import Connection

    from zoo.predictors.base import Predictor

    Record = dict[str, Any]

NAMES = """
resnet18 convnextv2_atto mobilenetv3_large_100 efficientnet_b0 regnety_002 test_vit deit_tiny_patch16_224
eva02_tiny_patch14_224 vit_tiny_patch16_dinov3_qkvb vit_small_patch14_reg4_dinov2 caformer_s18 pvt_v2_b0
tf_efficientnet_lite0 ghostnet_100 repvit_m0_9 starnet_s1 convnext_atto inception_next_atto mambaout_femto
edgenext_xx_small mobilevit_xxs efficientvit_b0 fastvit_t8 hrnet_w18_small dla34 vgg11_bn resnetv2_18
xcit_nano_12_p16_224 pit_ti_224 poolformerv2_s12 swiftformer_xs focalnet_tiny_srf densenet121
vit_base_patch32_siglip_256 hiera_tiny_224 swin_tiny_patch4_window7_224 swinv2_cr_tiny_224
swinv2_tiny_window8_256 maxvit_pico_rw_256 beit_base_patch16_224 coatnet_nano_rw_224 levit_128s
coat_lite_tiny efficientformerv2_s0 gcvit_xxtiny nest_tiny mvitv2_tiny davit_tiny tiny_vit_5m_224
sam2_hiera_tiny convformer_s18 twins_pcpvt_small maxvit_tiny_tf_224 cait_xxs24_224 convit_tiny mixer_s32_224
vit_relpos_small_patch16_224 vit_small_patch14_dinov2 vit_tiny_patch16_224 deit3_small_patch16_224
beitv2_base_patch16_224 nextvit_small volo_d1_224 samvit_base_patch16 resnet50
""".split()  # noqa: SIM905 - one a line takes a page
"""The smallest of each family, and those that users ask for, in the order in which they are examined."""

COLUMNS = (
    *(
        "encoder",
        "family",
        "M parameters",
        "strides",
        "one size",
        "decoder",
        "steps",
        "size",
        "agreement",
        "error",
        "export s",
    ),
    *("eager ms", "ORT", "OpenVINO"),
    *("eager ms, 512x512", "ORT", "OpenVINO"),
)
LEFT = {"encoder", "family", "strides", "one size", "decoder"}
RESULTS = Path(__file__).parents[2] / "docs/results"
CPU = Hardware("cpu")
LIMIT_S = 400
"""Processor time of an encoder: how long that takes depends on what else the machine does."""
STEPS = 2
ROUNDS = 5
SETTINGS = ["data.workers=0", "data.batch_l=2", "method.optimizer.encoder_lr_mult=1.0"]


class PowerCutError(Exception):
    """End of a process after its first step."""


def examine(name: str, imgsz: tuple[int, int], folder: Path, record: Record) -> None:
    """Fill the record of an encoder stage by stage, so that it tells how far the encoder got."""
    facts = encoder_facts(name)
    record |= {"parameters": facts.parameters, "strides": facts.strides, "one_size": facts.size is not None}
    changes = {
        "network.encoder": name,
        "pretrained": False,
        "data.spec": "shapes:4",
        "data.imgsz": imgsz,
        "checkpoint_every": 1,
        "validate_every": 0,
    }
    recipe = load_recipe("supervised_shapes", SETTINGS, STEPS, changes)
    record["decoder"] = recipe.network.decoder.name
    run = folder / "run"
    with mock.patch.object(Supervised, "after_step", _cut), suppress(PowerCutError):
        start(recipe, run, CPU)
    record["steps"] = resume(run, "supervised", CPU)["steps"]
    bundle = run / "bundle"
    begin = time.process_time()
    options = ExportOptions(precision=("fp32",), min_agreement=0.0, output="logits", batch=(1, 1, 2))
    said: list[str] = []
    (artifact,) = export_bundle(bundle, options, said.append).artifacts
    assert artifact.parity is not None
    record |= {
        "export_seconds": time.process_time() - begin,
        "agreement": artifact.parity.agreement,
        "remarks": [line for line in said if line.startswith("warning")],
    }
    eager = load_predictor(bundle, backend="eager", threads=1)
    record |= compared(eager, bundle / artifact.name, imgsz)


def _cut(method: Supervised, progress: Any) -> None:  # noqa: ARG001
    if progress.step == 1:
        raise PowerCutError


def compared(eager: Predictor, onnx: Path, imgsz: tuple[int, int]) -> Record:
    """Return the error of the exported logits, and the median processor time of an image in each backend.

    The error is the largest difference from eager, as a share of the range of the logits, at a size that no
    stride or patch divides and at `imgsz`. The backends run one thread, in turns; each one's first run is not
    counted.
    """
    predictors = {"eager": eager}
    predictors |= {name: load_predictor(onnx, backend=name, threads=1) for name in ("ort", "openvino")}
    ort = predictors["ort"]
    errors = []
    for height, width in ((imgsz[0] * 4 // 5 | 1, imgsz[1] * 9 // 10 | 1), imgsz):
        image = np.random.default_rng(0).integers(256, size=(1, height, width, 3), dtype=np.uint8)
        expected, got = (each.infer(image, ("logits",))["logits"] for each in (eager, ort))
        errors.append(float(np.abs(expected - got).max() / np.ptp(expected)))
    times: dict[str, list[float]] = {backend: [] for backend in predictors}
    for _ in range(1 + ROUNDS):
        for backend, each in predictors.items():
            begin = time.process_time()
            each.run(image)
            times[backend].append(time.process_time() - begin)
    return {
        "error_odd": errors[0],
        "error": errors[1],
        "ms": {backend: 1000 * median(seconds[1:]) for backend, seconds in times.items()},
    }


def latency(name: str, imgsz: tuple[int, int], folder: Path, record: Record) -> None:
    """Add the latencies of an untrained encoder to its record, exported without comparing masks."""
    changes = {"network.encoder": name, "pretrained": False, "data.spec": "shapes:4", "data.imgsz": imgsz}
    source = ShapesSource()
    recipe = load_recipe("supervised_shapes", SETTINGS, STEPS, changes).for_classes(len(source.classes))
    eager = predictor_of(recipe.new_method(), recipe, source)
    metadata = ArtifactMetadata(
        names=eager.classes.names,
        palette=eager.classes.palette,
        preprocessing=recipe.preprocessing,
        precision="fp32",
        output="logits",
        weights_sha256="",
    )
    prepared = prepare(eager.model.deployable, torch.rand(1, 3, *imgsz), untrained_gate())
    export_onnx(prepared.deployable, metadata, folder / "model.onnx")
    record |= compared(eager, folder / "model.onnx", imgsz)


def examine_and_send(
    name: str, imgsz: tuple[int, int], to: Connection, work: Callable[..., None] = examine
) -> None:
    """Send the record of an encoder, which says how far it got."""
    resource.setrlimit(resource.RLIMIT_CPU, (LIMIT_S, LIMIT_S))
    logging.disable(logging.INFO)
    record: Record = {"name": name, "imgsz": f"{imgsz[0]},{imgsz[1]}"}
    try:
        with tempfile.TemporaryDirectory(prefix="zoo-survey-") as folder:
            work(name, imgsz, Path(folder), record)
    except ZooError as error:
        record["refused"] = str(error)
    except Exception as error:
        record["failed"] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    to.send(record | {"seconds": time.process_time()})


def survey(name: str, imgsz: tuple[int, int], work: Callable[..., None] = examine) -> Record:
    """Return the record of an encoder, examined in a process of its own, a copy of this one."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=examine_and_send, args=(name, imgsz, there, work))
    process.start()
    there.close()
    try:
        record: Record = here.recv()
    except EOFError:
        process.join()
        limits = (-signal.SIGXCPU, -signal.SIGKILL)
        is_late = process.exitcode in limits
        reason = (
            f"not finished in {LIMIT_S} s of processor time" if is_late else f"ended with {process.exitcode}"
        )
        return {"name": name, "failed": reason}
    process.join()
    return record


def warm_up() -> None:
    """Load the exporter, so that processes that are copies of this one need not."""
    torch.onnx.export(torch.nn.Identity(), (torch.zeros(1),), dynamo=True, verbose=False)


def family(name: str) -> str:
    """Return timm's module of a model."""
    return timm.models._registry._model_to_module[name]  # type: ignore[attr-defined,no-any-return]


def is_current(record: Record) -> bool:
    """Return whether a record has processor times, and not those of the clock, as earlier ones."""
    return "clock" not in record


def stage(record: Record) -> str:
    """Return the stage at which an encoder did not get through."""
    return "export" if "steps" in record else "training" if "decoder" in record else "recipe"


def reason(record: Record) -> str:
    """Return why an encoder did not get through, for a cell of a table."""
    return escaped(record.get("refused") or record["failed"])


def speeds(ms: dict[str, float] | str | None, mark: str = "") -> tuple[str, ...]:
    """Return table cells: the latency of eager in ms, and the speed-ups of ONNX Runtime and OpenVINO."""
    if not isinstance(ms, dict):
        return ms or "", "", ""
    eager = ms["eager"]
    return f"{eager:.0f}", *(f"{eager / ms[key]:.2f}x{mark}" for key in ("ort", "openvino"))


def table(records: Sequence[Record]) -> str:
    """Return the page of results."""
    good = [record for record in records if "ms" in record]
    bad = [record for record in records if "ms" not in record]
    families = {family(record["name"]) for record in good}
    head = f"""# Encoders

`python tests/survey/encoders.py`: {len(good)} encoders of {len(families)} families with
random weights, each through two training steps of `supervised` on `shapes` with a resume after the first,
strip, export to ONNX in fp32 and comparison with the bundle; {len(bad)} did not get through. {cpu_model()}.
**The machine was shared with other work**: the times are processor time of one thread, in which waiting does
not count, and their ratios come from one run that alternates the backends. [JSON](encoders.json)

*One size*: images are resized inside to the size of the training crop. *Steps*: training steps, the second
after a resume. *Size*: of the images. *Agreement*: share of pixels with the class of the bundle, at the worst
of the sizes and batches that `zoo export` compares, with a batch of 2. *Error*: largest difference of a
logit, as a share of their range, at the worse of the size and one that no stride or patch divides. *Export
s*: processor time of `zoo export`. *ORT* and *OpenVINO*: speed-up over eager PyTorch at batch 1, medians of
{ROUNDS} runs, at *size* and, for an untrained network, at 512x512 (`--latency 512,512`). *(wall)*: rows
timed by the clock while other work ran and not all compared at a batch of 2; the command above measures them
again.
"""
    rule = ["---" if name in LEFT else "--:" for name in COLUMNS]
    lines = [head, f"| {' | '.join(COLUMNS)} |", f"|{'|'.join(rule)}|"]
    for each in good:
        mark = "" if is_current(each) else " (wall)"
        cells = (
            each["name"],
            family(each["name"]),
            f"{each['parameters'] / 1e6:.1f}",
            ", ".join(map(str, each["strides"])),
            "yes" if each["one_size"] else "",
            each["decoder"],
            f"{each['steps']}",
            each["imgsz"].replace(",", "x"),
            f"{each['agreement']:.3%}",
            f"{max(each['error'], each['error_odd']):.0e}",
            f"{each['export_seconds']:.0f}",
            *speeds(each["ms"], mark),
            *speeds(each.get("latency", {}).get("512,512")),
        )
        lines.append(f"| {' | '.join(cells)} |")
    if remarks := [f"- `{each['name']}`: {remark}" for each in good for remark in each["remarks"]]:
        lines += ["", "## Remarks of the export", "", *remarks]
    if bad:
        reasons = [f"| {each['name']} | {stage(each)} | {reason(each)} |" for each in bad]
        lines += ["", "## Refused", "", "| encoder | at | reason |", "|---|---|---|", *reasons]
    return "\n".join([*lines, ""])


def main() -> None:
    """Examine encoders and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="encoders to examine (again); default: all that are missing")
    parser.add_argument("--imgsz", default="256,256", metavar="H,W")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR")
    parser.add_argument("--latency", metavar="H,W", help="latency alone, of those in the table")
    asked = parser.parse_args()
    height, width = map(int, (asked.latency or asked.imgsz).split(","))
    torch.set_num_threads(1)
    warm_up()
    path = asked.out / "encoders.json"
    before = json.loads(path.read_text())["encoders"] if path.is_file() else []
    records = {record["name"]: record for record in before}
    size = f"{height},{width}"
    timed = [name for name, each in records.items() if "ms" in each and size not in each.get("latency", {})]
    missing = [name for name in NAMES if name not in records or not is_current(records[name])]
    for name in asked.names or (timed if asked.latency else missing):
        found = survey(name, (height, width), latency if asked.latency else examine)
        if asked.latency:
            records[name].setdefault("latency", {})[size] = found.get("ms") or reason(found)
        else:
            records[name] = found
        sys.stdout.write(f"{records[name]}\n")
        rows = sorted(records.values(), key=lambda record: (family(record["name"]), record["name"]))
        write_json(path, {"versions": versions(), "encoders": rows})
        (asked.out / "encoders.md").write_text(table(rows))


if __name__ == "__main__":
    main()
