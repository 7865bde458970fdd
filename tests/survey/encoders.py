"""Survey of encoders: training, resume, export, agreement and latency of each, with random weights.

    python tests/survey/encoders.py                    # every encoder in NAMES that is not yet in the table
    python tests/survey/encoders.py hiera_tiny_224     # one, again

Each encoder has a process of its own with a time limit. The results are `docs/results/encoders.json` and, as
a table, `docs/results/encoders.md`, both rewritten after each encoder.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
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
from zoo.errors import ZooError
from zoo.export.options import ExportOptions
from zoo.export.pipeline import export_bundle
from zoo.machine import cpu_model
from zoo.models.facts import encoder_facts
from zoo.predictors.load import load_predictor
from zoo.serve.bench.machine import versions
from zoo.serve.bench.timing import Budget, in_turns, settled
from zoo.train.loop.hardware import Hardware
from zoo.train.methods.supervised import Supervised
from zoo.train.recipe.read import load_recipe
from zoo.train.session import resume, start

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from multiprocessing.connection import Connection

    Record = dict[str, Any]

NAMES = """
resnet18 resnet50 resnetv2_18 mobilenetv3_large_100 efficientnet_b0 tf_efficientnet_lite0 regnety_002
densenet121 dla34 hrnet_w18_small vgg11_bn ghostnet_100 repvit_m0_9 starnet_s1 convnext_atto
convnextv2_atto inception_next_atto fastvit_t8 mambaout_femto focalnet_tiny_srf edgenext_xx_small
mobilevit_xxs efficientvit_b0 swiftformer_xs nextvit_small poolformerv2_s12 caformer_s18 convformer_s18
pvt_v2_b0 twins_pcpvt_small davit_tiny tiny_vit_5m_224 mvitv2_tiny sam2_hiera_tiny hiera_tiny_224
swin_tiny_patch4_window7_224 swinv2_tiny_window8_256 swinv2_cr_tiny_224 maxvit_pico_rw_256
maxvit_tiny_tf_224 coatnet_nano_rw_224 gcvit_xxtiny efficientformerv2_s0 coat_lite_tiny nest_tiny
levit_128s pit_ti_224 test_vit vit_tiny_patch16_224 deit_tiny_patch16_224 deit3_small_patch16_224
beit_base_patch16_224 beitv2_base_patch16_224 eva02_tiny_patch14_224 vit_small_patch14_dinov2
vit_small_patch14_reg4_dinov2 vit_small_patch16_dinov3 vit_base_patch16_siglip_224 xcit_nano_12_p16_224
cait_xxs24_224 volo_d1_224 vit_relpos_small_patch16_224 samvit_base_patch16 convit_tiny mixer_s32_224
""".split()  # noqa: SIM905 - one a line takes a page
COLUMNS = (
    *(
        "encoder",
        "family",
        "M parameters",
        "strides",
        "one size",
        "decoder",
        "agreement",
        "error",
        "export s",
    ),
    *("eager ms", "ORT", "OpenVINO"),
)
LEFT = {"encoder", "family", "strides", "one size", "decoder"}
RESULTS = Path(__file__).parents[2] / "docs/results"
CPU = Hardware("cpu")
LIMIT_S = 420
STEPS = 2
ROUNDS = Budget(0, 1)
"""One counted run in each round."""
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
    begin = time.perf_counter()
    options = ExportOptions(precision=("fp32",), min_agreement=0.0, output="logits", batch=(1, 1, 1))
    said: list[str] = []
    (artifact,) = export_bundle(bundle, options, said.append).artifacts
    assert artifact.parity is not None
    record |= {
        "export_seconds": time.perf_counter() - begin,
        "agreement": artifact.parity.agreement,
        "remarks": [line for line in said if line.startswith("warning")],
    }
    record |= compared(bundle, bundle / artifact.name, imgsz)


def _cut(method: Supervised, progress: Any) -> None:  # noqa: ARG001
    if progress.step == 1:
        raise PowerCutError


def compared(bundle: Path, onnx: Path, imgsz: tuple[int, int]) -> Record:
    """Return the error of the exported logits, and the median milliseconds of an image in each backend.

    The error is the largest difference from eager, as a share of the range of the logits, at a size that no
    stride or patch divides and at `imgsz`. The backends run one thread, in turns.
    """
    predictors = {
        backend: load_predictor(path, backend=backend, threads=1)
        for backend, path in (("eager", bundle), ("ort", onnx), ("openvino", onnx))
    }
    eager, ort, _ = predictors.values()
    errors = []
    for height, width in ((imgsz[0] * 4 // 5 | 1, imgsz[1] * 9 // 10 | 1), imgsz):
        image = np.random.default_rng(0).integers(256, size=(1, height, width, 3), dtype=np.uint8)
        expected, got = (each.infer(image, ("logits",))["logits"] for each in (eager, ort))
        errors.append(float(np.abs(expected - got).max() / np.ptp(expected)))
    turns: list[Callable[[Budget], list[float]]] = [
        lambda share, each=each: settled(lambda: each.run(image), share)  # type: ignore[misc]
        for each in predictors.values()
    ]
    rounds = in_turns(turns, ROUNDS, lambda _: None)
    times = {
        name: 1000 * median(seconds for turn in of_one for seconds in turn)
        for name, of_one in zip(predictors, rounds, strict=True)
    }
    return {"error_odd": errors[0], "error": errors[1], "ms": times}


def examine_and_send(name: str, imgsz: tuple[int, int], to: Connection) -> None:
    """Send the record of an encoder, which says how far it got."""
    logging.disable(logging.INFO)
    record: Record = {"name": name}
    begin = time.perf_counter()
    try:
        with tempfile.TemporaryDirectory(prefix="zoo-survey-") as folder:
            examine(name, imgsz, Path(folder), record)
    except ZooError as error:
        record["refused"] = str(error)
    except Exception as error:
        record["failed"] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    to.send(record | {"seconds": time.perf_counter() - begin})


def survey(name: str, imgsz: tuple[int, int]) -> Record:
    """Return the record of an encoder, examined in a process of its own, a copy of this one."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=examine_and_send, args=(name, imgsz, there))
    process.start()
    there.close()
    record: Record = {"name": name, "failed": f"not finished in {LIMIT_S} s"}
    try:
        if here.poll(LIMIT_S):
            record = here.recv()
    except EOFError:
        process.join()
        record["failed"] = f"its process ended with {process.exitcode}"
    process.kill()
    process.join()
    return record


