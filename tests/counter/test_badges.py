"""Badges: well-formed whatever is asked for, and of the widths that shields.io gives them."""

from xml.etree import ElementTree as ET

import httpx
import pytest

from service.counter.badge import COLORS, text_width
from tests.counter.test_api import books, client, name, problem, service

__all__ = ["books", "client", "name", "service"]

pytestmark = pytest.mark.any_database

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def badge_of(client: httpx.Client, name: str) -> str:
    """The path of the badges of a counter at 1234."""
    client.put(f"/counters/{name}", json={"start": 1234})
    return f"/counters/{name}/badge"


def drawn(client: httpx.Client, path: str, **parameters: str) -> ET.Element:
    """Returns the badge's SVG, parsed."""
    answer = client.get(f"{path}.svg", params=parameters)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/svg+xml; charset=utf-8"), answer.text
    return ET.fromstring(answer.text)


def texts(svg: ET.Element) -> list[str]:
    return [text.text or "" for text in svg.iter(f"{SVG}text")]


@pytest.mark.parametrize(
    ("text", "width"),
    # https://img.shields.io/badge/build-passing-green is 37 + 51 wide; the others are measured by npm's anafanafo 2.
    [("build", 27), ("passing", 41), ("visits", 29), ("1234", 27), ("café", 23), ("cafe\u0301", 23), ("计数", 23)],
)
def test_a_text_is_as_wide_as_shields_io_draws_it(text: str, width: int) -> None:
    assert text_width(text) == width


@pytest.mark.parametrize("style", ["flat", "flat-square", "plastic"])
def test_a_badge_holds_label_and_value_in_boxes_that_fit(client: httpx.Client, badge_of: str, style: str) -> None:
    svg = drawn(client, badge_of, label="visits", color="e05d44", labelColor="lightgrey", style=style)
    assert set(texts(svg)) == {"visits", "1234"}
    assert int(svg.attrib["width"]) == text_width("visits") + text_width("1234") + 20
    assert {rect.attrib.get("fill") for rect in svg.iter(f"{SVG}rect")} >= {"#e05d44", "#9f9f9f"}
    alone = drawn(client, badge_of, label="", style=style)
    assert set(texts(alone)) == {"1234"}
    assert int(alone.attrib["width"]) == text_width("1234") + 10


def test_a_light_colour_has_dark_text(client: httpx.Client, badge_of: str) -> None:
    for color, fill in ("fff", "#333"), ("007ec6", "#fff"), *((named, "#fff") for named in COLORS):
        svg = drawn(client, badge_of, label="", color=color)
        assert [text.attrib["fill"] for text in svg.iter(f"{SVG}text")][-1] == fill, color


@pytest.mark.parametrize(
    "label",
    ["<script>alert(1)</script>", "\"'&</text>", "]]>", "\u202egnp", "🧮" * 100, "%00", "&#0;", "{x}%s"],
    ids=lambda label: label.encode("unicode_escape").decode()[:20],
)
def test_markup_in_a_label_is_text(client: httpx.Client, badge_of: str, label: str) -> None:
    svg = drawn(client, badge_of, label=label)
    assert texts(svg)[0] == label
    assert not [element.tag for element in svg.iter() if "script" in element.tag]


@pytest.mark.parametrize(
    "query",
    [
        "label=" + "x" * 101,
        "label=" + "x" * 10_000,
        "label=%00",
        "label=a%0Ab",
        "label=a%0A",
        "label=%EF%BF%BF",
        "color=",
        "color=no-colour",
        "color=%22/%3E%3Cscript%3E",
        "color=12",
        "color=red%0A",
        "labelColor=url(%23s)",
        "style=social",
        "cacheSeconds=-1",
        "cacheSeconds=1e9",
    ],
)
def test_a_parameter_that_cannot_be_drawn_is_refused(client: httpx.Client, badge_of: str, query: str) -> None:
    for form in "svg", "json":
        assert problem(client.get(f"{badge_of}.{form}?{query}")) == (400, "malformed-parameter")


def test_bytes_that_are_no_utf_8_are_drawn_as_they_are_written(client: httpx.Client, badge_of: str) -> None:
    answer = client.get(f"{badge_of}.svg?label=caf%E9%FF", headers=[(b"Accept", b"image/\xff"), (b"Referer", b"\xe9")])
    assert texts(ET.fromstring(answer.text))[0] == "caf%E9%FF"


def test_a_badge_is_not_cached_unless_its_address_says_so(client: httpx.Client, badge_of: str) -> None:
    for form in "svg", "json":
        assert client.get(f"{badge_of}.{form}").headers["cache-control"] == "no-store"
        cached = client.get(f"{badge_of}.{form}?cacheSeconds=300")
        assert cached.headers["cache-control"] == "public, max-age=300"
    assert client.get(badge_of.removesuffix("/badge")).json()["value"] == 1234


def test_shields_io_is_told_what_it_reads(client: httpx.Client, badge_of: str, name: str) -> None:
    assert client.get(f"{badge_of}.json").json() == {
        "schemaVersion": 1,
        "label": name,
        "message": "1234",
        "color": "blue",
        "labelColor": "grey",
        "style": "flat",
    }
    for path in "/counters/none/badge.json", "/counters/none/badge.svg":
        assert problem(client.get(path)) == (404, "no-such-counter")
