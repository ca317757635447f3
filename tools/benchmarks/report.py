"""What a benchmark found, as a table for people or JSON for machines."""

from __future__ import annotations

import dataclasses
import json
import sys

#: Of the names.
WIDTH = 52


@dataclasses.dataclass(frozen=True)
class Row:
    """One figure of Treadle's beside its reference from the same run.

    ``goal`` is what ``ratio`` (Treadle's figure over the reference) should reach at least, or at most where
    ``less_is_better``; ``None`` where the figure is only to be looked at.
    """

    name: str
    unit: str
    treadle: float
    reference: float
    reference_name: str
    goal: float | None
    less_is_better: bool = False

    @property
    def ratio(self) -> float:
        """Treadle's figure as a multiple of the reference."""
        return self.treadle / self.reference

    @property
    def reached(self) -> bool:
        """Whether the goal is met, if there is one."""
        if self.goal is None:
            return True
        return self.ratio <= self.goal if self.less_is_better else self.ratio >= self.goal


def show(rows: list[Row], *, as_json: bool) -> None:
    """Print the rows."""
    if as_json:
        found = [{**dataclasses.asdict(row), 'ratio': row.ratio, 'reached': row.reached} for row in rows]
        json.dump(found, sys.stdout, indent=2)
        print()
        return
    print(f'{"":{WIDTH}} {"Treadle":>10} {"reference":>10} {"unit":8} {"ratio":>6}  goal')
    for row in rows:
        form = ',.3g' if row.treadle < 1000 else ',.0f'
        figures = f'{row.treadle:10{form}} {row.reference:10{form}}'
        if row.goal is None:
            goal = f'({row.reference_name})'
        else:
            bound = '<=' if row.less_is_better else '>='
            goal = f'{bound} {row.goal:g} of {row.reference_name}{"" if row.reached else "  MISSED"}'
        print(f'{row.name:{WIDTH}} {figures} {row.unit:8} {row.ratio:6.2f}  {goal}')
