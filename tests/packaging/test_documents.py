"""What the documents show is true: their code runs, and their links lead somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
DOCUMENTS = sorted([*CHECKOUT.glob('*.rst'), *CHECKOUT.glob('docs/*.rst')])


def python_blocks(document: Path) -> str:
    """The Python of a document, in order, as one script."""
    blocks = re.findall(
        r'^\.\. code-block:: python\n\n((?:(?: {4}.*)?\n)+)',
        document.read_text(encoding='utf-8'),
        flags=re.MULTILINE,
    )
    return '\n'.join(textwrap.dedent(block) for block in blocks)


def rows_outside_columns(text: str) -> list[str]:
    """The lines of simple tables whose text runs over the end of a column, which no reader of such tables takes."""
    gaps: list[int] = []
    wrong = []
    borders = 0
    for line in text.splitlines():
        if re.fullmatch(r'=+( +=+)+', line):
            found = [each.start() for each in re.finditer(' ', line)]
            borders = borders + 1 if found == gaps else 1
            gaps = found
        elif not line:
            borders, gaps = (0, []) if borders > 1 else (borders, gaps)
        elif borders and any(line[gap : gap + 1].strip() for gap in gaps):
            wrong.append(line)
    return wrong


def test_a_row_that_overruns_its_column_is_found():
    assert rows_outside_columns('=== ====\nabcd e\n=== ====\n\nabcd\n') == ['abcd e']
    assert rows_outside_columns('=== ====\nabc  d\n=== ====\ne   f\n=== ====\n\nabcd\n') == []


@pytest.mark.parametrize('document', DOCUMENTS, ids=lambda path: path.name)
def test_tables_keep_to_their_columns(document):
    assert rows_outside_columns(document.read_text(encoding='utf-8')) == []


@pytest.mark.parametrize(
    'document',
    [
        'README.rst',
        'docs/quickstart.rst',
        'docs/vocabulary.rst',
        'docs/logging.rst',
        'docs/embedding.rst',
        'docs/from-aiida.rst',
    ],
)
def test_the_code_runs_and_runs_again(document, tmp_path):
    script = tmp_path / 'script.py'
    script.write_text(python_blocks(CHECKOUT / document), encoding='utf-8')
    assert 'treadle.engine' in script.read_text(encoding='utf-8')
    said = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, '-W', 'error', script],
            env={**os.environ, 'TREADLE_STORE': f'sqlite:///{tmp_path}/treadle.sqlite'},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=50,
        )
        assert (done.returncode, done.stderr) == (0, '')
        said.append(done.stdout)
    assert said[0] == said[1]


def test_the_readme_is_right_about_kill_9(tmp_path):
    """The third energy is cut off by SIGKILL; after the restart it is the only one that is computed."""
    script = tmp_path / 'script.py'
    text = python_blocks(CHECKOUT / 'README.rst')
    body = '    return 1.5'
    assert text.count(body) == 1
    note = (
        '    with open("computed", "a") as computed:\n'
        '        computed.write(f"{temperature}\\n")\n'
        '    if temperature == 320.0 and not os.path.exists("killed"):\n'
        '        open("killed", "w").close()\n'
        '        os.kill(os.getpid(), 9)\n'
    )
    script.write_text('import os\n' + text.replace(body, note + body), encoding='utf-8')
    statuses = [
        subprocess.run(
            [sys.executable, script],
            env={**os.environ, 'TREADLE_STORE': f'sqlite:///{tmp_path}/treadle.sqlite'},
            cwd=tmp_path,
            timeout=50,
        ).returncode
        for _ in range(2)
    ]
    assert statuses == [-9, 0]
    assert (tmp_path / 'computed').read_text().split() == ['280.0', '300.0', '320.0', '320.0']


@pytest.mark.parametrize('document', DOCUMENTS, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_links_lead_to_files_of_the_checkout(document):
    targets = re.findall(r'`[^`<]+<([^>:]+)>`_', document.read_text(encoding='utf-8'))
    missing = [target for target in targets if not (document.parent / target).exists()]
    assert missing == []
