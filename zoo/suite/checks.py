"""The tests that need a GPU, run by pytest, where the tests are at hand: not in an installed package."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from zoo.errors import ZooError
from zoo.suite.record import PACKAGE

if TYPE_CHECKING:
    from zoo.suite.part import Figures, Keep

ROOT = PACKAGE.parent
OUTCOMES = ("failure", "error", "skipped")
REASON_LENGTH = 200


def measure(options: dict[str, Any], device: str, keep: Keep) -> Figures:  # noqa: ARG001
    """Return how many tests `passed`, `failed`, were `skipped`; `failures` and `skips` by name with reasons.

    Args:
        options: `select`, an expression of marks, and `files` to collect.
        device: not used, the tests name theirs.
        keep: told of them also if some failed.

    Raises:
        ZooError: there are no tests here, pytest ran none of them, or some failed.
    """
    if not (ROOT / "tests").is_dir():
        raise ZooError(f"{ROOT} holds no tests, expected a checkout of the repository: leave the part out")
    with tempfile.TemporaryDirectory(prefix="zoo-tests-") as name:
        path = Path(name) / "junit.xml"
        program = [sys.executable, "-m", "pytest", "-q", "-m", options["select"], f"--junitxml={path}"]
        done = subprocess.run(
            [*program, *options["files"]], cwd=ROOT, capture_output=True, text=True, check=False
        )
        figures = read_junit(path) if path.is_file() else {}
    if not any(figures.get(kind) for kind in ("passed", "failed", "skipped")):
        last = (done.stdout + done.stderr).strip().splitlines()[-1:]
        raise ZooError(f"pytest ran no test, it ended with status {done.returncode}: {' '.join(last)}")
    keep(figures)
    if figures["failures"]:
        count = sum(figures[kind] for kind in ("passed", "failed", "skipped"))
        raise ZooError(f"{figures['failed']} of {count} tests failed: {', '.join(figures['failures'])}")
    return figures


def read_junit(path: Path) -> Figures:
    """Return counts and names of what pytest wrote."""
    failures: dict[str, str] = {}
    skips: dict[str, str] = {}
    cases = list(ET.parse(path).getroot().iter("testcase"))
    for case in cases:
        name = f"{case.get('classname')}::{case.get('name')}"
        for outcome in case:
            if outcome.tag in OUTCOMES:
                lines = (outcome.get("message") or "").strip().splitlines()
                kind = skips if outcome.tag == "skipped" else failures
                reason = lines[0] if lines else outcome.tag
                kind[name] = reason.replace(f"{ROOT}/", "")[:REASON_LENGTH]
    return {
        "passed": len(cases) - len(failures) - len(skips),
        "failed": len(failures),
        "skipped": len(skips),
        "failures": failures,
        "skips": skips,
    }
