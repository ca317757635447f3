"""The errors of Treadle's engine: one small tree, every message says what to do next."""

from __future__ import annotations

from typing import ClassVar


class TreadleError(Exception):
    """Base of every error that the engine raises on purpose."""


class ConfigurationError(TreadleError, ValueError):
    """A setting of the engine, an argument or an environment variable, makes no sense."""


class ValidationError(TreadleError, ValueError):
    """Inputs or outputs do not fit the spec; the message lists every problem with its port's path."""


class SpecError(TreadleError, TypeError):
    """A ``define()`` or an outline contradicts itself or names what is not there."""


class UnstorableValue(TreadleError, TypeError):
    """A value cannot be written as data; the message begins with the value's path."""


class CorruptValue(TreadleError, ValueError):
    """Stored data does not decode to a value."""


class StoreError(TreadleError):
    """Base of what can be wrong with a store."""


class StoreUnavailable(StoreError):
    """The store cannot be opened or reached."""


class StoreRefused(StoreUnavailable):
    """A database server does not let us in: something has to be set right, and waiting does not help."""


class OutcomeUnknown(StoreError):
    """Whether a database has taken a transaction could not be learned; it was not written again."""


class StoreLost(StoreError):
    """The store is not one that this Treadle may write to, and will not become one: an engine that was at work ends."""


class StoreTooNew(StoreLost):
    """The store was written by a newer Treadle than this one."""


class StoreReadOnly(StoreError):
    """The store, or the disk below it, does not let us write."""


class StoreFull(StoreError):
    """The disk below the store has no room left."""


class UnsupportedStore(StoreError):
    """The store's URL or file system cannot carry a store."""


class StoreRetired(StoreLost):
    """The store was closed for good: what was in it goes on in another one."""


class BadArchive(StoreError):
    """A file is no export of a store, or is damaged; or one cannot be made."""


class KeyConflict(TreadleError):
    """A ``key`` is in use by a process of another class or with other inputs."""


class ProcessNotFound(TreadleError, LookupError):
    """The store holds no process with that pid."""


class ComputerNotFound(TreadleError, LookupError):
    """The store knows no computer of that name; says which there are."""


class ProcessExcepted(TreadleError):
    """A process ended with an exception that cannot be rebuilt here; the message names its type."""


class KilledError(TreadleError):
    """The process was killed."""


class EngineStopped(TreadleError):
    """The engine stopped before the process ended; the process stays runnable in the store."""


class CommunicationError(TreadleError):
    """Base of what can be wrong with a message; the names of those below are ``kiwipy``'s."""


class InvalidMessage(CommunicationError, ValueError):
    """What was sent is no message of the kind that it should be; says what is wrong with it."""


class TaskRejected(CommunicationError):
    """A subscriber does not do this task; raised by it, and told to the sender when all have raised it."""


class TaskInvalid(TaskRejected):
    """The task is wrong in itself: nobody could do it."""


class RemoteException(CommunicationError):
    """The recipient of a message raised; names the error, which is the cause where it is at hand."""


class UnroutableError(CommunicationError, LookupError):
    """Nobody answers to that identifier."""


class DuplicateSubscriberIdentifier(CommunicationError, ValueError):
    """There is a subscriber under that identifier."""


class CommunicatorClosed(CommunicationError):
    """The communicator takes no more messages, or closed before this one was delivered."""


class MessageNotSent(CommunicationError):
    """The broker could not be given a message in time, or an answer can no longer come; says which."""


class BrokerError(CommunicationError):
    """Base of what can be wrong with the broker; no message shows a password."""


class BrokerUnavailable(BrokerError):
    """The broker cannot be reached, or does not answer; that may be over in a while."""


class BrokerRefused(BrokerError):
    """The broker does not let us in, or not onto this virtual host: something has to be set right."""


class TransportError(TreadleError):
    """Base of what can be wrong between here and a computer.

    :cvar transient: whether the same may work later, with nobody doing anything.
    """

    transient: ClassVar[bool] = False


class ComputerUnreachable(TransportError):
    """No connection to the computer could be made; nothing was asked of it."""

    transient = True


class ConnectionLost(TransportError):
    """The connection broke in the middle; whether the computer has done what it was asked for is not known."""

    transient = True


class CommandTimeout(TransportError, TimeoutError):
    """A command did not end in time; it may have done its work, or still be doing it."""

    transient = True


class AuthenticationFailed(TransportError):
    """The computer does not let us in; trying again and again may get the account locked."""


class HostKeyError(TransportError):
    """The computer's host key is not known, or is another one than before; says how to add one after checking it."""


class TransportUnusable(TransportError):
    """The computer lets us in but cannot do what a transport needs, such as sftp; says what is missing."""


class TransportClosed(TransportError):
    """The transport, or the queue or engine that it belongs to, was closed here."""


class UnsafeArchive(TransportError, ValueError):
    """What is being fetched would be written, or would lead, outside its target folder; names the entry."""


class FileTooLarge(TransportError, ValueError):
    """What is being fetched is larger than the caller wants; names it and its size."""


class StepAborted(BaseException):
    """Unwinds a step whose result can no longer count.

    It derives from :class:`BaseException` so that a step's own ``except Exception`` lets it through.
    """


class LeaseLost(StepAborted):
    """The engine may no longer act for the process; another engine may have taken it over."""


class ReplayMismatch(StepAborted):
    """A replayed step made another call than the one that is on record; the process is parked."""


class CodeChanged(TreadleError):
    """The class of a stored process no longer fits what the process began with.

    :ivar step: the step or condition before which it stands, where that counts.
    """

    def __init__(self, message: str, step: str = '') -> None:
        super().__init__(message)
        self.step = step


class ProcessParked(TreadleError):
    """This engine cannot go on with the process and leaves it as it is; the message says why."""
