"""``treadle computer``: defined, tried, forgotten; what is wrong is said."""

from __future__ import annotations

import json

import pytest

from treadle.engine import Engine


@pytest.fixture
def url(tmp_path):
    url = f'sqlite:///{tmp_path}/store.db'
    with Engine(url):
        pass
    return url


def test_add_list_show_and_remove(treadle, url, tmp_path):
    words = ['--hostname', 'h', '--scheduler', 'slurm', '--max-jobs', '5']
    said = treadle('computer', 'add', 'cluster', *words, store=url)
    assert said.returncode == 0 and 'cluster is known' in said.stdout
    rows = {row['name']: row for row in json.loads(treadle('computer', 'list', '--json', store=url).stdout)}
    assert set(rows) == {'cluster', 'localhost'}
    cluster = rows['cluster']
    assert (cluster['transport'], cluster['hostname'], cluster['max_jobs'], cluster['jobs']) == ('ssh', 'h', 5, {})
    assert 'slurm on h, no jobs' in treadle('computer', 'list', store=url).stdout
    assert 'hostname' in treadle('computer', 'show', 'cluster', store=url).stdout
    assert treadle('computer', 'remove', 'cluster', store=url).returncode == 0
    gone = treadle('computer', 'show', 'cluster', store=url)
    assert gone.returncode == 1 and "there is no computer 'cluster'" in gone.stderr
    assert treadle('computer', 'remove', 'localhost', store=url).returncode == 1


def test_adding_the_first_computer_makes_the_store(treadle, tmp_path):
    url = f'sqlite:///{tmp_path}/new.db'
    wrong = treadle('computer', 'add', 'a b', store=url)
    assert wrong.returncode == 1 and not (tmp_path / 'new.db').exists()
    added = treadle('computer', 'add', 'first', '--max-jobs', '3', store=url)
    assert added.returncode == 0, added.stderr
    assert json.loads(treadle('computer', 'show', 'first', '--json', store=url).stdout)['max_jobs'] == 3


def test_from_a_file(treadle, url, tmp_path):
    file = tmp_path / 'computers.toml'
    file.write_text('[a]\nmax_jobs = 1\n[b]\nmax_jobs = 2\n')
    assert treadle('computer', 'add', '--from', file, store=url).returncode == 0
    assert json.loads(treadle('computer', 'show', 'b', '--json', store=url).stdout)['max_jobs'] == 2
    file.write_text('[a]\nmaxjobs = 1\n')
    wrong = treadle('computer', 'add', '--from', file, store=url)
    assert wrong.returncode == 1 and "did you mean 'max_jobs'" in wrong.stderr


def test_misuse(treadle, url):
    assert treadle('computer', 'add', store=url).returncode == 2
    wrong = treadle('computer', 'add', 'a b', store=url)
    assert wrong.returncode == 1 and 'is no name for a computer' in wrong.stderr


def test_this_machine_is_fine(treadle, url, tmp_path):
    treadle('computer', 'add', 'here', '--work-directory', tmp_path / 'work', store=url)
    tried = treadle('computer', 'test', 'here', store=url)
    assert tried.returncode == 0, tried.stdout + tried.stderr
    assert 'BAD' not in tried.stdout and f'ok   work directory: {tmp_path}/work' in tried.stdout
    assert list((tmp_path / 'work').iterdir()) == []


def test_what_is_wrong_is_said(treadle, url, tmp_path):
    (tmp_path / 'file').write_text('')
    treadle(
        'computer', 'add', 'bad', '--work-directory', tmp_path / 'file', '--scheduler', 'pbs',
        '--shebang', '#!/bin/cat', store=url,
    )  # fmt: skip
    tried = treadle('computer', 'test', 'bad', '--json', store=url)
    assert tried.returncode == 1
    problems = {each['what']: each['problem'] for each in json.loads(tried.stdout) if each['problem']}
    assert 'not found: qsub, qstat' in problems['programs of pbs']
    assert f'{tmp_path}/file cannot be used' in problems['work directory']
    assert '#!/bin/cat does not understand POSIX sh' in problems['shell of jobs']


def test_a_computer_that_cannot_be_reached(treadle, url):
    treadle('computer', 'add', 'far', '--hostname', '127.0.0.1', '--port', '1', store=url)
    tried = treadle('computer', 'test', 'far', store=url)
    assert tried.returncode == 1 and tried.stdout.startswith('BAD  connection: ')


def test_over_ssh_with_slurm(treadle, url, tmp_path, sshd, slurm):
    treadle(
        'computer', 'add', 'cluster', '--hostname', 'treadle', '--ssh-config', sshd.config_file, '--scheduler', 'slurm',
        '--work-directory', tmp_path / 'work', store=url,
    )  # fmt: skip
    tried = treadle('computer', 'test', 'cluster', store=url)
    assert tried.returncode == 0, tried.stdout + tried.stderr
    assert 'ok   queue:' in tried.stdout and 'ok   programs of slurm: sbatch, squeue' in tried.stdout
