"""``CalcJob``: a process whose work is a job on a computer.

It takes two steps. The first lets the class prepare its files and commands; with it commits what is to be run, as
plain data, and the process goes to wait: it is a row, and holds nothing. What happens on the computer is the desk's
work, for which the class is not needed. The second step begins when what was to be retrieved is in the store, and lets
the class parse it. The vocabulary is that of ``aiida.engine.CalcJob``.
"""

from __future__ import annotations

import dataclasses
import inspect
import tempfile
from collections.abc import Awaitable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ..errors import SpecError, ValidationError
from ..exit_code import ExitCode
from ..processes.machine import Ending
from ..processes.process import Process, StepResult, as_exit_code
from ..spec import ProcessSpec
from ..store.job_records import JobRecord
from ..values import Folder
from .calcinfo import CalcInfo, SubmissionFolder
from .computer import Computer
from .monitors import Monitor
from .options import OPTIONS, declare_options, split_metadata
from .protocol import JobState, Outcome, Verdict
from .request import make_request
from .schedulers import scheduler_of

if TYPE_CHECKING:
    from ..node import ProcessNode

__all__ = ['CalcJob', 'RemoteFolder']

_PREPARE, _PARSE = 'prepare', 'parse'


@dataclasses.dataclass(frozen=True, slots=True)
class RemoteFolder:
    """A folder on a computer, such as the working directory of a job.

    :ivar computer: the computer's name.
    :ivar path: the absolute path there.
    """

    computer: str
    path: str


