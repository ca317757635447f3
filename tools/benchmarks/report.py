"""What a benchmark found, as a table for people or JSON for machines."""

from __future__ import annotations

import dataclasses
import json
import sys


@dataclasses.dataclass(frozen=True)
class Row:
    """One figure of Treadle's beside its reference from the same run.

    ``goal`` is what ``ratio`` (Treadle's figure over the reference) should reach at least, or at most where
    ``less_is_better``.
    """

    name: str
    unit: str
    treadle: float
    reference: float
    reference_name: str
    goal: float
    less_is_better: bool = False

    @property
    def ratio(self) -> float:
        """Treadle's figure as a multiple of the reference."""
        return self.treadle / self.reference

    @property
    def reached(self) -> bool:
        """Whether the goal is met."""
        return self.ratio <= self.goal if self.less_is_better else self.ratio >= self.goal


def show(rows: list[Row], *, as_json: bool) -> None:
    """Print the rows."""
    if as_json:
        found = [{**dataclasses.asdict(row), 'ratio': row.ratio, 'reached': row.reached} for row in rows]
        json.dump(found, sys.stdout, indent=2)
        print()
        return
    print(f'{"":44} {"Treadle":>10} {"reference":>10} {"unit":8} {"ratio":>6}  goal')
    for row in rows:
        bound = '<=' if row.less_is_better else '>='
        verdict = '' if row.reached else '  MISSED'
        print(
            f'{row.name:44} {row.treadle:10,.3g} {row.reference:10,.3g} {row.unit:8} {row.ratio:6.2f}  '
            f'{bound} {row.goal:g} of {row.reference_name}{verdict}'
            if row.treadle < 1000
            else f'{row.name:44} {row.treadle:10,.0f} {row.reference:10,.0f} {row.unit:8} {row.ratio:6.2f}  '
            f'{bound} {row.goal:g} of {row.reference_name}{verdict}'
        )
