"""``ShellJob``: any command as a job, with files in and files out, without a class of one's own."""

from __future__ import annotations

import shlex
from typing import Any

from ..exit_code import ExitCode
from ..spec import ProcessSpec
from ..values import File, Folder
from .calcinfo import CalcInfo, CodeInfo, SubmissionFolder
from .calcjob import CalcJob

__all__ = ['ShellJob']

STDOUT, STDERR = 'stdout', 'stderr'


class ShellJob(CalcJob):
    """Runs a command on a computer and gives back what it wrote. ::

        outputs = run(ShellJob, command='sort', arguments=['names.txt'], files={'names': File('names.txt')})
        outputs['stdout'].read_text()

    A text as ``arguments`` is taken apart as a shell would do it, without any expansion.
    """

    @classmethod
    def define(cls, spec: ProcessSpec) -> None:
        """Declare what a command takes and gives."""
        super().define(spec)
        spec.input('command', valid_type=str, validator=_check_command, help='the program: a path, or a name to find')
        spec.input('arguments', valid_type=(list, tuple, str), default=list, help='its arguments')
        spec.input_namespace(
            'files',
            dynamic=True,
            valid_type=(File, Folder),
            required=False,
            help='files by any name, put there under the names that they have; folders under the name given here',
        )
        spec.input(
            'filenames', valid_type=dict, default=dict, help='other paths for files and folders, by their names above'
        )
        spec.input('stdin', valid_type=File, required=False, help='what the command reads')
        spec.input('retrieve', valid_type=(list, tuple), default=list, help='names and patterns of files to retrieve')
        spec.output('stdout', valid_type=File, required=False, help='what it has written')
        spec.output('stderr', valid_type=File, required=False, help='what it has written of errors')
        spec.output('exit_code', valid_type=int, required=False, help='its exit code')
        spec.output_namespace('files', dynamic=True, help='the single files that were retrieved by their names')
        spec.exit_code(300, 'ERROR_COMMAND_NOT_FOUND', 'The command was not found or cannot be run: {stderr}')
        spec.exit_code(310, 'ERROR_COMMAND_FAILED', 'The command ended with exit code {status}: {stderr}')
        spec.exit_code(303, 'ERROR_OUTPUT_FILES_MISSING', 'These files were not there at the end: {missing}')

    def prepare_for_submission(self, folder: SubmissionFolder) -> CalcInfo:
        """Put the files there, and run the command."""
        inputs = self.inputs
        arguments = inputs.arguments
        words = shlex.split(arguments) if isinstance(arguments, str) else [str(word) for word in arguments]
        copies: list[tuple[Any, str]] = []
        for name, value in (inputs.get('files') or {}).items():
            place = inputs.filenames.get(name) or (value.name if isinstance(value, File) else name)
            copies.append((value, place))
        if 'stdin' in inputs:
            copies.append((inputs.stdin, 'stdin'))
        return CalcInfo(
            codes_info=[
                CodeInfo(
                    executable=inputs.command,
                    cmdline_params=words,
                    stdin_name='stdin' if 'stdin' in inputs else None,
                    stdout_name=STDOUT,
                    stderr_name=STDERR,
                )
            ],
            local_copy_list=copies,
            retrieve_list=[STDOUT, STDERR, *inputs.retrieve],
        )

    def parse(self, retrieved: Folder) -> ExitCode | None:
        """Take the files over as outputs."""
        told = {STDOUT, STDERR, self.options.scheduler_stdout, self.options.scheduler_stderr}
        for name in (STDOUT, STDERR):
            if name in retrieved:
                self.out(name, retrieved[name])
        for path, file in retrieved.items():
            if path not in told and _as_name(path):
                self.out(f'files.{_as_name(path)}', file)
        status = self.outcome.exit_code
        if status is not None:
            self.out('exit_code', status)
        if not self.outcome.has_ended:
            return None  # why it was ended says more
        said = retrieved[STDERR].read_text(errors='replace')[-500:].strip() if STDERR in retrieved else ''
        if status in (126, 127):
            # The shell that did not find it has said so where the job's own errors go.
            scheduler = retrieved.get(self.options.scheduler_stderr)
            said = said or ('' if scheduler is None else scheduler.read_text(errors='replace')[-500:].strip())
            return self.exit_codes.ERROR_COMMAND_NOT_FOUND.format(stderr=said)
        if status:
            return self.exit_codes.ERROR_COMMAND_FAILED.format(status=status, stderr=said or 'nothing was said')
        missing = [name for name in self.outcome.missing if name in self.inputs.retrieve]
        if missing:
            return self.exit_codes.ERROR_OUTPUT_FILES_MISSING.format(missing=', '.join(missing))
        return None


def _as_name(path: str) -> str:
    """The name of an output for a file: what cannot be in one becomes an underscore; nothing for one that has none."""
    name = ''.join(letter if letter.isalnum() and letter.isascii() else '_' for letter in path).strip('_')
    return f'file_{name}' if name[:1].isdigit() else name


def _check_command(command: str) -> str | None:
    if not command or set('\n\0') & set(command):
        return f'must name a program, not {command!r}'
    return None
