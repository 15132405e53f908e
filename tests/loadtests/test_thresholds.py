"""The file of thresholds: what is wrong in it is told before a run, and what a run misses after it."""

from pathlib import Path

import pytest

from tests.loadtests.locust_runs import CLASSES, load

with pytest.MonkeyPatch.context() as environment:
    environment.setenv("LOCUST_SKIP_MONKEY_PATCH", "1")  # gevent's is for a process of Locust's own
    from locust.stats import RequestStats

    from loadtests.thresholds import DEFAULT, Thresholds, ThresholdsError, entry_of, load_thresholds, missed


def test_the_default_file_has_every_scenario() -> None:
    assert set(load_thresholds(str(DEFAULT), CLASSES)) == set(CLASSES)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[Visitors\n", r"thresholds.toml: .*line 1"),
        ("[Visitors]\np50 = 'fast'\n", r"Expected `float \\| null`, got `str` - at `\$\[...\].p50`"),
        ("[Visitors]\np99 = -1\n", r"Expected `float` >= 0.0 - at `\$\[...\].p99`"),
        ("[Visitors]\nerrors = 2\n", r"Expected `float` <= 1.0 - at `\$\[...\].errors`"),
        ("[Visitors]\np90 = 10\n", r"unknown field `p90`"),
        ("[Soak]\np50 = 10\n", r"it has no table \[Visitors\]: add one, or give `--thresholds none`"),
    ],
)
def test_a_malformed_file_is_told(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "thresholds.toml"
    file.write_text(text)
    with pytest.raises(ThresholdsError, match=reason):
        load_thresholds(str(file), ["Visitors"])


def test_a_file_that_is_not_there_ends_the_run_before_it_begins(tmp_path: Path) -> None:
    ended = load("visitors", "http://127.0.0.1:1", "--thresholds", str(tmp_path / "none.toml"))
    assert ended.returncode == 1
    assert f"FAILED: the run could not begin: {tmp_path}/none.toml: No such file or directory." in ended.stdout


def test_each_threshold_that_is_missed_is_named_with_what_was_found() -> None:
    stats = RequestStats()
    for name in "Visitors: hit", "Visitors: read":
        for milliseconds in range(1, 101):
            stats.log_request("GET", name, milliseconds, 0)
    stats.log_error("GET", "Visitors: hit", "no")
    stats.log_request("GET", "Soak: hit", 5_000, 0)
    entry = entry_of(stats, "Visitors")
    found = list(missed(entry, Thresholds(rate=1e9, p50=10, p95=20, p99=100, errors=0.001)))
    assert [line.split(",")[-1].strip() for line in found] == [
        "less than 1e+09",
        "more than 10",
        "more than 20",
        "more than 0.10%",
    ]
    assert "Visitors's p50 was 51 ms" in found[1]
    assert list(missed(entry, Thresholds())) == []
    assert list(missed(entry_of(stats, "Burst"), Thresholds())) == ["Burst sent no request"]
