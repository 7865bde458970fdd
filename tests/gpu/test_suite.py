"""The driver of the measurements on a GPU; its commands are small programs but for the last test."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typer.main import get_group

from zoo.child import StopRequests
from zoo.cli import app
from zoo.errors import ZooError
from zoo.serve.bench.measurement import number
from zoo.train.methods.table import METHODS
from zoo.train.recipe.read import default_recipe, load_recipe

if TYPE_CHECKING:
    from collections.abc import Callable

    MakePart = Callable[..., Any]

HERE = Path(__file__).parent
LIMIT_S = 300

PROGRAMS = {
    "good": "open('calls', 'a').write('x'); print(json.dumps({'answer': 42}))",
    "wrong": "sys.exit('error: got none, expected some: do this')",
    "crashing": "print('so far', file=sys.stderr, flush=True); os.kill(os.getpid(), signal.SIGKILL)",
    "endless": "time.sleep(600)",
    "stopping": "os.kill(os.getppid(), signal.SIGINT); time.sleep(600)",
    "leaving": "print(json.dumps({'pid': subprocess.Popen(['sleep', '600']).pid}))",
    "making": "assert not os.path.exists('model'); os.mkdir('model'); open('model/made', 'w').close()",
}
IMPORTS = "import json, os, signal, subprocess, sys, time\n"


@pytest.fixture(scope="module")
def suite() -> Any:
    """Return the driver; pytest puts no folder of tests on the path."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(HERE)
        return importlib.import_module("suite")


