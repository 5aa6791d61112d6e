"""Parses YAML to its value and line numbers, or raises one error with line, column and problem."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from yaml.constructor import ConstructorError
from yaml.reader import ReaderError

_NO_KEYS = ("tag:yaml.org,2002:merge", "tag:yaml.org,2002:value")
"""Tags of `<<`, which merges another mapping, and of `=`: not ordinary keys."""


class YamlError(ValueError):
    """Text that is not valid YAML; the message begins with line and column."""


@dataclass(frozen=True)
class Document:
    """A parsed text.

    Attributes:
        value: of plain Python types; None for an empty text.
        node: PyYAML's node of the same, with positions in the text and `<<` merged.
        lines: the line, from 1, of each key written in the outermost mapping.
    """

    value: Any
    node: Any
    lines: Mapping[Any, int]


def parse(text: str) -> Document:
    """Parse a text of one document. Raises YamlError: malformed, a duplicate key, a value that contains itself."""
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
        raise YamlError("line 1, column 1: lists or mappings are nested too deeply") from None


class _Loader(yaml.SafeLoader):
    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, TypeError, OverflowError):  # such as the date 2026-99-99
            kind = node.tag.rpartition(":")[2]
            raise ConstructorError(None, None, f"{node.value!r} is not a valid {kind}", node.start_mark) from None


def _check(loader: _Loader, root: yaml.Node) -> dict[Any, int]:
    """The lines of the root's keys. Raises ConstructorError for a duplicate key or a value that contains itself."""
    known: dict[int, dict[Any, int]] = {}
    ancestors: set[int] = set()

    def visit(node: yaml.Node) -> None:
        if id(node) in ancestors:
            raise ConstructorError(None, None, "this contains itself", node.start_mark)
        if id(node) in known or not isinstance(node, yaml.CollectionNode):
            return
        lines: dict[Any, int] = {}
        known[id(node)] = lines
        ancestors.add(id(node))
        for item in node.value:
            for part in item if isinstance(item, tuple) else (item,):
                visit(part)
            if isinstance(item, tuple) and isinstance(item[0], yaml.ScalarNode) and item[0].tag not in _NO_KEYS:
                name, line = loader.construct_object(item[0]), item[0].start_mark.line + 1
                if not isinstance(name, Hashable):
                    continue  # refused by construct_document
                if name in lines:
                    duplicate = f"duplicate key {item[0].value}, first in line {lines[name]}"
                    raise ConstructorError(None, None, duplicate, item[0].start_mark)
                lines[name] = line
        ancestors.discard(id(node))

    visit(root)
    return known.get(id(root), {})


def _at(mark: yaml.Mark | None) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
