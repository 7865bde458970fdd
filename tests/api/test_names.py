"""The names of `zoo`: functions that share their name with a package, and defaults shared with commands."""

from __future__ import annotations

import inspect
import subprocess
import sys
from importlib import import_module
from typing import Any

import pytest
import typer

import zoo
from zoo.api import benchmark, compare, evaluate, export, fit, predict, serve
from zoo.cli import app

COMMANDS: Any = typer.main.get_command(app).commands  # type: ignore[attr-defined]

RENAMED = {
    "from": "start_from",
    "set": "settings",
    "compile_": "compile",
    "models": "model",
    "arguments": "model",
    "output": "outputs",
}
"""Options whose parameter has another name."""

ONLY_COMMANDS = {
    "as_json",  # results are objects
    "plan",
    "profile",
    "verify",
    "resume",  # Run.resume
    "confidence",  # outputs=["confidence"]
    "ray",
    "host",
    "port",
    "grpc_port",
    "workers",
    "ssl_certfile",
    "ssl_keyfile",
    "json_logs",
    "replicas",
    "gpus",
    "cpus",
    "help",
}
"""Options that only commands have."""

FUNCTIONS = {
    "train": fit.fit,
    "compare": compare.compare,
    "evaluate": evaluate.evaluate,
    "export": export.export,
    "bench": benchmark.benchmark,
    "predict": predict.predict,
    "serve": serve.serve,
}

OTHER_DEFAULTS = {("predict", "out"), ("bench", "batch")}
"""The command writes files where the function returns masks; batch sizes are text there."""


@pytest.mark.parametrize("command", FUNCTIONS)
def test_every_option_of_a_command_is_a_parameter_with_its_default(command: str) -> None:
    parameters = inspect.signature(FUNCTIONS[command]).parameters
    own = {option.name: option for option in COMMANDS[command].params}
    for name, option in own.items():
        if name in ONLY_COMMANDS and name not in parameters:
            continue
        found = next((each for each in (name, RENAMED.get(name)) if each in parameters), None)
        assert found is not None, f"{command} --{name} has no parameter"
        ours = parameters[found].default
        if ours is not inspect.Parameter.empty and (command, name) not in OTHER_DEFAULTS:
            assert (option.default or None) == (ours or None), f"{command} --{name}"


@pytest.mark.parametrize("name", sorted(set(zoo.__all__) - {"__version__"}))
def test_every_name_is_there_and_documented(name: str) -> None:
    found = getattr(zoo, name)
    assert callable(found)
    assert found.__doc__
    assert name in dir(zoo)


@pytest.mark.parametrize("name", ["predict", "serve"])
def test_a_package_is_called_as_the_function_of_its_name(name: str) -> None:
    program = (
        f"import zoo.{name}; first = zoo.{name}; import zoo.{name}; from zoo import {name}; "
        f"print(first is zoo.{name} is {name}, callable(first), first.__name__)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["True", "True", f"zoo.{name}"]
    package, function = import_module(f"zoo.{name}"), getattr(import_module(f"zoo.api.{name}"), name)
    assert inspect.signature(package) == inspect.signature(function)


def test_a_run_and_a_bundle_are_paths(tmp_path: Any) -> None:
    from pathlib import Path

    from zoo.api.bundle import Trained

    assert Path(Trained(tmp_path)) == tmp_path