class CalcJob(Process):
    """A job on a computer.

    Derive from it, declare the ports in :meth:`define`, fill a folder and say what to run in
    :meth:`prepare_for_submission`, and make outputs of what comes back in :meth:`parse`. Whatever crashes meanwhile,
    the commands run once; see ``docs/jobs.rst``.

    Where and how it runs is said by the options, ``metadata={'options': {...}}``.
    """

    def __init__(self, *, node: ProcessNode, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        super().__init__(node=node, inputs=inputs, outputs=outputs)
        self._stage = _PREPARE
        self._outcome: Outcome | None = None

    @classmethod
    def define(cls, spec: ProcessSpec) -> None:
        """Declare the options, outputs and exit codes that every job has; call it as ``super().define(spec)``."""
        super().define(spec)
        declare_options(spec)
        spec.input_namespace(
            'monitors', dynamic=True, valid_type=Monitor, required=False, help='what looks at the job while it runs'
        )
        spec.output('remote_folder', valid_type=RemoteFolder, required=False, help='where the job has run')
        spec.output('retrieved', valid_type=Folder, required=False, help='the files that were retrieved')
        spec.exit_code(100, 'ERROR_NO_RETRIEVED_FOLDER', 'The files of the job could not be retrieved: {detail}')
        spec.exit_code(110, 'ERROR_SCHEDULER_OUT_OF_MEMORY', 'The job ran out of memory.')
        spec.exit_code(120, 'ERROR_SCHEDULER_OUT_OF_WALLTIME', 'The job ran out of walltime.')
        spec.exit_code(130, 'ERROR_SUBMISSION_REFUSED', 'The scheduler did not take the job: {detail}')
        spec.exit_code(131, 'ERROR_SCHEDULER_INVALID_ACCOUNT', 'The scheduler did not take the account: {detail}')
        spec.exit_code(132, 'ERROR_UPLOAD_FAILED', 'The files of the job could not be put there: {detail}')
        spec.exit_code(140, 'ERROR_SCHEDULER_NODE_FAILURE', 'The node of the job failed: {detail}')
        spec.exit_code(141, 'ERROR_JOB_CANCELLED', 'The job was cancelled on the computer: {detail}')
        spec.exit_code(142, 'ERROR_JOB_VANISHED', 'The scheduler knows the job no more, which left no word: {detail}')
        spec.exit_code(143, 'ERROR_SCHEDULER_FAILED', 'The scheduler ended the job: {detail}')
        spec.exit_code(150, 'STOPPED_BY_MONITOR', '{detail}')

    @classmethod
    def _complete_spec(cls, spec: ProcessSpec) -> None:
        if cls.run is not Process.run:
            raise SpecError(f'{cls.__name__} overrides run(), which a job does not have; see prepare_for_submission()')
        if cls.prepare_for_submission is CalcJob.prepare_for_submission and cls is not CalcJob:
            raise SpecError(f'{cls.__name__} does nothing: override prepare_for_submission()')

    @classmethod
    def _split_metadata(cls, metadata: Any, values: dict[str, Any]) -> Any:
        return split_metadata(cls.__name__, metadata, values)

    @classmethod
    def _check_inputs(cls, inputs: Mapping[str, Any]) -> None:
        chosen = inputs[OPTIONS]['computer']
        name = chosen.name if isinstance(chosen, Computer) else chosen
        for path, folder in _remote_folders(inputs, ''):
            if folder.computer != name:
                raise ValidationError(
                    f'{cls.__name__}: {path} is a folder on computer {folder.computer!r}, and the job is to run on '
                    f'{name!r} (options.computer), which does not see it; run it on {folder.computer!r}, or give the '
                    f'files themselves, such as the retrieved ones'
                )

    # -- what a subclass does ------------------------------------------------------------------------------

    def prepare_for_submission(self, folder: SubmissionFolder) -> CalcInfo:
        """Write the input files of the job into ``folder``, and say what to run and to retrieve.

        :param folder: a local folder, whose contents become those of the job's working directory.
        """
        raise NotImplementedError(f'{type(self).__name__} has no prepare_for_submission()')

    def parse(self, retrieved: Folder) -> ExitCode | int | None:
        """Make outputs of what was retrieved; what the job said of its end is in :attr:`outcome`.

        :returns: an exit code, which counts more than what the scheduler says if it is not 0; ``None`` for none.
        """
        return None

    @property
    def options(self) -> Any:
        """The options of this job."""
        return self.inputs[OPTIONS]

    @property
    def outcome(self) -> Outcome:
        """How the job has ended; in :meth:`parse`.

        :raises RuntimeError: it has not.
        """
        if self._outcome is None:
            raise RuntimeError(f'the job of process {self.pid} has not ended; its outcome is known in parse()')
        return self._outcome

    # -- for the runner ----------------------------------------------------------------------------------------

    def _save(self) -> Any:
        return {'stage': self._stage}

    def _restore(self, checkpoint: Any) -> None:
        self._stage = checkpoint['stage']

    def _begin_step(self) -> StepResult | Awaitable[Any]:
        return self._prepare() if self._stage == _PREPARE else self._conclude()

    def _prepare(self) -> StepResult:
        visit = self._here()
        computer: Computer = visit.host.computer(visit, self.options.computer)
        with tempfile.TemporaryDirectory(prefix='treadle-job-') as path:
            calc_info = self.prepare_for_submission(SubmissionFolder(Path(path)))
            if not isinstance(calc_info, CalcInfo):
                raise TypeError(
                    f'{type(self).__name__}.prepare_for_submission returned {calc_info!r}; return a CalcInfo'
                )
            monitors = [
                {'name': name, **monitor.to_data()} for name, monitor in (self.inputs.get('monitors') or {}).items()
            ]
            request = make_request(calc_info, Path(path), self.options, computer, monitors)
            # Here, while the files are there; a store that is away is waited for.
            encoded = visit.host.insist(visit, lambda: visit.host.codec.encode(request.to_data(), 'job'))
        for option in request.resources.given(scheduler_of(computer.scheduler).lacks):
            self.report(
                'computer %s: its scheduler %r has no use for %s', computer.name, computer.scheduler, option
            )
        self._stage = _PARSE
        job = JobRecord(self.pid, computer.name, JobState.PREPARED, encoded, monitored=1 if monitors else 0)
        return StepResult(Ending.AWAIT, next_step=_PARSE, job=job)

    def _conclude(self) -> StepResult | Awaitable[Any]:
        visit = self._here()
        job = visit.host.insist(visit, lambda: visit.host.job(self.pid))
        self._outcome = msgspec.json.decode(job.outcome or '{"verdict": "vanished"}', type=Outcome)
        if job.folder is not None:
            self.out('remote_folder', RemoteFolder(job.computer, job.folder))
        if job.retrieved is None:
            unretrieved = self._code('ERROR_NO_RETRIEVED_FOLDER', self._outcome.unretrieved)
            return self._finish(self._code_of_end() or unretrieved)
        retrieved: Folder = visit.host.codec.decode(job.retrieved)
        self.out('retrieved', retrieved)
        stderr = retrieved.get(self.options.scheduler_stderr)
        text = '' if stderr is None or stderr.size > 1_000_000 else stderr.read_text(errors='replace')
        if self._outcome.verdict in (Verdict.ENDED, Verdict.FAILED, Verdict.VANISHED, Verdict.CANCELLED):
            computer = visit.host.computer(visit, job.computer)
            said = scheduler_of(computer.scheduler).verdict_of_text(text)
            if said is not None:
                self._outcome = msgspec.structs.replace(self._outcome, verdict=said)
        returned = self.parse(retrieved)
        return returned if inspect.isawaitable(returned) else self._end_step(returned)

    def _end_step(self, returned: Any) -> StepResult:
        parsed = as_exit_code(type(self).__name__, returned)
        return self._finish(parsed if parsed.status else self._code_of_end() or parsed)

    def _code_of_end(self) -> ExitCode | None:
        """The exit code for what is known of the job's end; ``None`` when its commands came to their end."""
        outcome = self.outcome
        label = _LABELS.get(outcome.verdict)
        if label is None:
            return None
        code = self._code(label, outcome.detail)
        return code if outcome.code is None else ExitCode(outcome.code, code.message)

    def _code(self, label: str, detail: str) -> ExitCode:
        code: ExitCode = self.exit_codes[label]
        return code.format(detail=detail.strip() or 'nothing more is known')


def _remote_folders(values: Mapping[str, Any], place: str) -> Iterator[tuple[str, RemoteFolder]]:
    for name, value in values.items():
        if isinstance(value, RemoteFolder):
            yield f'{place}{name}', value
        elif isinstance(value, Mapping):
            yield from _remote_folders(value, f'{place}{name}.')


_LABELS = {
    Verdict.TIMEOUT: 'ERROR_SCHEDULER_OUT_OF_WALLTIME',
    Verdict.MEMORY: 'ERROR_SCHEDULER_OUT_OF_MEMORY',
    Verdict.NODE: 'ERROR_SCHEDULER_NODE_FAILURE',
    Verdict.CANCELLED: 'ERROR_JOB_CANCELLED',
    Verdict.FAILED: 'ERROR_SCHEDULER_FAILED',
    Verdict.VANISHED: 'ERROR_JOB_VANISHED',
    Verdict.MONITOR: 'STOPPED_BY_MONITOR',
    Verdict.REFUSED: 'ERROR_SUBMISSION_REFUSED',
    Verdict.ACCOUNT: 'ERROR_SCHEDULER_INVALID_ACCOUNT',
    Verdict.UPLOAD: 'ERROR_UPLOAD_FAILED',
}
