"""The references that a report cites, from `citations.bib`, and what each is cited for."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_FILE = Path(__file__).parent / "citations.bib"

_ACCENTS = {r"{\"a}": "ä", r"{\"e}": "ë", r"{\"o}": "ö", r"{\'e}": "é", r"{\'E}": "É"}


@dataclass(frozen=True)
class Reference:
    r"""An entry of the file.

    Attributes:
        key: for `\cite`.
        short: `Kingma and Welling 2014`, or `Kim et al. 2018` with more than two authors.
        uses: what it is cited for, such as `method:iaf`.
        bibtex: the entry's text, without its keywords.
    """

    key: str
    short: str
    uses: frozenset[str]
    bibtex: str


@cache
def references() -> tuple[Reference, ...]:
    """All references, in the file's order."""
    text = _FILE.read_text(encoding="utf-8")
    return tuple(map(_reference, re.findall(r"^@.*?^}$", text, re.DOTALL | re.MULTILINE)))


def cited_for(*uses: str) -> list[Reference]:
    """The references of any of these uses, in the file's order."""
    return [reference for reference in references() if not reference.uses.isdisjoint(uses)]


def to_bibtex(keys: Iterable[str]) -> str:
    """The text of a BibTeX file with these references, in the order of `citations.bib`; empty without a key."""
    wanted = set(keys)
    return "\n\n".join(each.bibtex for each in references() if each.key in wanted) + ("\n" if wanted else "")


def _reference(entry: str) -> Reference:
    key = re.findall(r"^@\w+{([^,]+),", entry)[0]
    authors, year, uses = (re.findall(rf"^\s+{name}\s*= {{(.*?)}},?$", entry, re.DOTALL | re.MULTILINE)[0]
                           for name in ("author", "year", "keywords"))  # fmt: skip
    bibtex = re.sub(r",\n\s+keywords\s*=.*?}$", "", entry, flags=re.MULTILINE)
    return Reference(key, f"{_names(authors)} {year}", frozenset(re.split(r",\s*", uses)), bibtex)


def _names(authors: str) -> str:
    for tex, letter in _ACCENTS.items():
        authors = authors.replace(tex, letter)
    last = [author.partition(",")[0] for author in re.split(r"\s+and\s+", authors)]
    return f"{last[0]} et al." if len(last) > 2 else " and ".join(last)
