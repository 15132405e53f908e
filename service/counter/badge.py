"""Draws badges as shields.io does: SVG with a label and a message, in the same colours, styles and proportions.

Of the Python libraries none is both kept up and free of what fetches images over the network.
"""

import re
import unicodedata
from typing import Literal

from markupsafe import Markup

Style = Literal["flat", "flat-square", "plastic"]

COLORS = {
    "brightgreen": "4c1",
    "green": "97ca00",
    "yellowgreen": "a4a61d",
    "yellow": "dfb317",
    "orange": "fe7d37",
    "red": "e05d44",
    "blue": "007ec6",
    "grey": "555",
    "gray": "555",
    "lightgrey": "9f9f9f",
    "lightgray": "9f9f9f",
    "success": "4c1",
    "important": "fe7d37",
    "critical": "e05d44",
    "informational": "007ec6",
    "inactive": "9f9f9f",
}
"""The names that shields.io gives to colours."""

COLOR_PATTERN = f"^({'|'.join(COLORS)}|#?([0-9a-fA-F]{{3}}|[0-9a-fA-F]{{6}}))$(?!\\n)"
"""A text's end, before which Python's `$` would take a line break."""

# Hundredths of a pixel at 11 px from the space to the tilde, as npm's anafanafo 2, which shields.io uses, has them.
_VERDANA = [
    *(387, 433, 505, 900, 699, 1184, 799, 295, 500, 500, 699, 900, 400, 500, 400, 500),
    *(699, 699, 699, 699, 699, 699, 699, 699, 699, 699, 500, 500, 900, 900, 900, 600),
    *(1100, 752, 754, 768, 848, 696, 632, 853, 827, 463, 500, 762, 612, 927, 823, 866),
    *(663, 866, 765, 752, 678, 805, 752, 1088, 754, 677, 754, 500, 500, 500, 900, 699),
    *(699, 661, 685, 573, 685, 655, 387, 685, 696, 302, 379, 651, 302, 1070, 696, 668),
    *(685, 685, 469, 573, 433, 696, 651, 900, 651, 651, 578, 698, 500, 698, 900),
]
_WIDE, _OTHER = 1100, 730
"""The same of an East Asian character, and of any other: the mean of Greek and Cyrillic ones."""

_BRIGHT = 0.69
"""The brightness from which on shields.io writes in a dark colour."""

_SVG = Markup(
    '<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" role="img" aria-label="{title}">'
    "<title>{title}</title>{gradient}"
    '<clipPath id="r"><rect width="{width}" height="{height}" rx="{radius}" fill="#fff"/></clipPath>'
    '<g clip-path="url(#r)"><rect width="{left}" height="{height}" fill="{label_color}"/>'
    '<rect x="{left}" width="{right}" height="{height}" fill="{color}"/>{overlay}</g>'
    '<g text-anchor="middle" font-family="Verdana,Geneva,DejaVu Sans,sans-serif" font-size="110">{texts}</g></svg>'
)
_GRADIENTS = {
    "flat": Markup(
        '<linearGradient id="s" x2="0" y2="100%"><stop offset="0" stop-color="#bbb" stop-opacity=".1"/>'
        '<stop offset="1" stop-opacity=".1"/></linearGradient>'
    ),
    "plastic": Markup(
        '<linearGradient id="s" x2="0" y2="100%"><stop offset="0" stop-color="#fff" stop-opacity=".7"/>'
        '<stop offset=".1" stop-color="#aaa" stop-opacity=".1"/><stop offset=".9" stop-color="#000" stop-opacity=".3"/>'
        '<stop offset="1" stop-color="#000" stop-opacity=".5"/></linearGradient>'
    ),
}
_OVERLAY = Markup('<rect width="{width}" height="{height}" fill="url(#s)"/>')
_TEXT = Markup(
    '<text x="{x}" y="{y}" fill="{fill}" fill-opacity="{opacity}" transform="scale(.1)" textLength="{length}">'
    "{text}</text>"
)


def badge(label: str, message: str, *, color: str, label_color: str, style: Style) -> str:
    """Returns the SVG. The colours match COLOR_PATTERN; an empty label leaves out the left side."""
    height = 18 if style == "plastic" else 20
    left = text_width(label) + 10 if label else 0
    right = text_width(message) + 10
    texts = Markup("")
    for start, width, text, fill in (0, left, label, label_color), (left, right, message, color):
        if text:
            # Shifted by a pixel towards the middle, where both sides meet.
            middle = start + width / 2 + (0 if not label else 1 if start == 0 else -1)
            texts += _drawn(text, middle, height, _hexadecimal(fill), style)
    is_square = style == "flat-square"
    return _SVG.format(
        width=left + right,
        height=height,
        radius=0 if is_square else 3,
        title=f"{label}: {message}" if label else message,
        gradient="" if is_square else _GRADIENTS[style],
        overlay="" if is_square else _OVERLAY.format(width=left + right, height=height),
        left=left,
        right=right,
        label_color=_hexadecimal(label_color),
        color=_hexadecimal(color),
        texts=texts,
    )


def text_width(text: str) -> int:
    """Returns the pixels of the text in Verdana at 11 px, rounded up to an odd number, as shields.io does.

    Browsers stretch the text to it, so that it fits in another font as well. An accent has no width of its own.
    """
    hundredths = 0
    for character in unicodedata.normalize("NFKD", text):
        if " " <= character <= "~":
            hundredths += _VERDANA[ord(character) - ord(" ")]
        elif not unicodedata.combining(character):
            hundredths += _WIDE if unicodedata.east_asian_width(character) in "WF" else _OTHER
    return hundredths // 100 | 1


def _drawn(text: str, middle: float, height: int, color: str, style: Style) -> Markup:
    """Returns the text, above its shadow unless the style is flat-square."""
    fill, shade = ("#333", "#ccc") if _brightness(color) >= _BRIGHT else ("#fff", "#010101")
    length = 10 * text_width(text)
    lines = [_TEXT.format(x=10 * middle, y=10 * height - 60, fill=fill, opacity=1, length=length, text=text)]
    if style != "flat-square":
        shadow = _TEXT.format(x=10 * middle, y=10 * height - 50, fill=shade, opacity=0.3, length=length, text=text)
        lines.insert(0, shadow)
    return Markup("").join(lines)


def _brightness(color: str) -> float:
    """Returns 0 (black) to 1 (white), by the formula of https://www.w3.org/TR/AERT/#color-contrast."""
    digits = color.removeprefix("#")
    pairs = [digit * 2 for digit in digits] if len(digits) == 3 else re.findall("..", digits)
    red, green, blue = (int(pair, 16) for pair in pairs)
    return (red * 299 + green * 587 + blue * 114) / 255_000


def _hexadecimal(color: str) -> str:
    return "#" + COLORS.get(color, color).removeprefix("#")
