"""What is kept of a job until it is started and looked after, as plain data: nothing of it needs the user's class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ..values import Folder
from .calcinfo import CalcInfo, command_line, mpirun_words
from .computer import Computer
from .options import resources_of
from .schedulers import JobResources, scheduler_of
from .scripts import commands_script, job_script

__all__ = ['JobRequest', 'make_request']


class JobRequest(msgspec.Struct, frozen=True):
    """A job as it is to be run.

    :ivar files: what its folder holds when it starts.
    :ivar commands: what it does, as shell text.
    :ivar shebang: the first line of its script.
    :ivar retrieve: what to retrieve at its end.
    :ivar copies: pairs of an absolute path on the computer and the relative one to copy it to.
    :ivar links: likewise, for symbolic links.
    :ivar monitors: the specifications of its monitors.
    """

    files: Folder
    commands: str
    shebang: str
    resources: JobResources
    retrieve: Sequence[str] = ()
    copies: Sequence[tuple[str, str]] = ()
    links: Sequence[tuple[str, str]] = ()
    monitors: Sequence[Mapping[str, Any]] = ()

    def to_data(self) -> dict[str, Any]:
        """As a value that a store keeps."""
        return {
            'files': self.files,
            'commands': self.commands,
            'shebang': self.shebang,
            'resources': msgspec.to_builtins(self.resources),
            'retrieve': list(self.retrieve),
            'copies': [list(pair) for pair in self.copies],
            'links': [list(pair) for pair in self.links],
            'monitors': [dict(monitor) for monitor in self.monitors],
        }

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> JobRequest:
        """What :meth:`to_data` has made."""
        return cls(
            files=data['files'],
            commands=data['commands'],
            shebang=data['shebang'],
            resources=msgspec.convert(dict(data['resources']), JobResources),
            retrieve=data['retrieve'],
            copies=[(source, target) for source, target in data['copies']],
            links=[(source, target) for source, target in data['links']],
            monitors=data['monitors'],
        )

    def script(self, scheduler_name: str, *, name: str, folder: str) -> str:
        """The job script of one attempt.

        :raises ValidationError: the scheduler cannot be asked for that.
        """
        scheduler, resources = scheduler_of(scheduler_name), self.resources
        return job_script(
            shebang=self.shebang,
            header=scheduler.header(name, resources),
            folder=folder,
            job_id=scheduler.job_id,
            seconds=resources.max_wallclock_seconds if scheduler.is_direct else None,
            address_space_kb=resources.max_memory_kb if scheduler.is_direct else None,
        )


def make_request(
    calc_info: CalcInfo, folder: Path, options: Mapping[str, Any], computer: Computer, monitors: Sequence[Any] = ()
) -> JobRequest:
    """What a job's class and its options ask for.

    :param folder: the local folder that the class has filled.
    :raises ValidationError: something of it makes no sense, or the computer's scheduler cannot be asked for it.
    """
    calc_info.check()
    resources = resources_of(options, computer)
    lines = []
    for code in calc_info.codes_info:
        with_mpi = options['withmpi'] if code.withmpi is None else code.withmpi
        mpirun = (
            mpirun_words(computer.mpirun_command, list(options['mpirun_extra_params']), resources.fields())
            if with_mpi
            else []
        )
        lines.append(command_line(code, mpirun=mpirun))
    patterns = [*calc_info.retrieve_list, *options['additional_retrieve_list'], resources.stdout, resources.stderr]
    CalcInfo(codes_info=calc_info.codes_info, retrieve_list=patterns).check()
    request = JobRequest(
        files=calc_info.files(folder),
        commands=commands_script(
            environment=sorted(options['environment_variables'].items()),
            before=[computer.prepend_text, options['prepend_text'], calc_info.prepend_text],
            commands=lines,
            after=[calc_info.append_text, options['append_text']],
            parallel=calc_info.codes_run_mode == 'parallel',
        ),
        shebang=computer.shebang,
        resources=resources,
        retrieve=list(dict.fromkeys(patterns)),
        copies=list(calc_info.remote_copy_list),
        links=list(calc_info.remote_symlink_list),
        monitors=monitors,
    )
    # Whatever the scheduler cannot be asked for shows here, before anything is stored.
    request.script(computer.scheduler, name='treadle-0-0-0000000000', folder='/')
    return request
