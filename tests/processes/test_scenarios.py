"""The table of scenarios names tests that there are."""

from __future__ import annotations

import ast
import re
from pathlib import Path

HERE = Path(__file__).parent
SEPARATOR = re.compile(r'=+ =+')


def names_in(path: Path) -> set[str]:
    """The module, its test classes and its tests."""
    nodes = ast.walk(ast.parse(path.read_text(encoding='utf-8')))
    defined = {node.name for node in nodes if isinstance(node, (ast.ClassDef, ast.FunctionDef))}
    return {path.stem} | {name for name in defined if name.lower().startswith('test')}


def test_the_tests_of_the_table_exist():
    there = set().union(*(names_in(path) for path in HERE.glob('test_*.py')))
    column, seen, missing = 0, 0, []
    for line in (HERE / 'SCENARIOS.rst').read_text(encoding='utf-8').splitlines():
        if SEPARATOR.fullmatch(line):
            column = line.index(' ')
        elif column and line.startswith('``'):
            for reference in re.findall(r'``([\w.]+)``', line[column:]):
                parts = [part for part in reference.split('.') if part.lower().startswith('test')]
                seen += len(parts)
                missing += [reference for part in parts if part not in there]
    assert missing == []
    assert seen > 100