def warm_up() -> None:
    """Load the exporter, so that processes that are copies of this one need not."""
    torch.onnx.export(torch.nn.Identity(), (torch.zeros(1),), dynamo=True, verbose=False)


def family(name: str) -> str:
    """Return timm's module of a model."""
    return timm.models._registry._model_to_module[name]  # type: ignore[attr-defined,no-any-return]


def table(records: Sequence[Record], size: str) -> str:
    """Return the page of results."""
    good = [record for record in records if "ms" in record]
    bad = [record for record in records if "ms" not in record]
    families = {family(record["name"]) for record in good}
    head = f"""# Encoders

`python tests/survey/encoders.py --imgsz {size}`: {len(good)} encoders of {len(families)} families with
random weights, each through two training steps of `supervised` on `shapes` with a resume after the first,
strip, export to ONNX in fp32 and comparison with the bundle; {len(bad)} did not get through. {cpu_model()},
one thread, on a machine with other work: compare the ratios, not the milliseconds. [JSON](encoders.json)

*One size*: images are resized inside to the size of the training crop. *Agreement*: share of pixels with the
class of the bundle, at the worst of the sizes that `zoo export` compares. *Error*: largest difference of a
logit, as a share of their range, at the worse of {size.replace(",", "x")} and a size that no stride or patch
divides. *ORT* and *OpenVINO*: speed-up over eager PyTorch at batch 1, medians of ten runs in turns.
"""
    rule = ["---" if name in LEFT else "--:" for name in COLUMNS]
    lines = [head, f"| {' | '.join(COLUMNS)} |", f"|{'|'.join(rule)}|"]
    for each in good:
        eager, ort, openvino = (each["ms"][key] for key in ("eager", "ort", "openvino"))
        cells = (
            each["name"],
            family(each["name"]),
            f"{each['parameters'] / 1e6:.1f}",
            ", ".join(map(str, each["strides"])),
            "yes" if each["one_size"] else "",
            each["decoder"],
            f"{each['agreement']:.3%}",
            f"{max(each['error'], each['error_odd']):.0e}",
            f"{each['export_seconds']:.0f}",
            f"{eager:.0f}",
            f"{eager / ort:.2f}x",
            f"{eager / openvino:.2f}x",
        )
        lines.append(f"| {' | '.join(cells)} |")
    if remarks := [f"- `{each['name']}`: {remark}" for each in good for remark in each["remarks"]]:
        lines += ["", "## Remarks of the export", "", *remarks]
    if bad:
        reasons = [f"| {each['name']} | {each.get('refused') or each['failed']} |" for each in bad]
        lines += ["", "## Refused", "", "| encoder | reason |", "|---|---|", *reasons]
    return "\n".join([*lines, ""])


def main() -> None:
    """Examine encoders and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="encoders to examine (again); default: all that are missing")
    parser.add_argument("--imgsz", default="128,128", metavar="H,W")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR")
    asked = parser.parse_args()
    height, width = map(int, asked.imgsz.split(","))
    torch.set_num_threads(1)
    warm_up()
    path = asked.out / "encoders.json"
    found = json.loads(path.read_text())["encoders"] if path.is_file() else []
    records = {record["name"]: record for record in found}
    for name in asked.names or [name for name in NAMES if name not in records]:
        records[name] = survey(name, (height, width))
        sys.stdout.write(f"{records[name]}\n")
        rows = sorted(records.values(), key=lambda record: (family(record["name"]), record["name"]))
        write_json(path, {"imgsz": asked.imgsz, "versions": versions(), "encoders": rows})
        (asked.out / "encoders.md").write_text(table(rows, asked.imgsz))


if __name__ == "__main__":
    main()
