"""What ``prepare_for_submission`` fills and returns: a folder of input files, and a :class:`CalcInfo`."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from ..errors import ValidationError
from ..values import File, Folder
from ..values.files import check_path
from .scripts import CONTROL

__all__ = ['CalcInfo', 'CodeInfo', 'SubmissionFolder', 'command_line']


class SubmissionFolder:
    """The folder that becomes the working directory of the job; ``prepare_for_submission`` writes into it.

    :param path: a local folder, which is gone when that method has returned.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def abspath(self) -> str:
        """The absolute path of the local folder."""
        return str(self._path)

    def get_abs_path(self, name: str) -> str:
        """The absolute local path of a file in it.

        :raises ValueError: the name is no plain relative path.
        """
        return str(self._path.joinpath(*check_path(name)))

    def open(self, name: str, mode: str = 'r', encoding: str | None = None) -> IO[Any]:
        """Open a file in it; folders on the way are made if it is to be written."""
        path = Path(self.get_abs_path(name))
        if set(mode) & set('wxa+'):
            path.parent.mkdir(parents=True, exist_ok=True)
        return open(path, mode, encoding=encoding or (None if 'b' in mode else 'utf-8'))

    def write_text(self, name: str, text: str) -> None:
        """Write a file."""
        with self.open(name, 'w') as stream:
            stream.write(text)

    def write_bytes(self, name: str, content: bytes) -> None:
        """Write a file."""
        with self.open(name, 'wb') as stream:
            stream.write(content)

    def __repr__(self) -> str:
        return f'SubmissionFolder({self.abspath!r})'


@dataclasses.dataclass(kw_only=True)
class CodeInfo:
    """One command of a job.

    :ivar executable: the program: a path on the computer, or a name that its shell finds.
    :ivar cmdline_params: its arguments, each passed on as it is.
    :ivar stdin_name: the file that it reads from.
    :ivar stdout_name: the file that it writes to; else its output is the job's.
    :ivar stderr_name: likewise for its errors.
    :ivar join_files: write errors where output goes.
    :ivar withmpi: start it with the computer's ``mpirun_command``; ``None`` as the options say.
    """

    executable: str
    cmdline_params: Sequence[str] = ()
    stdin_name: str | None = None
    stdout_name: str | None = None
    stderr_name: str | None = None
    join_files: bool = False
    withmpi: bool | None = None


