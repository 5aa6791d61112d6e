"""One paragraph about a device, from the files of the stages of `bench.device`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bench.stage_file import Content

ORDER = (
    "right", "graph", "training", "speed", "roofline", "inference", "hours", "iwae", "kernels", "growth", "memory",
    "epoch", "packing", "peers",
)  # fmt: skip
"""Names of results in the order in which they are shown."""

DEVICES = (1, 8, 64)
"""Numbers of devices for which hours are given."""


def paragraph(stages: Mapping[str, Content]) -> str:
    """What was measured, by stage name: right or not, speed, roofline, hours, and what fell back."""
    if not stages:
        return "Nothing was measured."
    first = next(iter(stages.values()))
    clauses = [_right(stages), _speed(stages), _roofline(stages), _hours(stages), _fell_back(stages)]
    return f"{first['device']}, torch {first['torch']}. " + " ".join(f"{clause}." for clause in clauses)


def _entries(stages: Mapping[str, Content], stage: str | None, kind: str) -> Iterator[dict[str, Any]]:
    """All rows, checks or numbers of a stage (None: of all stages)."""
    for name, content in stages.items():
        if stage in (None, name):
            yield from (entry for case in content["cases"].values() for entry in case[kind])


def _right(stages: Mapping[str, Content]) -> str:
    checks = list(_entries(stages, None, "checks"))
    raised = [name for content in stages.values() for name, case in content["cases"].items() if case["error"]]
    text = "Correctness: not measured"
    if checks:
        wrong = [check["what"] for check in checks if not check["right"]]
        text = f"Correctness: {len(checks) - len(wrong)} of {len(checks)} checks right"
        if wrong:
            text += f", wrong: {'; '.join(wrong)}"
    for name, content in stages.items():
        left = len(content.get("planned", ())) - len(content["cases"])
        if name == "right" and left > 0:
            text += f"; {left} of {len(content['planned'])} cases not measured"
    return text + (f"; raised an error: {'; '.join(raised)}" if raised else "")


def _speed(stages: Mapping[str, Content]) -> str:
    """The most important array of each method: that of the first row."""
    shown: dict[str, list[dict[str, Any]]] = {}
    for row in _entries(stages, "speed", "rows"):
        rows = shown.setdefault(row["name"].partition(",")[0], [])
        if not rows or rows[0]["name"] == row["name"]:
            rows.append(row)
    if not shown:
        return "Speed of arrays: not measured"
    texts = []
    for rows in shown.values():
        ratios = " and ".join(f"{row['ratio']:.3g} times {row['rival']}" for row in rows)
        texts.append(f"{rows[0]['name']}, {ratios}")
    return f"Speed of arrays: {'; '.join(texts)}"


def _roofline(stages: Mapping[str, Content]) -> str:
    rows = list(_entries(stages, "roofline", "rows"))
    if not rows:
        return "Share of the roofline: not measured"
    return "Share of the roofline: " + "; ".join(f"{row['name']}, {row['roofline']:.0%}" for row in rows)


def _hours(stages: Mapping[str, Content]) -> str:
    numbers = list(_entries(stages, "hours", "numbers"))
    if not numbers:
        return "Hours of `--grid paper`: not measured"
    total = sum(number["value"] for number in numbers)
    text = "Hours of `--grid paper`"
    if not stages["hours"]["complete"]:
        text += f" for {', '.join(number['what'] for number in numbers)} only"
    return f"{text}: " + ", ".join(f"{total / n:,.0f} on {n}" for n in DEVICES) + " of these devices"


def _fell_back(stages: Mapping[str, Content]) -> str:
    reasons: dict[str, list[str]] = {}
    for stage, content in stages.items():
        for one in content["fell_back"]:
            reasons.setdefault(one["why"], []).append(f"{stage}: {one['case']}")
    if not reasons:
        return "Nothing measured fell back"
    return "Fell back: " + "; ".join(f"{why} (in {', '.join(cases)})" for why, cases in reasons.items())
