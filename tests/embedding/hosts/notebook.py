"""Runs cells in a real kernel, as the browser of a notebook's user would, and prints what they print."""

import asyncio
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

IMPORTS = """
from pathlib import Path
from work import Double, Waits, increment
from treadle.engine import Process, default_engine, run, submit
"""

DEFINE = """
class InCell(Process):
    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.input('n', valid_type=int)
        spec.output('n', valid_type=int)

    def run(self):
        self.out('n', 2 * self.inputs.n)
"""

RUN = """
print(run(Double, n=1), run(InCell, n=2), increment(3))
node = submit(InCell, n=4)
print(default_engine().wait(node).outputs.n)
print(await default_engine().run_async(Double, n=5))
"""

WAIT = "run(Waits, gate=Path({gate!r}), metadata={{'key': 'waits'}})"

LOOK = """
(node,) = default_engine().query(process_label='Waits')
print(node.state, node.exit_message)
"""


class Notebook(NotebookClient):
    """A notebook that is executed cell by cell."""

    async def cell(self, source):
        """Execute a cell, print its output, and return the name of what it raised."""
        cell = nbformat.v4.new_code_cell(source)
        self.nb.cells.append(cell)
        try:
            await self.async_execute_cell(cell, len(self.nb.cells) - 1)
            raised = None
        except CellExecutionError as error:
            raised = error.ename
        for output in cell.outputs:
            if output.output_type == 'stream':
                print(f'{output.name}: {output.text}', end='', flush=True)
        return raised


async def plain(notebook, gate):
    for source in (IMPORTS, DEFINE, RUN):
        assert await notebook.cell(source) is None


async def interrupted(notebook, gate):
    await notebook.cell(IMPORTS)
    running = asyncio.create_task(notebook.cell(WAIT.format(gate=str(gate))))
    await asyncio.to_thread((gate / 'entered').read_text)
    await notebook.km.interrupt_kernel()
    print('raised', await running, flush=True)
    await notebook.cell(LOOK)
    await notebook.cell('print(run(Double, n=1), default_engine().is_running)')


async def restarted(notebook, gate):
    await notebook.cell(IMPORTS)
    notebook.kc.execute(WAIT.format(gate=str(gate)))  # whose answer nobody will wait for
    await asyncio.to_thread((gate / 'entered').read_text)
    (gate / 'open').rename(gate / 'opened')
    await notebook.km.restart_kernel(now=True)
    await notebook.kc.wait_for_ready(timeout=120)
    await notebook.cell(IMPORTS)
    await notebook.cell(f'print({WAIT.format(gate=str(gate))})')


async def main(what, gate):
    notebook = Notebook(nbformat.v4.new_notebook(), timeout=120, startup_timeout=120)
    async with notebook.async_setup_kernel():
        await what(notebook, gate)


asyncio.run(main({'plain': plain, 'interrupted': interrupted, 'restarted': restarted}[sys.argv[1]], Path(sys.argv[2])))
