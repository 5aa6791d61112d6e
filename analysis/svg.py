"""A drawing as SVG for the report's page: small, without `style` attributes, and right in light and dark.

matplotlib's SVG has a `style` attribute on every element, which the page's content security policy forbids. Here each
becomes attributes, and each colour a CSS variable whose default is that colour: `var(--ink-0072b2,#0072b2)`. The page
sets the variables in dark mode (`dark_rules`).
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
from matplotlib.colors import to_hex
from matplotlib.figure import Figure as Drawing

from analysis import style

DIGITS = 2
"""After the decimal point, in points: a hundredth is a fiftieth of a pixel where the page shows a figure largest."""

CLOSE = 0.03
"""Points from a line at which a corner is left out."""

_SVG = "http://www.w3.org/2000/svg"
_HREF = "{http://www.w3.org/1999/xlink}href"
_NUMBER = re.compile(r"-?\d*\.?\d+(?:e[+-]?\d+)?")
_REFERENCE = re.compile(r"^url\(#([^)]+)\)$")
_VARIABLE = re.compile(r"--ink-([0-9a-f]{6})\b")
_DROPPED = {"style", "metadata"}
_COLOURS = {"fill", "stroke"}
_ROUNDED = {"x", "y", "width", "height", "stroke-width", "stroke-dasharray", "stroke-dashoffset", "font-size"}
_INHERITED = {"fill", "fill-opacity", "stroke", "stroke-width", "stroke-linejoin", "stroke-opacity", "stroke-dasharray"}
_USUAL = {"font-weight": "normal", "font-style": "normal", "text-anchor": "start", "stroke-dashoffset": "0",
          "stroke-linejoin": "round", "opacity": "1", "stroke-width": "1"}  # fmt: skip
"""Properties with these values are left out: they are the defaults of SVG or of the root."""


def to_svg(drawing: Drawing, prefix: str, description: str) -> str:
    """The drawing as an `svg` element, which scales with its width; the same drawing gives the same text.

    Args:
        drawing: laid out, with no layout engine.
        prefix: what every id begins with: ids must be unique in a page.
        description: what it shows, for readers who cannot see it.
    """
    out = io.BytesIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with style.printed(), mpl.rc_context({"svg.hashsalt": "rme"}):
        drawing.savefig(out, format="svg", transparent=True, metadata=nothing)
    read = ElementTree.fromstring(out.getvalue())
    ids = {name: f"{prefix}{i}" for i, name in enumerate(dict.fromkeys(_references(read)), 1)}
    root = ElementTree.Element(
        "svg",
        {"xmlns": _SVG, "viewBox": read.get("viewBox", ""), "role": "img", "aria-labelledby": f"{prefix}0",
         "fill": variable("#000000"), "stroke-linejoin": "round"},
    )  # fmt: skip
    ElementTree.SubElement(root, "desc", {"id": f"{prefix}0"}).text = description
    root.extend(made for child in read for made in _copies(child, ids))
    return ElementTree.tostring(root, encoding="unicode")


def variable(colour: str) -> str:
    """The CSS value of a colour: a variable that is the colour itself where nothing sets it."""
    return f"var(--ink-{colour[1:]},{colour})"


def dark_rules(svgs: Iterable[str]) -> str:
    """The style sheet that makes these SVGs dark on screens whose user prefers that; empty without any."""
    colours = sorted({f"#{name}" for svg in svgs for name in _VARIABLE.findall(svg)})
    rules = "".join(f"--ink-{colour[1:]}:{style.dark(colour)};" for colour in colours)
    return f"@media screen and (prefers-color-scheme:dark){{.drawing{{{rules}}}}}\n" if rules else ""


def _references(root: ElementTree.Element) -> Iterator[str]:
    """The ids that an element refers to, in their order."""
    for element in root.iter():
        if element.get(_HREF, "").startswith("#"):
            yield element.get(_HREF, "")[1:]
        for value in (element.get("clip-path", ""), *_properties(element).values()):
            if found := _REFERENCE.match(value):
                yield found[1]


def _copies(element: ElementTree.Element, ids: dict[str, str]) -> list[ElementTree.Element]:
    """The element without what is superfluous: a group without attributes becomes its children."""
    if not isinstance(element.tag, str) or (tag := element.tag.rpartition("}")[2]) in _DROPPED:
        return []
    attributes = _attributes(element, ids)
    children = [made for child in element for made in _copies(child, ids)]
    if tag in ("g", "defs") and not children:
        return []
    if tag == "g" and not attributes:
        return children
    if tag in ("path", "use") and _invisible(attributes):
        return []
    if tag == "g" and len(children) > 1:
        attributes |= _hoisted(children)
    copy = ElementTree.Element(tag, attributes)
    copy.extend(children)
    if tag in ("text", "tspan"):
        copy.text = element.text if element.text and element.text.strip() else None
    return [copy]


def _hoisted(children: list[ElementTree.Element]) -> dict[str, str]:
    """The properties that all children share and can inherit, removed from them."""
    found = {}
    for name in sorted(_INHERITED):
        values = {child.get(name) for child in children}
        if len(values) == 1 and (value := values.pop()) is not None:
            found[name] = value
            for child in children:
                del child.attrib[name]
    return found


def _attributes(element: ElementTree.Element, ids: dict[str, str]) -> dict[str, str]:
    found = {}
    for name, value in (dict(element.attrib) | _properties(element)).items():
        if name == _HREF:
            name, value = "href", f"#{ids[value[1:]]}" if value.startswith("#") else value
        elif name == "id":
            if value not in ids:
                continue
            value = ids[value]
        elif name in ("style", "font-family", "class") or _USUAL.get(name) == value:
            continue
        elif reference := _REFERENCE.match(value):
            value = value.replace(reference[1], ids[reference[1]])
        elif name in _COLOURS and value != "none":
            value = variable(to_hex(value))
        elif name == "d":
            value = compact(value)
        elif name == "transform":
            value = _rounded(re.sub(r"rotate\(-?0 [^)]*\)", "", value), 5)
            if not value:
                continue
        elif name in _ROUNDED:
            value = _rounded(value, DIGITS)
        found[name] = value
    return found


def _properties(element: ElementTree.Element) -> dict[str, str]:
    """The properties of the `style` attribute; of those given twice, the last, as in a browser."""
    parts = (part.partition(":") for part in element.get("style", "").split(";") if ":" in part)
    return {name.strip(): value.strip() for name, _, value in parts}


def _invisible(attributes: dict[str, str]) -> bool:
    return attributes.get("fill") == "none" and "stroke" not in attributes and "id" not in attributes


def _rounded(text: str, digits: int) -> str:
    return _NUMBER.sub(lambda match: short(float(match[0]), digits), text).strip()


def short(value: float, digits: int = DIGITS) -> str:
    """A number without superfluous characters: `.5`, `-3`, `0`."""
    text = f"{value:.{digits}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text in ("-0", "") else re.sub(r"^(-?)0\.", r"\1.", text)


def compact(path: str) -> str:
    """A path's data with rounded offsets from point to point in place of coordinates; errors do not add up.

    Points that lie within `CLOSE` of the line through those that are kept are left out.

    Args:
        path: with the commands M, L, Q, C and z, as matplotlib writes it.
    """
    scale = 10**DIGITS
    parts: list[str] = []
    x = y = start_x = start_y = 0
    last = ""
    for command, numbers in _commands(path):
        if command == "z":
            x, y = start_x, start_y
        points = [round(number * scale) for number in numbers]
        words = [short((point - origin) / scale) for point, origin in zip(points, [x, y] * 3, strict=False)]
        if points:
            x, y = points[-2:]
        if command == "M":
            start_x, start_y = x, y
        letter = command.lower()
        text = ("" if letter == last and letter not in "mz" else letter) + _joined(words)
        parts.append(f" {text}" if parts and text[0] not in "mlqcz-" else text)
        last = letter
    return "".join(parts)


def _commands(path: str) -> Iterator[tuple[str, list[float]]]:
    """The letters of a path's commands, each with its numbers, without superfluous points of polygonal lines."""
    for part in re.findall(r"M[^M]*", path):
        found = [(letter, [float(number) for number in numbers.split()])
                 for letter, numbers in re.findall(r"([MLQCz])([^MLQCz]*)", part)]  # fmt: skip
        corners = [numbers for letter, numbers in found if letter in "ML"]
        closed = found[len(corners) :]
        if all(letter == "z" for letter, _ in closed):  # no curve
            found = [("L" if i else "M", corners[i]) for i in _needed(np.array(corners))] + closed
        yield from found


def _needed(points: np.ndarray) -> list[int]:
    """The points, (n, 2), that Ramer, Douglas and Peucker's algorithm keeps with the tolerance `CLOSE`."""
    needed, open_parts = {0, len(points) - 1}, [(0, len(points) - 1)]
    while open_parts:
        first, last = open_parts.pop()
        if last - first < 2:
            continue
        inner, along = points[first + 1 : last] - points[first], points[last] - points[first]
        length = np.hypot(*along)
        if length > CLOSE:  # else a closed line: the distance from its end
            part = np.clip(inner @ along / length**2, 0, 1)
            away = np.hypot(*(inner - part[:, None] * along).T)
        else:
            away = np.hypot(*inner.T)
        farthest = int(away.argmax())
        if away[farthest] > CLOSE:
            middle = first + 1 + farthest
            needed.add(middle)
            open_parts += [(first, middle), (middle, last)]
    return sorted(needed)


def _joined(words: list[str]) -> str:
    """Numbers with a space only where a minus sign does not separate them."""
    return words[0] + "".join(word if word.startswith("-") else f" {word}" for word in words[1:]) if words else ""
