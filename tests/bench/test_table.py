"""bench.table: the Markdown of results, and the tables in bench/README.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import table
from tests import ROOT

ROW = {
    "name": "VAE q(z|x)", "rival": "plain eager", "median_ms": 3.40712, "rival_median_ms": 4505.2, "ratio": 1.256,
    "spread": 0.067, "roofline": 0.434,
}  # fmt: skip
COMMAND = {"device": "GPU X", "torch": "2.0", "rows": [ROW]}
STAGE: dict[str, Any] = {
    "stage": "right", "device": "GPU X", "torch": "2.1", "code": "abc", "commit": None, "complete": False,
    "planned": ["first", "second", "third"],
    "cases": {
        "first": {
            "seconds": 1.0, "rows": [ROW], "error": None,
            "numbers": [
                {"what": "all", "value": 123456.7, "unit": "h"}, {"what": "one", "value": 0.0012345, "unit": "ms"},
            ],
            "checks": [
                {"what": "loss", "difference": 1e-7, "tolerance": 1e-6, "right": True},
                {"what": "step", "difference": float("nan"), "tolerance": 0.05, "right": False},
            ],
        },
        "second": {"seconds": 0.1, "rows": [], "checks": [], "numbers": [], "error": "ValueError: no"},
    },
    "interrupted": [], "fell_back": [{"case": "first", "why": "not captured"}],
}  # fmt: skip


def test_a_commands_rows() -> None:
    assert list(table.markdown(COMMAND)) == [
        "| what | ms | against | ms | ratio | spread | roofline |",
        "|---|---:|---|---:|---:|---:|---:|",
        r"| VAE q(z\|x) | 3.407 | plain eager | 4505 | 1.26 | 7% | 43% |",
    ]


def test_memory_and_hours_of_growth() -> None:
    peaks = [{"name": "VAE", "training_mib": 116.4, "iwae_mib": 2018.6}]
    lines = list(table.markdown({**COMMAND, "memory": peaks, "paper_hours": {"MNIST": 640.0, "SVHN": 6400.0}}))
    assert "| VAE | 116 | 2019 |" in lines
    assert "| MNIST | 640 | 80 | 10 |" in lines and "| all | 7,040 | 880 | 110 |" in lines


def test_everything_of_a_stage_is_shown() -> None:
    text = "\n".join(table.markdown(STAGE))
    assert "| all | 123,457 | h |" in text and "| one | 0.001234 | ms |" in text
    assert "1 of 2 checks right" in text
    assert "| first | step | nan | 0.05 |" in text and "| first | loss |" not in text
    assert "| second | ValueError: no |" in text
    assert "| first | not captured |" in text
    assert "Not measured: third." in text


def folder(path: Path, **results: dict) -> Path:
    path.mkdir()
    for name, result in results.items():
        (path / f"{name}.json").write_text(json.dumps(result))
    return path


def test_a_section_for_each_folder(tmp_path, capsys) -> None:
    ours = folder(tmp_path / "a", growth=COMMAND, right=STAGE)
    other = folder(tmp_path / "b", iwae={**COMMAND, "device": "CPU Y"})
    table.main([str(ours), str(other)])
    headings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("#")]
    assert headings == ["### GPU X", "#### right", "#### growth", "### CPU Y", "#### iwae"]


@pytest.mark.parametrize("text", ["{}", "[1]", "not JSON", '{"device": "GPU X", "torch": "2", "rows": [{}]}'])
def test_a_file_that_is_not_a_result_is_named(text: str, tmp_path) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(SystemExit, match=r"x\.json: not a benchmark result"):
        table.main([str(tmp_path)])


def test_a_folder_of_two_devices_is_refused(tmp_path) -> None:
    mixed = folder(tmp_path / "a", growth=COMMAND, iwae={**COMMAND, "device": "CPU Y"})
    with pytest.raises(SystemExit, match="CPU Y and GPU X"):
        table.main([str(mixed)])


def test_only_the_part_between_the_markers_is_replaced(tmp_path, capsys) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    table.main([str(folder(tmp_path / "a", iwae=COMMAND)), "--write", str(page)])
    written = page.read_text()
    assert written.startswith(f"before\n{table.BEGIN}\n") and written.endswith(f"\n{table.END}\nafter\n")
    assert "#### iwae" in written and "old" not in written
    page.write_text("no markers")
    with pytest.raises(SystemExit) as stop:
        table.main([str(tmp_path / "a"), "--write", str(page)])
    assert stop.value.code == 2 and page.read_text() == "no markers"


def test_the_readme_has_the_committed_results(tmp_path) -> None:
    committed = (ROOT / "bench/README.md").read_text()
    again = tmp_path / "README.md"
    again.write_text(committed)
    table.main(["--write", str(again)])
    assert again.read_text() == committed, "python -m bench.table --write bench/README.md"
