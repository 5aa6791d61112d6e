"""The notebooks run from top to bottom, show what their text says, and leave nothing behind; their pages show it."""

from __future__ import annotations

import base64
import importlib.util
import io
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode, v4
from PIL import Image

from tests import ROOT

SOURCES = sorted((ROOT / "notebooks").glob("*.ipynb"))
ALL = pytest.mark.parametrize("name", [source.stem for source in SOURCES])
LONGEST_S = 1800
"""Time limit of a cell, s; long, because a machine may be busy."""


class Executed:
    """An executed notebook: the output of its cells by id, and what it left in its folder."""

    def __init__(self, source: Path, folder: Path, environment: dict[str, str]) -> None:
        self.notebook = nbformat.read(source, as_version=4)
        client = NotebookClient(self.notebook, timeout=LONGEST_S, resources={"metadata": {"path": str(folder)}})
        client.create_kernel_manager().transport_encryption = "auto"
        client.execute(env=environment)
        self.left = [path.name for path in folder.iterdir()]

    def outputs(self, cell: str | None = None) -> list[NotebookNode]:
        cells = [each for each in self.notebook.cells if each.cell_type == "code" and cell in (None, each.id)]
        assert cells, f"no cell {cell!r}"
        return [output for each in cells for output in each.outputs]

    def text(self, cell: str) -> str:
        """What a cell printed."""
        return "".join(output.text for output in self.outputs(cell) if output.output_type == "stream")

    def numbers(self, cell: str) -> list[float]:
        """The numbers with a decimal point that a cell printed."""
        return [float(word) for word in re.findall(r"[-+]?\d+\.\d+(?:e-\d+)?", self.text(cell))]

    def data(self, kind: str, cell: str | None = None) -> list[str]:
        """A cell's, or all, rich output of a MIME type."""
        return [output.data[kind] for output in self.outputs(cell) if kind in output.get("data", {})]

    def table(self, cell: str) -> dict[str, dict[str, float]]:
        """A shown data frame: by method and column."""
        (html,) = (each for each in self.data("text/html", cell) if "dataframe" in each)
        lines = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line) for line in html.split("</tr>")]
        head, *rows = (line[1:] for line in lines if line)
        return {row[0]: dict(zip(head[1:], map(float, row[1:]), strict=True)) for row in rows}


@pytest.fixture(scope="module")
def executed(tmp_path_factory, ray_folder) -> Iterator[Callable[[str], Executed]]:
    """Executes a notebook when first asked for it, with this Python's kernel, in an empty folder."""
    environment = {
        **os.environ, "IPYTHONDIR": str(tmp_path_factory.mktemp("ipython")), "OMP_NUM_THREADS": "1",
        "RAY_TMPDIR": str(ray_folder), "RAY_worker_niceness": "0",
    }  # fmt: skip
    for name in ("MLFLOW_TRACKING_URI", "RME_ON_EPOCH", "MPLBACKEND"):  # the user's own
        environment.pop(name, None)
    done: dict[str, Executed] = {}

    def of(name: str) -> Executed:
        if name not in done:
            done[name] = Executed(ROOT / "notebooks" / f"{name}.ipynb", tmp_path_factory.mktemp(name), environment)
        return done[name]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
        yield of


# ---------------------------------------------------------------------- as they are in the tree
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_a_notebook_has_no_output_and_its_links_lead_to_files(source: Path) -> None:
    notebook = nbformat.read(source, as_version=4)
    nbformat.validate(notebook)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids) and notebook.cells[0].source.startswith("# ")
    for cell in notebook.cells:
        assert not cell.metadata
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None, cell.id
        for link in re.findall(r"\]\(([^)#]+)", cell.source) if cell.cell_type == "markdown" else ():
            assert (source.parent / link).is_file(), f"{cell.id}: {link}"


# ---------------------------------------------------------------------- executed
@pytest.mark.slow
@ALL
def test_a_notebook_runs_without_complaint_and_leaves_no_files(executed, name: str) -> None:
    found = executed(name)  # an exception in a cell ends it
    assert [output.text for output in found.outputs() if output.get("name") == "stderr"] == []
    shown = str(found.outputs())
    assert "ipywidgets" not in shown and "IProgress" not in shown and "Warning" not in shown
    assert found.left == []
    assert found.data("image/png"), "it has figures"


@pytest.mark.slow
@ALL
def test_each_training_ends_with_a_full_bar(executed, name: str) -> None:
    found = [re.match(r'<progress value="(\d+)" max="(\d+)">', html) for html in executed(name).data("text/html")]
    bars = [match.groups() for match in found if match]
    trained_here = name != "reading_a_sweep"
    assert bool(bars) == trained_here
    if name != "your_own_images":  # where a callback stops one
        assert all(done == total for done, total in bars)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "cell"), [
    ("first_steps", "train-vae"), ("first_steps", "load"), ("your_own_images", "train-folder"),
    ("a_method_of_your_own", "train-both"), ("reading_a_sweep", "load-runs"),
])  # fmt: skip
def test_a_shown_result_or_model_has_a_picture_of_images_and_reconstructions(executed, name: str, cell: str) -> None:
    html = executed(name).data("text/html", cell)[-1]
    (content,) = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))), dtype=float)
    height = pixels.shape[0] // 2
    upper, lower = pixels[: height - 1], pixels[-(height - 1) :]
    # trained models: the second row of the picture resembles the first
    assert np.corrcoef(upper.ravel(), lower.ravel())[0, 1] > 0.7


