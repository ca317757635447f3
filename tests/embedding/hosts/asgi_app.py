"""A Starlette application whose engine lives as long as the server: its lifespan starts and stops it."""

import asyncio
import contextlib
from pathlib import Path

import leftovers  # noqa: F401 - before Treadle
from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route
from work import Double, Waits

from treadle.engine import Engine


@contextlib.asynccontextmanager
async def lifespan(app):
    app.state.engine = await asyncio.to_thread(Engine(name='asgi').start)
    try:
        yield
    finally:
        await asyncio.to_thread(app.state.engine.stop)


async def double(request):
    """Await; the loop serves others meanwhile."""
    n = int(request.query_params['n'])
    return JSONResponse(await request.app.state.engine.run_async(Double, n=n))


def double_in_a_thread(request):
    """A handler that is no coroutine function runs on a thread of the server's, and may block."""
    n = int(request.query_params['n'])
    return JSONResponse(request.app.state.engine.run(Double, n=n))


async def gate(request):
    """Begin an answer and go on with it when the process has ended; cancelled when the client goes."""
    engine = request.app.state.engine

    async def body():
        yield b' '
        try:
            outputs = await engine.run_async(Waits, gate=Path(request.query_params['gate']))
        except asyncio.CancelledError:
            print('cancelled', flush=True)
            raise
        yield str(outputs['n']).encode()

    return StreamingResponse(body(), media_type='application/json')


async def waited(request):
    engine = request.app.state.engine
    (node,) = engine.query(process_label='Waits')
    return JSONResponse((await engine.wait_async(node)).outputs.n)


app = Starlette(
    routes=[
        Route('/double', double),
        Route('/double-in-a-thread', double_in_a_thread),
        Route('/gate', gate),
        Route('/waited', waited),
    ],
    lifespan=lifespan,
)
