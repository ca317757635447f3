"""The substrate of Treadle: loops on threads of their own, and the crossings between them.

It knows nothing of processes. The promise of every crossing is *accept or raise*: what was accepted runs, and
a future that was handed out resolves, also when its loop crashes or stops.
"""

from __future__ import annotations

from .blocking import wait
from .bridge import Bridge, CrossingFuture, call_when_done, wait_on_loop
from .errors import Forked, LoopClosed, StartFailed, StopTimeout, ThreadsError, WrongThread
from .fork import ForkGuard, Uncut, run_in_child
from .group import Group, Member
from .loop_thread import LoopState, LoopThread, current_loop_thread, refuse_on_loop_thread
from .mailbox import Mailbox
from .permits import StepThreads
from .single_flight import SingleFlight
from .stacks import stack_of, top_of
from .strand import Strand
from .watchdog import Watchdog

__all__ = [
    'Bridge',
    'CrossingFuture',
    'ForkGuard',
    'Forked',
    'Group',
    'LoopClosed',
    'LoopState',
    'LoopThread',
    'Mailbox',
    'Member',
    'SingleFlight',
    'StartFailed',
    'StepThreads',
    'StopTimeout',
    'Strand',
    'ThreadsError',
    'Uncut',
    'Watchdog',
    'WrongThread',
    'call_when_done',
    'current_loop_thread',
    'refuse_on_loop_thread',
    'run_in_child',
    'stack_of',
    'top_of',
    'wait',
    'wait_on_loop',
]
