"""An engine for a user's asynchronous tests."""

import leftovers  # noqa: F401 - before Treadle
import pytest

from treadle.engine import Engine


@pytest.fixture(scope='session')
def engine(tmp_path_factory):
    with Engine(f'sqlite:///{tmp_path_factory.mktemp("store")}/treadle.db') as engine:
        yield engine
