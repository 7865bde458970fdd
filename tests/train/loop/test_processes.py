"""Two processes on the CPU, each with its part of every batch."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
import torch

from zoo.train.loop.checkpoint import load_checkpoint
from zoo.train.runs.folder import RunFolder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.slow

PATIENCE_S = 600

SCRIPT = """
import json
import sys
from pathlib import Path

import torch

from zoo.data.open import open_source
from zoo.data.partition import make_partition
from zoo.train.loop.engine import Engine
from zoo.train.data.loaders import BatchStream
from zoo.train.recipe.read import load_recipe
from zoo.train.methods.table import build_method
from zoo.train.runs.folder import RunFolder
from zoo.train.loop.hardware import Hardware

fabric = Hardware("cpu", 2).fabric("fp32")
rank, world = fabric.global_rank, fabric.world_size
for folder, settings in json.loads(sys.argv[1]).items():
    out = Path(folder)
    recipe = load_recipe(str(out / "recipe.toml"), ["network.num_classes=3", *settings])
    source = open_source(recipe.data.spec)
    partition = make_partition(source, recipe.data.partition, recipe.seed)
    torch.manual_seed(rank)  # other random weights: both start from those of the first process
    method = build_method(recipe.method, recipe.network, pretrained=False)
    engine = Engine(fabric, method, recipe, RunFolder(out), lambda *_: {"val/miou": 0.0})
    engine.fit(BatchStream(recipe, source, partition, engine.phases, rank=rank, world=world))
    torch.save(dict(method.named_parameters()), out / f"rank-{rank}.pt")