@pytest.fixture
def settings(suite: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the settings of an empty folder, the current one, with a module for each of `PROGRAMS`."""
    monkeypatch.chdir(tmp_path)
    for name, program in PROGRAMS.items():
        Path(f"{name}.py").write_text(IMPORTS + program)
    return suite.Settings("cpu", True, None, Path("results"), Path("work"))


@pytest.fixture
def make_part() -> MakePart:
    """Return a builder of parts: name, then the programs that it runs."""
    parts = sys.modules["parts"]

    def make(name: str, *texts: str, **fields: Any) -> Any:
        first, *others = (parts.Command(text) for text in texts or (name,))
        return parts.Part(name, (first._replace(**fields), *others))

    return make


def stored() -> dict[str, Any]:
    """Return the records on disk."""
    return json.loads(Path("results/suite.json").read_text())["parts"]


def test_a_part_that_fails_crashes_or_overruns_leaves_the_others(
    suite: Any, settings: Any, make_part: MakePart
) -> None:
    parts = [make_part(name) for name in ("wrong", "crashing", "good")]
    with pytest.raises(ZooError, match=r"2 of 3 parts are not finished \(wrong, crashing\): read their logs"):
        suite.measure(parts, settings, LIMIT_S)
    with pytest.raises(ZooError, match=r"1 of 1 parts are not finished \(endless\)"):
        suite.measure([make_part("endless")], settings, 1)
    found = stored()
    assert {name: (each["state"], each["reason"]) for name, each in found.items()} == {
        "wrong": ("failed", "got none, expected some: do this"),
        "crashing": ("failed", "killed by SIGKILL; so far"),
        "good": ("finished", ""),
        "endless": ("overran", "ended at its limit of 1 s"),
    }
    assert found["good"]["figures"] == {"answer": 42}
    page = Path("results/README.md").read_text()
    assert "| crashing | failed |" in page
    assert "| endless | overran |" in page


def test_a_finished_part_is_measured_again_only_on_request(
    suite: Any, settings: Any, make_part: MakePart
) -> None:
    for again, calls in ((False, "x"), (False, "x"), (True, "xx")):
        suite.measure([make_part("good")], settings, LIMIT_S, again=again)
        assert Path("calls").read_text() == calls


def test_figures_are_not_replaced_by_a_failure(suite: Any, settings: Any, make_part: MakePart) -> None:
    suite.measure([make_part("good")], settings, LIMIT_S)
    with pytest.raises(ZooError, match="1 of 1 parts are not finished"):
        suite.measure([make_part("good", "wrong")], settings, LIMIT_S, again=True)
    assert stored()["good"]["figures"] == {"answer": 42}


@pytest.mark.parametrize(
    ("name", "state", "is_done"),
    [
        ("train-eln-bf16", "finished", True),
        ("train-eln-bf16", "failed", False),
        ("train-eln-bf16", "overran", True),
        ("compare-0123", "overran", False),
    ],
)
def test_a_part_that_would_overrun_again_waits_for_more_time(
    name: str, state: str, is_done: bool, suite: Any
) -> None:
    record = {"name": name, "state": state, "limit_s": LIMIT_S}
    assert suite.is_done(record, LIMIT_S) == is_done
    assert suite.is_done(record, LIMIT_S + 1) == (state == "finished")


def test_ctrl_c_reaches_the_command_and_ends_the_suite(
    suite: Any, settings: Any, make_part: MakePart
) -> None:
    with pytest.raises(ZooError, match=r"2 of 3 parts are not finished \(stopping, wrong\)"):
        suite.measure([make_part(name) for name in ("good", "stopping", "wrong")], settings, LIMIT_S)
    assert list(stored()) == ["good"]


def test_nothing_that_a_command_started_outlives_it(suite: Any, settings: Any, make_part: MakePart) -> None:
    settings.work.mkdir()
    with StopRequests() as stop:
        record = suite.run_part(make_part("leaving"), settings.work, LIMIT_S, stop)
    status = Path(f"/proc/{record['figures']['pid']}/status")
    assert not status.exists() or "State:\tZ" in status.read_text()


def test_a_model_is_made_once_and_anew_if_it_was_left_half_made(
    suite: Any, settings: Any, make_part: MakePart
) -> None:
    (settings.work / "model").mkdir(parents=True)
    Path("model").mkdir()
    parts = [make_part(name, "making", "good", makes=Path("model/made")) for name in ("first", "second")]
    suite.measure(parts, settings, LIMIT_S)
    assert Path("model/made").is_file()
    assert Path("calls").read_text() == "xx"


def test_a_part_continues_without_what_is_optional(suite: Any, settings: Any, make_part: MakePart) -> None:
    suite.measure([make_part("infer", "wrong", "good", is_optional=True)], settings, LIMIT_S)
    assert stored()["infer"]["figures"] == {"answer": 42}


def test_the_figures_of_a_profile_are_in_the_table(suite: Any) -> None:
    streams = {"labeled": 1, "unlabeled": 2}
    parts = {"student": {"share": 0.75, "peak_mib": 1024.0}, "losses": {"share": 0.25, "peak_mib": 2048.0}}
    figures = {
        "recipe": {"data": {"batch_l": 4, "batch_u": 8}},
        "phases": {"semi": {"streams": streams, "parts": parts, "uncut_step_ms": 200.0}},
    }
    [line] = suite.training_lines({"name": "train-eln-bf16", "figures": figures})
    assert line == ("eln", "bf16", "semi", "20", "200", "100", "2.00", "student 75%, losses 25%")


def test_a_failing_test_is_named(suite: Any) -> None:
    said = "..F\nFAILED tests/test_a.py::test_b - assert 1 == 2\n1 failed, 2 passed in 0.3s\n"
    record = {"name": "tests", "figures": suite.read_figures("tests", said)}
    [section] = suite.other_blocks(record)
    assert section.splitlines()[2:] == [
        "- 1 failed, 2 passed in 0.3s",
        "- FAILED tests/test_a.py::test_b - assert 1 == 2",
    ]


def test_a_broken_record_is_an_error_before_anything_is_measured(
    suite: Any, settings: Any, make_part: MakePart
) -> None:
    settings.out.mkdir()
    (settings.out / "suite.json").write_text("{}")
    with pytest.raises(ZooError, match=r"suite\.json holds no results of a suite"):
        suite.measure([make_part("good")], settings, LIMIT_S)
    assert not Path("calls").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "cpu"], "--device cpu without --quick, expected a GPU"),
        (["--device", "cpu", "--quick", "--parts", "trian-*"], "--parts trian-\\* matches no part"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    options: list[str], message: str, suite: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["suite.py", *options])
    with pytest.raises(ZooError, match=message):
        suite.main()


def test_zoo_takes_every_command_and_every_method_is_measured(suite: Any) -> None:
    parts = suite.plan(suite.Settings("cuda", False, "--data camvid", Path("out"), Path("work")))
    commands = get_group(app).commands  # type: ignore[attr-defined]
    trained = set()
    for command in (command for part in parts[1:] for command in part.commands):
        _, name, *arguments = command.text.split()
        options = commands[name].make_context(name, arguments).params
        if name == "train":
            recipe = options["recipe"] or default_recipe(options["method"], options["data"])
            trained.add(load_recipe(recipe, options["settings"] or ()).method.name)
    assert trained == set(METHODS)


@pytest.mark.parametrize(
    "device", [pytest.param("cpu", marks=pytest.mark.slow), pytest.param("cuda", marks=pytest.mark.gpu)]
)
def test_a_quick_look_measures_every_kind_of_part(device: str, tmp_path: Path) -> None:
    program = [sys.executable, str(HERE / "suite.py"), "--quick", "--device", device]
    program += ["--compare", "--data nowhere"]
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "error: 1 of 4 parts are not finished (compare-" in done.stderr, done.stderr
    assert done.returncode == 1
    [store] = tmp_path.glob("runs/suite/*/results/suite.json")
    tests, training, latency, comparison = json.loads(store.read_text())["parts"].values()
    assert tests["figures"]["failed"] == []
    assert " passed in " in tests["figures"]["summary"]
    assert list(training["figures"]["phases"]) == ["train"]
    assert training["figures"]["recipe"]["network"]["num_classes"] == 21
    assert comparison["reason"].startswith("nowhere: got neither a known data set")

    page = store.with_name("README.md").read_text()
    assert "| supervised | fp32 | train | 2 |" in page
    rows = [row for row in latency["figures"]["rows"] if row["end_to_end_ms"]]
    assert {("eager", 1), ("eager", 2), ("ort", 1), ("ort", 2)} <= {(r["backend"], r["batch"]) for r in rows}
    for row in rows:
        assert f" {number(row['end_to_end_ms']['p50'])} |" in page
