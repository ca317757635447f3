"""The table of scenarios names tests that there are."""

from __future__ import annotations

import ast
import re
from pathlib import Path

HERE = Path(__file__).parent


def test_the_tests_of_the_table_exist():
    there: set[str] = set()
    for path in HERE.glob('test_*.py'):
        nodes = ast.walk(ast.parse(path.read_text(encoding='utf-8')))
        there |= {path.stem} | {node.name for node in nodes if isinstance(node, (ast.ClassDef, ast.FunctionDef))}
    column, seen, missing = 0, 0, []
    for line in (HERE / 'SCENARIOS.rst').read_text(encoding='utf-8').splitlines():
        if re.fullmatch(r'=+ =+', line):
            column = line.index(' ')
        elif column and line.startswith('``'):
            parts = [part for name in re.findall(r'``([\w.]+)``', line[column:]) for part in name.split('.')]
            seen += len(parts)
            missing += [part for part in parts if part not in there]
    assert missing == []
    assert seen > 20
