import json

import pytest


@pytest.fixture
def bench(zoo, tiny_folder, tiny_recipe, tmp_path):
    """Return a function that measures the tiny folder for a moment."""

    def run(*options):
        cache = f"data.cache_dir={json.dumps(str(tmp_path / 'pixels'))}"
        settings = ("--recipe", tiny_recipe, "--set", cache, "--imgsz", "32,32", "--seconds", "0.1")
        return zoo("data", "bench", tiny_folder, *settings, *options)

    return run


def test_each_variant_is_shown_with_its_parts_and_advice(bench):
    result = bench("--workers", "0", "--batch", "1", "--step-ms", "100000")
    assert result.exit_code == 0
    assert "batches of 1 + 1 at 32x32, phase semi of tiny" in result.stdout
    assert [line.split()[1] for line in result.stdout.splitlines() if "x │" in line] == [
        "none",
        "memory",
        "disk",
    ]
    assert "read and decode" in result.stdout
    assert "Recommended: --set data.workers=0 --set data.cache=none (" in result.stdout


def test_json_holds_the_figures(bench):
    value = json.loads(bench("--workers", "1,0", "--json").stdout)
    assert [(row["workers"], row["cache"]) for row in value["variants"]][:4:3] == [(1, "none"), (0, "none")]
    assert value["advice"]["need"] is None
    assert value["advice"]["feeds"] is None
    assert set(value["parts"]) == {"none", "memory", "disk"}


@pytest.mark.parametrize("workers", ["", "two", "1,1", "-1"])
def test_numbers_of_workers_that_are_none_are_refused(workers, bench):
    result = bench("--workers", workers)
    assert result.exit_code == 2
    assert "expected different numbers such as 0,1,2" in result.stderr
