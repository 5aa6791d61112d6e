"""YAML as a user writes it: its value and its lines, or one error that says where and what."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from yaml.constructor import ConstructorError
from yaml.reader import ReaderError

_NO_KEYS = ("tag:yaml.org,2002:merge", "tag:yaml.org,2002:value")
"""Tags of `<<`, which brings in another mapping, and of `=`."""


class YamlError(ValueError):
    """Text that is not YAML, or that means nothing; the message begins with line and column."""


@dataclass(frozen=True)
class Document:
    """What a text says.

    Attributes:
        value: of plain Python types; None of an empty text.
        node: the same with its places in the text, and with what `<<` brings in.
        lines: for each key that is written in the outermost mapping its line, from 1.
    """

    value: Any
    node: Any
    lines: Mapping[Any, int]


def parse(text: str) -> Document:
    """Read a text of one document. Raises YamlError: malformed, a key there twice, a value that contains itself."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return Document(None, None, {})
        lines = _check(loader, node)
        return Document(loader.construct_document(node), node, lines)
    except yaml.MarkedYAMLError as error:
        raise YamlError(f"{_at(error.problem_mark)}{error.problem or error.context}") from None
    except ReaderError as error:  # a character that YAML does not allow
        before = text[: error.position]
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        raise YamlError(f"line {line}, column {column}: {error.reason}") from None
    except RecursionError:
        raise YamlError("line 1, column 1: lists or mappings are too deep in one another") from None


class _Loader(yaml.SafeLoader):
    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, TypeError, OverflowError):  # such as the date 2026-99-99
            kind = node.tag.rpartition(":")[2]
            raise ConstructorError(None, None, f"{node.value!r} is no {kind}", node.start_mark) from None


def _check(loader: _Loader, root: yaml.Node) -> dict[Any, int]:
    """Raise ConstructorError for a key that is there twice or what contains itself; the lines of the root's keys."""
    known: dict[int, dict[Any, int]] = {}
    around: set[int] = set()

    def visit(node: yaml.Node) -> None:
        if id(node) in around:
            raise ConstructorError(None, None, "this contains itself", node.start_mark)
        if id(node) in known or not isinstance(node, yaml.CollectionNode):
            return
        lines: dict[Any, int] = {}
        known[id(node)] = lines
        around.add(id(node))
        for item in node.value:
            for part in item if isinstance(item, tuple) else (item,):
                visit(part)
            if isinstance(item, tuple) and isinstance(item[0], yaml.ScalarNode) and item[0].tag not in _NO_KEYS:
                name, line = loader.construct_object(item[0]), item[0].start_mark.line + 1
                if not isinstance(name, Hashable):
                    continue  # refused when it is made a key
                if name in lines:
                    twice = f"{item[0].value} is there twice, first in line {lines[name]}"
                    raise ConstructorError(None, None, twice, item[0].start_mark)
                lines[name] = line
        around.discard(id(node))

    visit(root)
    return known.get(id(root), {})


def _at(mark: yaml.Mark | None) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
