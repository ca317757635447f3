"""A read that a step needs may take longer than the lease; then the step is begun only when the database says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from treadle.engine import Engine, Process, ProcessNode, ToContext, WorkChain
from treadle.engine.membership import Membership
from treadle.engine.process_host import ProcessHost

notes: list[str] = []


class Child(Process):
    def run(self) -> None:
        """Nothing."""


class Parent(WorkChain):
    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.outline(cls.begin, cls.gather)

    def begin(self) -> ToContext:
        return ToContext(child=self.submit(Child))

    def gather(self) -> None:
        notes.append('gather')


def test_a_step_whose_context_was_read_past_the_lease_waits_for_the_database(
    make_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine()
    read, confirm = ProcessHost.nodes, Membership.confirm

    def read_for_long(host: ProcessHost, pids: Sequence[int]) -> list[ProcessNode]:
        nodes = read(host, pids)
        engine.core.membership.lease._until = 0.0
        notes.append('read')
        monkeypatch.setattr(ProcessHost, 'nodes', read)
        return nodes

    def noted(membership: Membership) -> Any:
        notes.append('confirmed')
        return confirm(membership)

    monkeypatch.setattr(ProcessHost, 'nodes', read_for_long)
    monkeypatch.setattr(Membership, 'confirm', noted)
    engine.run(Parent)
    after = notes[notes.index('read') + 1 :]
    assert after[0] == 'confirmed' and after.count('gather') == 1
