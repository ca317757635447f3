"""The tables of scenarios name tests that there are, where they say that they are."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
SEPARATOR = re.compile(r'=+ =+')

#: The tests of a module by their class; those that are in none are under an empty name.
Module = dict[str, set[str]]


def read_module(path: Path) -> Module:
    body = ast.parse(path.read_text(encoding='utf-8')).body
    classes = {node.name: node.body for node in body if isinstance(node, ast.ClassDef)}
    return {name: functions_in(part) for name, part in [('', body), *classes.items()]}


def functions_in(body: list[ast.stmt]) -> set[str]:
    return {node.name for node in body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}


def references(table: Path) -> Iterator[str]:
    """What the second columns name as a test."""
    column = 0
    for line in table.read_text(encoding='utf-8').splitlines():
        if SEPARATOR.fullmatch(line):
            column = line.index(' ')
        elif column and line.startswith('``'):
            named = re.findall(r'``([\w.]+)``', line[column:])
            yield from (reference for reference in named if reference.lower().startswith('test'))


@pytest.mark.parametrize('room', ['processes', 'spec'])
def test_the_tests_of_the_table_exist(room: str) -> None:
    modules = {path.stem: read_module(path) for path in (TESTS / room).glob('test_*.py')}
    module: Module = {}
    inside, seen, missing = '', 0, []
    for reference in references(TESTS / room / 'SCENARIOS.rst'):
        parts = reference.split('.')
        if parts[0] in modules:  # those that follow without a module are in this one
            module, inside = modules[parts.pop(0)], ''
        if parts and parts[0].startswith('Test'):
            inside = parts.pop(0)
        seen += 1
        if inside not in module or (parts and parts[0] not in module[inside] | module['']):
            missing.append(reference)
    assert missing == []
    assert seen > 50