@pytest.mark.slow
def test_first_steps(executed) -> None:
    found = executed("first_steps")
    above, control, own = found.numbers("gains")
    assert own == pytest.approx(above - control, abs=0.11) and min(above, control) > 0
    mean, recorded, difference = found.numbers("score-all")
    assert found.text("score-all").startswith("500 images")
    assert mean == pytest.approx(recorded, abs=0.02) and difference < 0.01
    assert found.text("save-load") == "True\n"


@pytest.mark.slow
def test_your_own_images(executed) -> None:
    found = executed("your_own_images")
    stopped = re.search(r"stopped by a callback after epoch (\d+)", found.text("train-tensors"))
    assert stopped and int(stopped[1]) < 40
    lines = found.text("refused").splitlines()
    assert len(lines) == 14 and all(error.startswith("  ") for error in lines[1::2]), "each is refused, in one line"
    reasons = [
        "NaN",
        "floating point images are in [0, 1]",
        "largest pixel is 1",
        "int32",
        "(100, 4, 32, 32)",
        "equal",
        "batch_size=32",
    ]
    assert all(reason in error for reason, error in zip(reasons, lines[1::2], strict=True))
    assert "3 test images are training images too" in found.text("duplicates")
    assert found.text("score-new").strip().endswith(": 5"), "the five that are unlike the others"
    before, after = found.numbers("fine-tune")
    assert after > before + 100
    known, forgotten = found.numbers("forgets")
    assert forgotten < known


@pytest.mark.slow
def test_a_method_of_your_own(executed) -> None:
    found = executed("a_method_of_your_own")
    assert "gamma: beta-VAE declares beta" in found.text("options")
    assert found.text("check-one").split()[-1] == "0.0"
    assert [line.split()[0] for line in found.text("scores").splitlines()[1:]] == ["VAE", "beta-VAE"]
    iwae, elbo, kl, iwae_of_beta, elbo_of_beta, kl_of_beta = found.numbers("scores")
    assert iwae > elbo and iwae_of_beta > elbo_of_beta
    assert 0 < kl_of_beta < kl, "a larger weight on the KL makes it smaller"


@pytest.mark.slow
def test_reading_a_sweep(executed) -> None:
    found = executed("reading_a_sweep")
    assert "18 of 18 runs are done" in found.text("run-sweep")
    assert found.text("show-frame").startswith("18 runs;")
    means, differences = found.table("summary"), found.table("differences")
    for label in ("RME(2)", "VAE-more"):
        row = differences[label]
        assert row["n"] == 6 and row["low"] <= row["estimate"] <= row["high"]
        # over the same seeds, the mean of the differences is the difference of the means
        assert row["mean"] == pytest.approx(means[label]["mean"] - means["VAE"]["mean"], abs=0.16)
    assert 'class="best"' in found.data("text/html", "score-table")[0]
    assert re.match(r"RME\(2\) is .* nats above the VAE; .*\nRME\(2\) − VAE-more: ", found.text("gains"))
    rows = [[float(word) for word in line.split()] for line in found.text("log-p").splitlines()[1:]]
    assert len(rows) == 5 and all(bound < exact + 1 for _, exact, bound in rows), "a lower bound, estimated"


# ---------------------------------------------------------------------- pages
@pytest.fixture(scope="module")
def hook() -> ModuleType:
    """`docs/_notebooks.py`, which is in no package."""
    spec = importlib.util.spec_from_file_location("_notebooks", ROOT / "docs" / "_notebooks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folders(tmp_path) -> tuple[Path, Path]:
    """A notebook in one folder, and the same with output in another."""
    cells = [
        v4.new_markdown_cell("# Title\n\nSee [one](../docs/glossary.md#run) and [two](other.ipynb)."),
        v4.new_code_cell("print('<a>')\nshow()"),
    ]
    notebook = v4.new_notebook(cells=cells, metadata={"language_info": {"name": "python"}})
    for folder in ("source", "executed"):
        (tmp_path / folder).mkdir()
        nbformat.write(notebook, tmp_path / folder / "n.ipynb")
        notebook.cells[1].outputs = [
            v4.new_output("stream", name="stdout", text="<a>\n"),
            v4.new_output("stream", name="stdout", text="\x1b[31mred\x1b[0m\n"),
            v4.new_output("display_data", {"text/html": "<progress max=2></progress>", "text/plain": "<HTML>"}),
            v4.new_output("display_data", {"image/png": "aGVsbG8=", "text/plain": "<Figure>"}),
            v4.new_output("execute_result", {"text/plain": "{1 < 2}"}, execution_count=1),
            v4.new_output("display_data", {"text/html": "", "text/plain": "<HTML>"}),
        ]
    return tmp_path / "source" / "n.ipynb", tmp_path / "executed"


def test_a_page_shows_the_output_of_the_same_cells(hook, folders) -> None:
    source, executed = folders
    text = hook.page(source, executed)
    assert "[one](../glossary.md#run) and [two](other.md)" in text
    assert "```python\nprint('<a>')\nshow()\n```" in text
    assert text.count('<div class="output">') == 4
    assert '<div class="output"><pre>&lt;a&gt;\nred\n</pre></div>' in text, (
        "printed lines are one output, without colours"
    )
    assert '<div class="output"><progress max=2></progress></div>' in text
    assert 'src="data:image/png;base64,aGVsbG8="' in text
    assert '<div class="output"><pre>{1 &lt; 2}</pre></div>' in text


def test_a_page_shows_no_output_of_other_cells(hook, folders) -> None:
    source, executed = folders
    notebook = nbformat.read(executed / "n.ipynb", as_version=4)
    notebook.cells[1].source = "print('b')"
    nbformat.write(notebook, executed / "n.ipynb")
    changed = hook.page(source, executed)
    (executed / "n.ipynb").unlink()
    missing = hook.page(source, executed)
    assert changed == missing and 'class="output"' not in missing and "show()" in missing
