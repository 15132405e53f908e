"""Prometheus' files: promtool takes them, each alert fires in a test, and what they name is documented."""

import json
import re
import subprocess

import pytest

from service.platform.settings import ROOT
from tests.test_runbook import RUNBOOK, slugs

FOLDER = ROOT / "deploy/prometheus"
ALERTS = (FOLDER / "alerts.yml").read_text()

TILES = re.findall(r'template "tile" \(args (.+)\) }}', (FOLDER / "consoles/dashboard.html").read_text())
"""The arguments of each tile of the dashboard."""


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the promtool of the image that the compose file has."""
    (image,) = re.findall(r"^FROM (prom/\S+)", (ROOT / "deploy/Dockerfile").read_text(), re.MULTILINE)
    mount = f"{FOLDER}:/prometheus.d:ro"
    command = ["docker", "run", "--rm", "--network=none", "--user=0", "--volume", mount, "--workdir=/prometheus.d"]
    return subprocess.run([*command, "--entrypoint=promtool", image, *arguments], capture_output=True, text=True)


@pytest.mark.compose
@pytest.mark.parametrize(
    "arguments",
    [("check", "config", "prometheus.yml"), ("check", "config", "native.yml"), ("test", "rules", "alerts_test.yml")],
)
def test_promtool_takes_them(arguments: tuple[str, ...]) -> None:
    ended = promtool(*arguments)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_each_alert_is_tested_to_fire() -> None:
    tests = (FOLDER / "alerts_test.yml").read_text()
    fire = re.findall(r"alertname: (\w+)\n +exp_alerts:", tests)
    assert set(fire) == set(re.findall(r"alert: (\w+)", ALERTS))


def test_each_alert_leads_to_its_entry_of_the_runbook() -> None:
    linked = re.findall(r"runbook_url: docs/runbook\.md#(.+)", ALERTS)
    assert len(linked) == ALERTS.count("- alert:")
    assert set(linked) <= slugs(RUNBOOK)


def test_each_alert_but_the_exporters_own_shows_on_a_tile_that_leads_to_the_same_entry() -> None:
    entries = dict(re.findall(r"- alert: (\w+)(?:\n.+)+?runbook_url: docs/runbook\.md#(.+)", ALERTS))
    shown: dict[str, str] = {}
    for _, _, _, alerts, entry, _ in (re.findall('"(.*?)"', tile) for tile in TILES):
        shown |= {name: entry for name in entries if alerts and re.fullmatch(alerts, name)}
        assert bool(alerts) == (entry in entries.values())
    assert {"ExporterAway": "the-exporter-is-away"} | shown == entries


def test_what_rules_alerts_and_dashboards_ask_for_is_documented() -> None:
    documented = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE))
    rules = (FOLDER / "rules.yml").read_text()
    boards = [json.loads(path.read_text()) for path in FOLDER.glob("*.json")]
    asked = [target["expr"] for board in boards for panel in board["panels"] for target in panel.get("targets", [])]
    asked += [re.findall('"(.*?)"', tile)[2] for tile in TILES]
    # A file's other lines have a key that is no query's.
    asked += re.findall(r"^ ++(?:expr: )?+(?!- |\w+: |#)(.+)$", rules + ALERTS, re.MULTILINE)
    recorded = set(re.findall(r"record: (\S+)", rules))
    names = {name for query in asked for name in re.findall(r"[a-z][a-z0-9:]*_[a-z0-9_:]+", query)}
    operators = {"histogram_quantile", "predict_linear", "min_over_time", "__rate_interval", "rate_interval"}
    plain = {re.sub(r"_(bucket|count|sum)$", "", name) for name in names - operators - recorded}
    assert len(plain) > 20
    assert plain <= documented, plain - documented
