"""The group of commands, and how the command ends: exit codes, error lines, pipes that are closed early."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Final, NoReturn

import click
from click.shell_completion import shell_complete

from ...threads import ThreadsError
from ..errors import TreadleError
from .computer import computer
from .control import kill, pause, play, wait
from .log import log
from .output import clean
from .ps import ps
from .show import show
from .start import run, submit, worker
from .status import status
from .store import store
from .tree import tree
from .watch import watch
from .why import why

__all__ = ['main', 'treadle']

#: Exit codes: not found, or the store cannot be read; and Ctrl-C, as shells have it. Misuse is click's 2.
FAILED: Final = 1
INTERRUPTED: Final = 130

#: Set by the shell when it wants to complete a command line.
COMPLETE: Final = '_TREADLE_COMPLETE'


class _Sections(click.Group):
    """A group whose help lists the commands in their order, by what they are for."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections."""
        for title, members in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(each.name or '', each.get_short_help_str(100)) for each in members])


@click.group(cls=_Sections, context_settings={'help_option_names': ['-h', '--help'], 'max_content_width': 100})
@click.version_option(package_name='treadle', prog_name='treadle', message='%(prog)s %(version)s')
def treadle() -> None:
    """Look at durable processes and control them: what runs, what came out, what was logged.

    The commands work on the store that --store or TREADLE_STORE names, whether an engine runs or not.
    """


SECTIONS: Final = {
    'Look': (ps, show, tree, why, log, status, watch),
    'Control': (kill, pause, play, wait),
    'Run': (run, submit, worker),
    'Keep': (computer, store),
}
for commands in SECTIONS.values():
    for command in commands:
        treadle.add_command(command)


def main() -> NoReturn:
    """Run the command line and leave; the console script."""
    if sys.stdout is None or sys.stderr is None:
        _replace_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        # What a terminal cannot show is written as an escape and never stops the listing.
        stream.reconfigure(errors='backslashreplace')  # type: ignore[union-attr]
    sys.exit(_run())


def _run() -> int:
    # Not `treadle.main()`, which ends with 1 when a pipe is closed early.
    instruction = os.environ.get(COMPLETE)
    try:
        if instruction:
            return shell_complete(treadle, {}, 'treadle', COMPLETE, instruction)
        with treadle.make_context('treadle', sys.argv[1:]) as context:
            treadle.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as error:
        _explain(error)
        return error.exit_code
    except (TreadleError, ThreadsError) as error:
        return _fail(str(error))
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:
        # `treadle ps | head`: the reader has what it wanted.
        _discard_output()
    except OSError as error:
        _discard_output()
        if error.filename is not None or error.strerror is None:
            return _fail(str(error) or type(error).__name__)
        return _fail(f'the output cannot be written ({error.strerror}); look at where it goes')
    return 0


def _explain(error: click.ClickException) -> None:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        with contextlib.suppress(OSError):
            error.show()
        return
    if isinstance(error, click.UsageError) and error.ctx is not None:
        hint = f'`{error.ctx.command_path} --help` says more'
        with contextlib.suppress(OSError):
            click.echo(f'{error.ctx.get_usage()}\n{hint}', err=True)
    _fail(error.format_message())


def _fail(message: str) -> int:
    lines = [clean(line.rstrip()) for line in message.splitlines()]
    with contextlib.suppress(OSError):  # nobody listens on stderr either; the exit code tells
        click.echo('\n'.join((f'treadle: {lines[0] if lines else ""}', *lines[1:])), err=True)
    return FAILED


def _discard_output() -> None:
    """Let the interpreter's last flush go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _replace_closed_streams() -> None:
    # Python has None for a stream that was closed before it started (`treadle ps >&-`).
    for name in ('stdout', 'stderr'):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), 'w', encoding='utf-8'))
