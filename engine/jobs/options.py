"""``metadata.options`` of a job: on which computer, with which resources, in which surroundings."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any, Final

from ..errors import ValidationError
from ..spec import ProcessSpec
from .computer import Computer
from .schedulers.base import JobResources

__all__ = ['COMPUTER_TYPES', 'LOCALHOST', 'OPTIONS', 'declare_options', 'resources_of', 'split_metadata']

#: The namespace of inputs that holds them.
OPTIONS: Final = 'options'
#: How a computer is given, and what tells a port that takes one.
COMPUTER_TYPES: Final = (str, Computer)
#: The computer that is there without being defined.
LOCALHOST: Final = Computer('localhost', description='this machine, without a scheduler')

_RESOURCES: Final = (
    'num_machines',
    'num_mpiprocs_per_machine',
    'tot_num_mpiprocs',
    'num_cores_per_machine',
    'num_cores_per_mpiproc',
    'parallel_env',
)
_VARIABLE: Final = re.compile(r'[A-Za-z_][A-Za-z0-9_]*')


def declare_options(spec: ProcessSpec) -> None:
    """Declare the ports of the options; the names are those of ``aiida.engine.CalcJob``."""
    spec.input_namespace(OPTIONS, help='where and how the job runs; also given as metadata.options')

    def option(name: str, **kwargs: Any) -> None:
        spec.input(f'{OPTIONS}.{name}', **{'required': False, **kwargs})

    option(
        'computer',
        valid_type=COMPUTER_TYPES,
        default='localhost',
        help='the name of a computer that the store knows, or a Computer, which is made known by that',
    )
    option(
        'resources',
        valid_type=dict,
        default=dict,
        validator=_check_resources,
        help=f'nodes and processes: {", ".join(_RESOURCES)}',
    )
    option('queue_name', valid_type=str, validator=_check_line, help='the queue, or partition')
    option('account', valid_type=str, validator=_check_line, help='whom the time is charged to')
    option('qos', valid_type=str, validator=_check_line, help='quality of service')
    option('priority', valid_type=str, validator=_check_line, help='as the scheduler understands it')
    option(
        'max_wallclock_seconds', valid_type=int, validator=_check_positive, help='after which the job is ended'
    )
    option('max_memory_kb', valid_type=int, validator=_check_positive, help='memory for each node, in kilobytes')
    option('withmpi', valid_type=bool, default=False, help='start the commands with the mpirun of the computer')
    option(
        'mpirun_extra_params', valid_type=(list, tuple), default=list, help='arguments for mpirun, before the program'
    )
    option(
        'environment_variables',
        valid_type=dict,
        default=dict,
        validator=_check_environment,
        help='variables to set for the job, names and values as text',
    )
    option('import_sys_environment', valid_type=bool, default=True, help='let the job see what the login shell sets')
    option('prepend_text', valid_type=str, default='', help='shell commands before those of the job')
    option('append_text', valid_type=str, default='', help='shell commands after those of the job')
    option(
        'custom_scheduler_commands', valid_type=str, default='', help='directives for the job script, as they are'
    )
    option('scheduler_stdout', valid_type=str, default='_scheduler-stdout.txt', validator=_check_file)
    option('scheduler_stderr', valid_type=str, default='_scheduler-stderr.txt', validator=_check_file)
    option(
        'additional_retrieve_list',
        valid_type=(list, tuple),
        default=list,
        help='names and patterns of further files to retrieve',
    )


def split_metadata(label: str, metadata: Any, values: dict[str, Any]) -> Any:
    """Take the options out of the metadata, where they are given as in aiida, and put them among the inputs.

    :param label: of the process, for messages.
    :param values: the inputs; changed.
    :returns: the rest of the metadata.
    :raises ValidationError: they are given in both places.
    """
    if not isinstance(metadata, Mapping) or OPTIONS not in metadata:
        return metadata
    given = metadata[OPTIONS]
    if values.get(OPTIONS):
        raise ValidationError(f'{label}: options are given twice, as an input and in metadata; give them once')
    values[OPTIONS] = given
    return {name: value for name, value in metadata.items() if name != OPTIONS}


def resources_of(options: Mapping[str, Any], computer: Computer) -> JobResources:
    """What the scheduler is asked for, with what is not given filled in.

    :raises ValidationError: the numbers of nodes and processes contradict each other.
    """
    given = dict(options['resources'])
    machines = given.get('num_machines')
    total = given.get('tot_num_mpiprocs')
    per_machine = given.get('num_mpiprocs_per_machine')
    if per_machine is None:
        per_machine = computer.default_mpiprocs_per_machine
        if total is not None:
            machines = machines or 1
            per_machine = -(-total // machines)
    if machines is None:
        machines = 1 if total is None else -(-total // per_machine)
    if total is None:
        total = machines * per_machine
    if not per_machine * (machines - 1) < total <= per_machine * machines:
        raise ValidationError(
            f'options.resources: {total} processes do not fit {machines} machines of {per_machine} processes each; '
            f'give two of tot_num_mpiprocs, num_machines and num_mpiprocs_per_machine'
        )
    cores = given.get('num_cores_per_mpiproc')
    if cores is None and given.get('num_cores_per_machine') is not None:
        cores = given['num_cores_per_machine'] // per_machine
        if cores * per_machine != given['num_cores_per_machine']:
            raise ValidationError(
                f'options.resources: {given["num_cores_per_machine"]} cores of a machine cannot be shared by '
                f'{per_machine} processes; give a multiple'
            )
    return JobResources(
        num_machines=machines,
        num_mpiprocs_per_machine=per_machine,
        tot_num_mpiprocs=total,
        num_cores_per_mpiproc=cores,
        parallel_env=given.get('parallel_env'),
        queue_name=options.get('queue_name'),
        account=options.get('account'),
        qos=options.get('qos'),
        priority=options.get('priority'),
        max_wallclock_seconds=options.get('max_wallclock_seconds'),
        max_memory_kb=options.get('max_memory_kb'),
        import_sys_environment=options['import_sys_environment'],
        custom_scheduler_commands=options['custom_scheduler_commands'],
        stdout=options['scheduler_stdout'],
        stderr=options['scheduler_stderr'],
    )


def _check_resources(resources: Mapping[str, Any]) -> str | None:
    for name, value in resources.items():
        if name not in _RESOURCES:
            near = difflib.get_close_matches(str(name), _RESOURCES, n=1)
            return f'{name!r} is unknown; ' + (
                f'did you mean {near[0]!r}?' if near else f'there is {", ".join(_RESOURCES)}'
            )
        if name == 'parallel_env':
            if not isinstance(value, str):
                return f'parallel_env must be a str, not {value!r}'
        elif type(value) is not int or value < 1:
            return f'{name} must be an int of at least 1, not {value!r}'
    return None


def _check_environment(variables: Mapping[str, Any]) -> str | None:
    for name, value in variables.items():
        if not isinstance(name, str) or not _VARIABLE.fullmatch(name):
            return f'{name!r} is no name of an environment variable'
        if not isinstance(value, str) or '\0' in value:
            return f'the value of {name} must be a str without NUL, not {value!r}'
    return None


def _check_positive(number: int) -> str | None:
    return None if number > 0 else f'must be more than 0, not {number}'


def _check_line(text: str) -> str | None:
    return None if text and not set('\n\0') & set(text) else f'must be one line of text, not {text!r}'


def _check_file(name: str) -> str | None:
    plain = name and not set('/\n\0') & set(name) and name not in ('.', '..')
    return None if plain else f'must be a plain file name, not {name!r}'
