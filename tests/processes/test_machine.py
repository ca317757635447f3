"""The pure machine: lists of commands for every sequence of events, and nothing else."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from treadle.engine.processes.machine import (
    Claimed,
    Command,
    Committed,
    Ending,
    Event,
    InvalidTransition,
    LeaseLapsed,
    Life,
    PausedBefore,
    Phase,
    Refused,
    StepEnded,
    StepParked,
    StepUnwound,
    StopRequested,
    StoreFailed,
    Unreadable,
    handle,
)
from treadle.engine.states import ProcessState

EVENTS: list[Event] = [
    Claimed(),
    *(StepEnded(ending) for ending in Ending),
    StepUnwound(),
    StepParked(),
    Committed(),
    Committed(satisfied=True),
    Committed(paused=True),
    Committed(satisfied=True, paused=True),
    PausedBefore(),
    LeaseLapsed(),
    Refused(),
    StoreFailed(),
    Unreadable(),
    StopRequested(),
]


def play(*events: Event, state: ProcessState = ProcessState.CREATED) -> list[list[Command]]:
    life = Life(state)
    lists = []
    for event in events:
        life, commands = handle(life, event)
        lists.append(list(commands))
    return lists


def sequences(length: int) -> Iterator[tuple[list[Event], list[Command], Life]]:
    """All possible lives of up to ``length`` events, with their commands in one list, and where each led."""
    front: list[tuple[list[Event], list[Command], Life]] = [
        ([], [], Life(state))
        for state in (ProcessState.CREATED, ProcessState.RUNNING)
    ]
    for _ in range(length):
        following = []
        for events, commands, life in front:
            for event in EVENTS:
                try:
                    after, more = handle(life, event)
                except InvalidTransition:
                    continue
                following.append(([*events, event], [*commands, *more], after))
        yield from following
        front = following


class TestWhatFollowsWhat:
    def test_two_steps_and_the_end(self):
        assert play(
            Claimed(), StepEnded(Ending.PROCEED), Committed(), StepEnded(Ending.FINISH), Committed()
        ) == [
            [Command.TAKE_STEP],
            [Command.COMMIT],
            [Command.TAKE_STEP],
            [Command.COMMIT],
            [Command.LEAVE],
        ]

    def test_a_step_that_raises(self):
        assert play(Claimed(), StepEnded(Ending.RAISE), Committed())[1:] == [[Command.COMMIT], [Command.LEAVE]]

    def test_waiting_leaves_the_worker(self):
        assert play(Claimed(), StepEnded(Ending.AWAIT), Committed())[1:] == [[Command.COMMIT], [Command.LEAVE]]

    def test_a_wait_that_is_over_before_it_began(self):
        assert play(Claimed(), StepEnded(Ending.AWAIT), Committed(satisfied=True))[1:] == [
            [Command.COMMIT],
            [Command.TAKE_STEP],
        ]

    @pytest.mark.parametrize('ending', list(Ending))
    @pytest.mark.parametrize('satisfied', [False, True])
    def test_a_paused_process_is_left_behind_its_commit(self, ending, satisfied):
        """The commit itself has released the row, so there is no moment in which a play would miss it."""
        assert play(Claimed(), StepEnded(ending), Committed(satisfied=satisfied, paused=True))[2] == [Command.LEAVE]

    def test_a_pause_before_a_step_begins_gives_the_claim_back(self):
        assert play(Claimed(), PausedBefore())[1] == [Command.SET_ASIDE, Command.LEAVE]

    def test_a_step_that_the_lease_did_not_allow_is_taken_when_it_does(self):
        assert play(Claimed(), LeaseLapsed(), LeaseLapsed())[1:] == [[Command.TAKE_STEP], [Command.TAKE_STEP]]
        assert play(Claimed(), StopRequested(), LeaseLapsed())[2] == [Command.RELEASE, Command.LEAVE]

    def test_an_aborted_step_has_no_result(self):
        assert play(Claimed(), StepUnwound())[1] == [Command.DISCARD, Command.RELEASE, Command.LEAVE]

    def test_what_cannot_go_on_is_parked(self):
        assert play(Claimed(), StepParked())[1] == [Command.PARK, Command.LEAVE]
        assert play(StepParked()) == [[Command.PARK, Command.LEAVE]]
        assert play(Claimed(), StepEnded(Ending.PROCEED), StepParked())[2] == [Command.PARK, Command.LEAVE]

    def test_a_row_that_has_moved_on_is_left_alone(self):
        assert play(Claimed(), StepEnded(Ending.FINISH), Refused())[2] == [Command.DISCARD, Command.LEAVE]

    def test_a_store_that_fails_is_asked_again(self):
        assert play(
            Claimed(), StepEnded(Ending.PROCEED), StoreFailed(), StoreFailed(), Committed()
        )[2:] == [[Command.COMMIT_AGAIN], [Command.COMMIT_AGAIN], [Command.TAKE_STEP]]

    def test_a_store_that_fails_while_the_engine_stops(self):
        assert play(Claimed(), StepEnded(Ending.PROCEED), StopRequested(), StoreFailed())[3] == [
            Command.DISCARD,
            Command.RELEASE,
            Command.LEAVE,
        ]

    def test_what_cannot_be_read_now_is_read_again(self):
        assert play(Claimed(), Unreadable(), Unreadable(), StepEnded(Ending.FINISH))[1:] == [
            [Command.TAKE_STEP_AGAIN],
            [Command.TAKE_STEP_AGAIN],
            [Command.COMMIT],
        ]
        assert play(Claimed(), StopRequested(), Unreadable())[2] == [Command.RELEASE, Command.LEAVE]

    @pytest.mark.parametrize('when', range(4))
    def test_stopping_lets_the_step_commit_and_starts_no_other(self, when):
        events: list[Event] = [Claimed(), StepEnded(Ending.PROCEED), Committed()]
        events.insert(when, StopRequested())
        lists = play(*events[:2]) if when == 0 else play(*events)
        assert lists[when] == []
        if when == 0:
            assert lists[1] == [Command.RELEASE, Command.LEAVE]
        elif when < 3:
            assert lists[-1] == [Command.RELEASE, Command.LEAVE]
        else:
            assert lists[2] == [Command.TAKE_STEP]

    def test_stopping_is_no_failure_of_what_has_ended(self):
        assert play(Claimed(), StopRequested(), StepEnded(Ending.FINISH), Committed())[2:] == [
            [Command.COMMIT],
            [Command.LEAVE],
        ]


class TestForAllSequences:
    def test_there_are_many(self):
        assert sum(1 for _ in sequences(6)) > 1000

    def test_no_step_before_the_commit_of_the_one_before(self):
        for events, commands, _ in sequences(7):
            committed = True
            index = 0
            life = Life(ProcessState.CREATED)
            for event in events:
                life, more = handle(life, event)
                if isinstance(event, (Committed, LeaseLapsed)):  # after the latter the step has not begun
                    committed = True
                for command in more:
                    assert command is commands[index]
                    index += 1
                    if command is Command.TAKE_STEP:
                        assert committed, events
                        committed = False

    def test_a_list_holds_one_of_the_commands_that_lead_on_at_most(self):
        leading = {
            Command.TAKE_STEP,
            Command.TAKE_STEP_AGAIN,
            Command.COMMIT,
            Command.COMMIT_AGAIN,
            Command.LEAVE,
        }
        for life, event in itertools.product(_lives(), EVENTS):
            try:
                _, commands = handle(life, event)
            except InvalidTransition:
                continue
            assert sum(command in leading for command in commands) <= 1
            assert Command.LEAVE not in commands[:-1]

    def test_nothing_happens_after_leaving(self):
        for events, commands, life in sequences(7):
            assert commands.count(Command.LEAVE) == (life.phase is Phase.LEFT), events
            if life.phase is Phase.LEFT:
                assert commands[-1] is Command.LEAVE

    def test_what_has_left_hears_nothing_but_that_the_engine_stops(self):
        left = Life(ProcessState.FINISHED, Phase.LEFT)
        for event in EVENTS:
            if isinstance(event, StopRequested):
                assert handle(left, event)[1] == ()
            else:
                with pytest.raises(InvalidTransition, match='finished'):
                    handle(left, event)

    def test_no_step_is_taken_once_the_engine_stops(self):
        for events, _, _ in sequences(6):
            life, stopping = Life(ProcessState.CREATED), False
            for event in events:
                stopping = stopping or isinstance(event, StopRequested)
                life, commands = handle(life, event)
                assert not (stopping and {Command.TAKE_STEP, Command.TAKE_STEP_AGAIN}.intersection(commands)), events

    def test_the_claim_is_given_back_unless_the_row_says_who_has_it(self):
        """Left without release, a row must be terminal, waiting or somebody else's."""
        for events, commands, life in sequences(6):
            if life.phase is not Phase.LEFT:
                continue
            given_back = not {Command.RELEASE, Command.PARK, Command.SET_ASIDE}.isdisjoint(commands)
            paused = any(isinstance(event, Committed) and event.paused for event in events)  # given back by the commit
            lost = any(isinstance(event, Refused) for event in events)
            at_rest = life.state.is_terminal or life.state is ProcessState.WAITING
            assert given_back or lost or at_rest or paused, events

    def test_handling_changes_no_life(self):
        life = Life(ProcessState.CREATED)
        handle(life, Claimed())
        assert life == Life(ProcessState.CREATED)


def _lives() -> Iterator[Life]:
    for state, phase, stopping in itertools.product(ProcessState, Phase, (False, True)):
        yield Life(state, phase, stopping)
