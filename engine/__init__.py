"""Durable processes for synchronous Python programs.

``run`` and ``submit`` start processes; ``WorkChain``, ``Process``, ``calcfunction`` and ``workfunction`` define them.
Importing this module starts nothing, configures nothing and loads no database.
"""

from __future__ import annotations

from .communication import BroadcastFilter, Communicator, LocalCommunicator
from .default import default_engine, run, run_get_node, run_get_pid, submit
from .engine import Engine
from .errors import (
    AuthenticationFailed,
    BrokerError,
    BrokerRefused,
    BrokerUnavailable,
    CommandTimeout,
    CommunicationError,
    CommunicatorClosed,
    ComputerNotFound,
    ComputerUnreachable,
    ConfigurationError,
    ConnectionLost,
    CorruptValue,
    DuplicateSubscriberIdentifier,
    EngineStopped,
    FileTooLarge,
    HostKeyError,
    InvalidMessage,
    KeyConflict,
    KilledError,
    LeaseLost,
    MessageNotSent,
    OutcomeUnknown,
    ProcessExcepted,
    ProcessNotFound,
    ProcessParked,
    RemoteException,
    ReplayMismatch,
    SpecError,
    StepAborted,
    StoreError,
    StoreFull,
    StoreReadOnly,
    StoreRefused,
    StoreRetired,
    StoreTooNew,
    StoreUnavailable,
    TaskRejected,
    TransportClosed,
    TransportError,
    TransportUnusable,
    TreadleError,
    UnroutableError,
    UnsafeArchive,
    UnstorableValue,
    UnsupportedStore,
    ValidationError,
)
from .exit_code import ExitCode
from .futures import ProcessFuture
from .interruptable import InterruptableFuture, interruptable_task
from .jobs.calcinfo import CalcInfo, CodeInfo, SubmissionFolder
from .jobs.calcjob import CalcJob, RemoteFolder
from .jobs.computer import Computer
from .jobs.monitors import Monitor, RunningJob
from .jobs.shelljob import ShellJob
from .launcher import ProcessLauncher
from .listeners import ProcessListener
from .node import ProcessNode
from .processes.builder import ProcessBuilder
from .processes.functions import calcfunction, workfunction
from .processes.handlers import ProcessHandlerReport, process_handler
from .processes.process import Process
from .processes.restart import BaseRestartWorkChain
from .processes.visit import on_kill
from .processes.workchain import ToContext, WorkChain, append_, assign_
from .retry import exponential_backoff_retry
from .runner import Runner
from .spec import ProcessSpec
from .spec.outline import if_, return_, while_
from .states import ProcessState
from .transports import TransportQueue
from .values import File, Folder, register_codec, register_exception

__all__ = [
    'AuthenticationFailed',
    'BaseRestartWorkChain',
    'BroadcastFilter',
    'BrokerError',
    'BrokerRefused',
    'BrokerUnavailable',
    'CalcInfo',
    'CalcJob',
    'CodeInfo',
    'CommandTimeout',
    'CommunicationError',
    'Communicator',
    'CommunicatorClosed',
    'Computer',
    'ComputerNotFound',
    'ComputerUnreachable',
    'ConfigurationError',
    'ConnectionLost',
    'CorruptValue',
    'DuplicateSubscriberIdentifier',
    'Engine',
    'EngineStopped',
    'ExitCode',
    'File',
    'FileTooLarge',
    'Folder',
    'HostKeyError',
    'InterruptableFuture',
    'InvalidMessage',
    'KeyConflict',
    'KilledError',
    'LeaseLost',
    'LocalCommunicator',
    'MessageNotSent',
    'Monitor',
    'OutcomeUnknown',
    'Process',
    'ProcessBuilder',
    'ProcessExcepted',
    'ProcessFuture',
    'ProcessHandlerReport',
    'ProcessLauncher',
    'ProcessListener',
    'ProcessNode',
    'ProcessNotFound',
    'ProcessParked',
    'ProcessSpec',
    'ProcessState',
    'RemoteException',
    'RemoteFolder',
    'ReplayMismatch',
    'Runner',
    'RunningJob',
    'ShellJob',
    'SpecError',
    'StepAborted',
    'StoreError',
    'StoreFull',
    'StoreReadOnly',
    'StoreRefused',
    'StoreRetired',
    'StoreTooNew',
    'StoreUnavailable',
    'SubmissionFolder',
    'TaskRejected',
    'ToContext',
    'TransportClosed',
    'TransportError',
    'TransportQueue',
    'TransportUnusable',
    'TreadleError',
    'UnroutableError',
    'UnsafeArchive',
    'UnstorableValue',
    'UnsupportedStore',
    'ValidationError',
    'WorkChain',
    'append_',
    'assign_',
    'calcfunction',
    'default_engine',
    'exponential_backoff_retry',
    'if_',
    'interruptable_task',
    'on_kill',
    'process_handler',
    'register_codec',
    'register_exception',
    'return_',
    'run',
    'run_get_node',
    'run_get_pid',
    'submit',
    'while_',
    'workfunction',
]