@dataclasses.dataclass(kw_only=True)
class CalcInfo:
    """What a job does, beside the files in its folder.

    :ivar codes_info: its commands, in their order.
    :ivar codes_run_mode: ``serial``, or ``parallel`` for all at once.
    :ivar local_copy_list: pairs of a :class:`~treadle.engine.File`, :class:`~treadle.engine.Folder` or local path and
        the relative path to put it at.
    :ivar remote_copy_list: pairs of an absolute path on the computer and the relative path to copy it to.
    :ivar remote_symlink_list: likewise, for symbolic links.
    :ivar retrieve_list: names and patterns (``*``, ``?``, ``[...]``) of files and folders to retrieve when the job has
        ended. What is missing then is no error; see ``Outcome.missing``.
    :ivar prepend_text: shell commands before the first code.
    :ivar append_text: shell commands after the last code.
    """

    codes_info: Sequence[CodeInfo] = ()
    codes_run_mode: str = 'serial'
    local_copy_list: Sequence[tuple[Any, str]] = ()
    remote_copy_list: Sequence[tuple[str, str]] = ()
    remote_symlink_list: Sequence[tuple[str, str]] = ()
    retrieve_list: Sequence[str] = ()
    prepend_text: str = ''
    append_text: str = ''

    def check(self) -> None:
        """See to it that it can be meant.

        :raises ValidationError: names what cannot.
        """
        if not self.codes_info:
            raise ValidationError('CalcInfo.codes_info is empty; a job needs at least one command')
        for code in self.codes_info:
            if not isinstance(code, CodeInfo):
                raise ValidationError(f'CalcInfo.codes_info holds CodeInfo, not {code!r}')
            if not isinstance(code.executable, str) or not code.executable or '\0' in code.executable:
                raise ValidationError(f'CodeInfo.executable must name a program, not {code.executable!r}')
            for parameter in code.cmdline_params:
                if not isinstance(parameter, str) or '\0' in parameter:
                    raise ValidationError(
                        f'CodeInfo.cmdline_params of {code.executable} must be str without NUL, not {parameter!r}'
                    )
            for field in ('stdin_name', 'stdout_name', 'stderr_name'):
                name = getattr(code, field)
                if name is not None:
                    _check_relative(f'CodeInfo.{field}', name)
        if self.codes_run_mode not in ('serial', 'parallel'):
            raise ValidationError(
                f"CalcInfo.codes_run_mode must be 'serial' or 'parallel', not {self.codes_run_mode!r}"
            )
        for pattern in self.retrieve_list:
            _check_relative('CalcInfo.retrieve_list', pattern)
        for field in ('remote_copy_list', 'remote_symlink_list'):
            for source, target in getattr(self, field):
                if not isinstance(source, str) or not source.startswith('/') or '\0' in source:
                    raise ValidationError(f'CalcInfo.{field}: {source!r} is no absolute path on the computer')
                _check_relative(f'CalcInfo.{field}', target)

    def files(self, folder: Path) -> Folder:
        """The files of the folder and those to be copied into it, as one value.

        :raises ValidationError: two of them are to be at one place, or one cannot be read.
        """
        found: dict[str, File | bytes] = dict(Folder(folder))
        for source, target in self.local_copy_list:
            _check_relative('CalcInfo.local_copy_list', target)
            for path, file in _as_files(source, target):
                if path in found:
                    raise ValidationError(f'CalcInfo.local_copy_list: there is a file {path!r} already')
                found[path] = file
        if any(path.split('/')[0] == CONTROL for path in found):
            raise ValidationError(f'the folder {CONTROL} of a job is for its own use; use another name')
        return Folder(found)


def _as_files(source: Any, target: str) -> Iterable[tuple[str, File]]:
    if isinstance(source, File):
        return [(target, source)]
    if isinstance(source, Folder):
        return [(f'{target}/{path}', file) for path, file in source.items()]
    path = Path(source)
    if path.is_dir():
        return _as_files(Folder(path), target)
    try:
        return [(target, File(path))]
    except (OSError, ValueError) as error:
        raise ValidationError(f'CalcInfo.local_copy_list: {source!r} cannot be read: {error}') from error


def _check_relative(what: str, path: object) -> None:
    try:
        check_path(path)
    except ValueError as error:
        raise ValidationError(f'{what}: {error}') from None


def command_line(code: CodeInfo, *, mpirun: Sequence[str] = ()) -> str:
    """The command as a line of shell text, every word quoted."""
    words = [*mpirun, code.executable, *code.cmdline_params]
    line = shlex.join(words)
    if code.stdin_name is not None:
        line += f' < {_file(code.stdin_name)}'
    if code.stdout_name is not None:
        line += f' > {_file(code.stdout_name)}'
    if code.join_files:
        line += ' 2>&1'
    elif code.stderr_name is not None:
        line += f' 2> {_file(code.stderr_name)}'
    return line


def _file(name: str) -> str:
    return shlex.quote(f'./{name}' if name.startswith('-') else name)


def mpirun_words(command: str, extra: Sequence[str], fields: Mapping[str, Any]) -> list[str]:
    """The words that start a program with MPI.

    :raises ValidationError: the computer's command names something that a job does not have.
    """
    try:
        return [*(word.format(**fields) for word in shlex.split(command)), *extra]
    except (KeyError, IndexError, ValueError) as error:
        raise ValidationError(
            f'the mpirun_command {command!r} of the computer cannot be filled in ({error!r}); it may name '
            f'{", ".join(fields)}'
        ) from error
