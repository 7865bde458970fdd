from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from zoo.errors import ZooError
from zoo.suite import checks

if TYPE_CHECKING:
    from pathlib import Path

TESTS = """
import pytest

def test_good():
    pass

def test_bad():
    assert 1 == 2, "one is\\nnot two"

@pytest.mark.skip(reason="no GPU")
def test_skipped():
    pass

@pytest.fixture
def broken():
    raise RuntimeError("broken")

def test_with_broken(broken):
    pass

@pytest.mark.slow
def test_slow():
    pass
"""


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return the options of a part whose tests lie in a folder of their own."""
    monkeypatch.setattr(checks, "ROOT", tmp_path)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # they take seconds to load
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = slow\n")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_them.py").write_text(TESTS)
    return {"select": "not slow", "files": ["tests"]}


def test_tests_are_counted_and_those_that_fail_are_named_with_a_reason(options: dict[str, Any]) -> None:
    kept: list[dict[str, Any]] = []
    with pytest.raises(ZooError, match=r"2 of 4 tests failed: tests\.test_them::test_bad, tests\.test_"):
        checks.measure(options, "cpu", kept.append)
    [found] = kept
    assert {kind: found[kind] for kind in ("passed", "failed", "skipped")} == {
        "passed": 1,
        "failed": 2,
        "skipped": 1,
    }
    assert found["failures"] == {
        "tests.test_them::test_bad": "AssertionError: one is",
        "tests.test_them::test_with_broken": 'failed on setup with "RuntimeError: broken"',
    }
    assert found["skips"] == {"tests.test_them::test_skipped": "no GPU"}


def test_an_installed_package_has_no_tests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "ROOT", tmp_path)
    with pytest.raises(ZooError, match="holds no tests, expected a checkout of the repository"):
        checks.measure({"select": "gpu", "files": ["tests"]}, "cuda", lambda _: None)


def test_tests_that_pass_are_all_well(options: dict[str, Any]) -> None:
    found = checks.measure({**options, "select": "slow"}, "cpu", lambda _: None)
    assert found == {"passed": 1, "failed": 0, "skipped": 0, "failures": {}, "skips": {}}


def test_no_test_at_all_is_an_error(options: dict[str, Any]) -> None:
    with pytest.raises(ZooError, match="pytest ran no test, it ended with status 4"):
        checks.measure({**options, "select": "slow and"}, "cpu", lambda _: None)
