"""MkDocs hook: a page for each notebook of `notebooks/`, with the output of its last execution (`make notebooks`).

Nothing is executed here. A notebook that has not been executed since its cells changed is shown without output.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
from jinja2 import DictLoader
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter
from nbformat import NotebookNode
from traitlets.config import Config

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "notebooks"
EXECUTED = ROOT / "build" / "notebooks"

TEMPLATE = """
{%- extends 'markdown/index.md.j2' -%}

{% block stream %}
<div class="output"><pre>{{ output.text | strip_ansi | e }}</pre></div>
{% endblock stream %}

{% block data_text scoped %}
<div class="output"><pre>{{ output.data['text/plain'] | strip_ansi | e }}</pre></div>
{% endblock data_text %}

{% block data_html scoped %}
{% if output.data['text/html'] | trim %}<div class="output">{{ output.data['text/html'] }}</div>{% endif %}
{% endblock data_html %}

{% block data_png %}
<div class="output"><img alt="figure" src="data:image/png;base64,{{ output.data['image/png'] | trim }}"></div>
{% endblock data_png %}
"""
"""Output as HTML, so that Markdown leaves it as it is; a figure within the page, which so needs no other file."""

SETTINGS = Config({"ExtractOutputPreprocessor": {"enabled": False}, "CoalesceStreamsPreprocessor": {"enabled": True}})
"""Figures stay in the notebook, and lines that were printed one after the other are one output."""


def on_files(files: Files, config: MkDocsConfig, **_: Any) -> None:
    for source in sorted(SOURCES.glob("*.ipynb")):
        files.append(File.generated(config, f"notebooks/{source.stem}.md", content=page(source)))


def page(source: Path, executed: Path = EXECUTED) -> str:
    """A notebook as Markdown, with the output of its execution in `executed` if that is of the same cells."""
    notebook = nbformat.read(source, as_version=4)
    done = executed / source.name
    note = f"This page is the notebook `notebooks/{source.name}`"
    if done.exists() and _cells(other := nbformat.read(done, as_version=4)) == _cells(notebook):
        notebook, note = other, f"{note}, with its output."
    else:
        note += ", without its output: `make docs` executes it."
    notebook.cells[0].source += f"\n\n*{note}*"
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = _links(cell.source)
    exporter = MarkdownExporter(SETTINGS, extra_loaders=[DictLoader({"page": TEMPLATE})], template_file="page")
    return exporter.from_notebook_node(notebook)[0]


def _cells(notebook: NotebookNode) -> list[tuple[str, str]]:
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def _links(markdown: str) -> str:
    """Links to other notebooks and to files of `docs/`, as they are between the site's pages."""
    return re.sub(r"\]\((\w+)\.ipynb\)", r"](\1.md)", markdown.replace("](../docs/", "](../"))