"""

CASES: dict[str, tuple[str, list[str]]] = {
    "eln": ("", []),
    "eln-accumulating": ("", ["accumulate=2"]),
    "rrn": ('name = "rrn"\ncross_steps = 3\ndiscriminator = {width = 4, cell = 1}', []),
    "s4gan": ('name = "s4gan"\ndiscriminator = {width = 4}', []),
}
"""Method table, or that of the tiny recipe, and settings."""


def zoo(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Return both outputs; end the whole group if it hangs."""
    try:
        return process.communicate(timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise


def train(recipe: Path, run: Path, *more: str) -> subprocess.Popen[str]:
    options = ("--recipe", recipe, "--out", run, "--device", "cpu", "--devices", "2", "--json")
    return zoo("-m", "zoo", "train", "eln", "--no-export-check", *options, *more)


@pytest.fixture(scope="module")
def trained(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs of all cases, trained one after the other by the same two processes."""
    folder = tmp_path_factory.mktemp("cases")
    before, table, eln = tiny_recipe.read_text().partition("[method]\n")
    for name, (method, _) in CASES.items():
        (folder / name).mkdir()
        (folder / name / "recipe.toml").write_text(before + table + (method or eln))
    script = folder / "script.py"
    script.write_text(SCRIPT)
    settings = {str(folder / name): more for name, (_, more) in CASES.items()}
    process = zoo(script, json.dumps(settings))
    _, err = finish(process)
    assert process.returncode == 0, err
    return folder


@pytest.mark.parametrize("case", CASES)
def test_both_processes_end_with_the_same_weights(case: str, trained: Path) -> None:
    first, second = (torch.load(trained / case / f"rank-{rank}.pt") for rank in (0, 1))
    assert [name for name, value in first.items() if not torch.equal(value, second[name])] == []
    assert load_checkpoint(trained / case / "last.ckpt")["step"] == 10


def test_the_command_reports_once_and_keeps_one_step(tiny_recipe: Path, tmp_path: Path) -> None:
    select = ("--select-on", "2", "--set", "validate_every=2")
    apart = ("--set", "compute.sync_batch_norm=false")  # then processes differ in what they evaluate
    process = train(tiny_recipe, tmp_path / "run", *select, *apart)
    out, err = finish(process)
    assert process.returncode == 0, err
    assert json.loads(out)["steps"] == 10
    assert json.loads(out)["selected"]["on"] == "2"
    assert "Traceback" not in err
    assert "error" not in err


@pytest.mark.parametrize("send", [os.kill, os.killpg])
def test_processes_stop_at_one_step_whoever_is_asked_to(
    send: Callable[[int, int], None], tiny_recipe: Path, tmp_path: Path
) -> None:
    run = RunFolder(tmp_path / "run")
    process = train(tiny_recipe, run.path, "--set", "steps=200", "--set", "checkpoint_every=1")
    deadline = time.monotonic() + PATIENCE_S
    while not run.checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    send(process.pid, signal.SIGTERM)
    _, err = finish(process)
    assert process.returncode == 1, err
    step = load_checkpoint(run.checkpoint)["step"]
    assert f"stopped after step {step} of 200" in err


DOUBLE = """
from zoo.cli import main
from zoo.predictors.eager import EagerPredictor
from zoo.train.loop import hardware, validation

hardware.PRECISIONS["fp32"] = "64-true"
validation.EagerPredictor = lambda network, *others: EagerPredictor(network.float(), *others)
main()
"""
"""`zoo` that trains in float64, in which two orders of the same sums stay together for many steps."""
WHOLE_IMAGES = ["data.resize=stretch", "data.augment.scale=[1, 1]"]
"""Images without padding: each process has as many pixels with a label as the other."""
NO_DROPOUT = [f"network.dropout.{place}=0" for place in ("aspp", "fuse_1", "fuse_2")]


def supervised(run: Path, folder: Path, *options: object) -> list[object]:
    descent = ["method.optimizer.name=sgd", "method.optimizer.lr=0.01"]
    small = ["network.encoder=test_resnet", "data.imgsz=[32, 32]"]
    settings = [*WHOLE_IMAGES, *NO_DROPOUT, *descent, *small]
    return [
        *(
            "train",
            "supervised",
            "--data",
            folder,
            "--out",
            run,
            "--device",
            "cpu",
            "--json",
            "--no-export-check",
        ),
        *(
            "--no-pretrained",
            "--partition",
            8,
            "--steps",
            20,
            "--set",
            "validate_every=0",
            "--set",
            "data.workers=0",
        ),
        *(part for setting in settings for part in ("--set", setting)),
        *options,
    ]


def torchrun(machines: int, machine: int, port: int, arguments: list[object]) -> subprocess.Popen[str]:
    """Start one machine's part of a run of one process a machine, all of them here."""
    return zoo(
        *("-m", "torch.distributed.run", "--nnodes", machines, "--node-rank", machine, "--nproc-per-node", 1),
        *("--master-addr", "127.0.0.1", "--master-port", port),
        *arguments,
    )


def weights(run: Path) -> dict[str, torch.Tensor]:
    return {name: value.double() for name, value in load_checkpoint(run / "last.ckpt")["method"].items()}


def test_two_processes_and_two_machines_equal_one_process_at_the_same_global_batch(
    tiny_folder: Path, tmp_path: Path
) -> None:
    script, port = tmp_path / "double.py", free_port()
    script.write_text(DOUBLE)
    both = [script, *supervised(tmp_path / "machines", tiny_folder, "--batch", 2)]
    started = [
        zoo(script, *supervised(tmp_path / "one", tiny_folder, "--batch", 4)),
        zoo(script, *supervised(tmp_path / "two", tiny_folder, "--batch", 2, "--devices", 2)),
        *(torchrun(2, machine, port, both) for machine in range(2)),
    ]
    outputs = [finish(process) for process in started]
    for process, (_, err) in zip(started, outputs, strict=True):
        assert process.returncode == 0, err
    one, two, machines = (weights(tmp_path / name) for name in ("one", "two", "machines"))
    assert max(float((one[name] - value).abs().max()) for name, value in two.items()) < 1e-10
    assert max(float((two[name] - value).abs().max()) for name, value in machines.items()) == 0
    assert [bool(out) for out, _ in outputs] == [True, True, True, False]  # the second machine is silent
    record = json.loads((tmp_path / "machines/run.json").read_text())
    assert record["attempts"][-1]["machine"]["devices"] == 2


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
