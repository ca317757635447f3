"""What batch systems are told, and what their replies mean; the replies are as these systems print them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from treadle.engine import ValidationError
from treadle.engine.jobs.protocol import Submission, Verdict
from treadle.engine.jobs.schedulers import JobResources, Phase, Reply, SchedulerReplyError, scheduler_of

SLURM, PBS, SGE = (scheduler_of(name) for name in ('slurm', 'pbs', 'sge'))
FULL = JobResources(
    num_machines=2,
    num_mpiprocs_per_machine=4,
    tot_num_mpiprocs=8,
    num_cores_per_mpiproc=3,
    queue_name='long',
    account='physics',
    priority='5',
    max_wallclock_seconds=3661,
    max_memory_kb=2048,
    custom_scheduler_commands='# by hand',
)


def test_directives_of_slurm() -> None:
    lines = SLURM.header('treadle-a-1-1', msgspec.structs.replace(FULL, qos='high')).splitlines()
    assert lines == [
        '#SBATCH --partition=long',
        '#SBATCH --job-name=treadle-a-1-1',
        '#SBATCH --nodes=2',
        '#SBATCH --ntasks=8',
        '#SBATCH --ntasks-per-node=4',
        '#SBATCH --cpus-per-task=3',
        '#SBATCH --mem=2048K',
        '#SBATCH --time=0-1:1:1',
        '#SBATCH --account=physics',
        '#SBATCH --output=_scheduler-stdout.txt',
        '#SBATCH --error=_scheduler-stderr.txt',
        '#SBATCH --qos=high',
        '#SBATCH --priority=5',
        '#SBATCH --no-requeue',
        '# by hand',
    ]
    assert '#SBATCH --export=NONE' in SLURM.header('n', JobResources(import_sys_environment=False))


def test_directives_of_pbs() -> None:
    lines = PBS.header('treadle-a-1-1', FULL).splitlines()
    assert '#PBS -N treadle-a-1-1' in lines and '#PBS -q long' in lines and '#PBS -A physics' in lines
    assert '#PBS -l select=2:ncpus=12:mpiprocs=4:mem=2048kb' in lines and '#PBS -l walltime=1:1:1' in lines
    assert '#PBS -r n' in lines and '#PBS -V' in lines and '#PBS -o _scheduler-stdout.txt' in lines


def test_directives_of_sge() -> None:
    lines = SGE.header('treadle-a-1-1', msgspec.structs.replace(FULL, parallel_env='mpi')).splitlines()
    assert '#$ -N treadle-a-1-1' in lines and '#$ -q long' in lines and '#$ -P physics' in lines
    assert '#$ -pe mpi 8' in lines and '#$ -l h_rt=1:1:1' in lines and '#$ -l h_vmem=2048K' in lines
    assert '#$ -cwd' in lines and '#$ -r n' in lines
    with pytest.raises(ValidationError, match='needs a parallel_env'):
        SGE.header('n', JobResources(tot_num_mpiprocs=2))


@pytest.mark.parametrize(
    ('scheduler', 'field'), [(SLURM, 'parallel_env'), (PBS, 'parallel_env'), (PBS, 'qos'), (SGE, 'qos')]
)
def test_what_a_scheduler_cannot_be_asked_for(scheduler: Any, field: str) -> None:
    with pytest.raises(ValidationError, match=f'{field}: {scheduler.name} cannot be asked for it; leave it out'):
        scheduler.header('name', JobResources(**{field: 'a'}))


@pytest.mark.parametrize('scheduler', [SLURM, PBS, SGE], ids=lambda each: each.name)
def test_a_directive_is_one_line(scheduler: Any) -> None:
    with pytest.raises(ValidationError, match='one line'):
        scheduler.header('name', JobResources(queue_name='a\n#SBATCH --uid=0'))


@pytest.mark.parametrize(
    ('scheduler', 'stdout', 'job_id'),
    [
        (SLURM, 'Submitted batch job 4711\n', '4711'),
        (PBS, '4711.server.example\n', '4711.server.example'),
        (SGE, 'Your job 4711 ("treadle-a-1-1") has been submitted\n', '4711'),
    ],
    ids=['slurm', 'pbs', 'sge'],
)
def test_the_id_in_the_reply(scheduler: Any, stdout: str, job_id: str) -> None:
    assert scheduler.submitted_id(Submission(0, stdout, '')) == job_id
    assert scheduler.submitted_id(Submission(1, stdout, '')) is None
    assert scheduler.submitted_id(Submission(0, '', '')) is None


@pytest.mark.parametrize(
    ('stderr', 'refused'),
    [
        ('sbatch: error: Batch job submission failed: Invalid partition name specified', True),
        ('sbatch: error: Batch job submission failed: Invalid account or account/partition combination', True),
        ('sbatch: error: Batch job submission failed: Socket timed out on send/recv operation', False),
        ('sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)', False),
        ('sbatch: error: Batch job submission failed: Zero Bytes were transmitted or received', False),
        ('qsub: cannot connect to server pbs (errno=15010)', False),
    ],
)
def test_which_refusals_leave_no_doubt(stderr: str, refused: bool) -> None:
    assert SLURM.is_refusal(Submission(1, '', stderr)) is refused
    assert not SLURM.is_refusal(Submission(0, '', stderr))


def _row(number: int, state: str, name: str) -> str:
    return '<><> '.join([str(number), state, 'None', name, 'me', 'main', '1:00', '1', '1', '0:01', '1M'])


def test_a_listing_of_slurm() -> None:
    rows = [_row(1, 'PD', 'a'), _row(2, 'R', 'b'), _row(3, 'CG', 'c'), _row(4, 'TO', 'd'), _row(5, 'CD', 'a')]
    listing = SLURM.read_listing(Reply(0, '\n'.join(rows), ''))
    assert {entry.job_id: entry.phase for entry in listing.by_id.values()} == {
        '1': Phase.QUEUED,
        '2': Phase.RUNNING,
        '3': Phase.RUNNING,
        '4': Phase.OVER,
        '5': Phase.OVER,
    }
    assert listing.by_id['4'].verdict is Verdict.TIMEOUT and listing.by_id['5'].verdict is Verdict.ENDED
    assert listing.by_name['a'].job_id == '1'  # the one that is not over
    assert not SLURM.read_listing(Reply(0, '', '')).by_id


@pytest.mark.parametrize(
    'reply',
    [
        Reply(1, '', 'slurm_load_jobs error: Unable to contact slurm controller'),
        Reply(0, '1<><> R<><> what', ''),
        Reply(0, _row(1, 'XX', 'a'), ''),
    ],
)
def test_a_listing_that_cannot_be_read_is_none(reply: Reply) -> None:
    with pytest.raises(SchedulerReplyError):
        SLURM.read_listing(reply)


def test_a_listing_of_pbs() -> None:
    text = (
        'Job Id: 12.server\n    Job_Name = treadle-a-1-1\n    Job_Owner = me@login\n    job_state = R\n'
        '    queue = work\n    Resource_List.nodect = 1\n    Resource_List.ncpus = 1\n\n'
        'Job Id: 13.server\n    Job_Name = treadle-a-2-1\n    Job_Owner = me@login\n    job_state = F\n'
        '    queue = work\n    Resource_List.nodect = 1\n    Resource_List.ncpus = 1\n'
    )
    listing = PBS.read_listing(Reply(0, text, ''))
    assert listing.by_name['treadle-a-1-1'].phase is Phase.RUNNING
    assert listing.by_id['13.server'].phase is Phase.OVER and listing.by_id['13.server'].verdict is None
    assert PBS.find_argv('treadle-a-1-1')[-1] == 'treadle-a-1-1'
    assert not PBS.read_listing(Reply(35, '', 'qstat: Unknown Job Id 12.server')).by_id


def test_a_listing_of_sge() -> None:
    text = (
        '<?xml version="1.0"?><job_info><queue_info><job_list state="running"><JB_job_number>7</JB_job_number>'
        '<JB_name>treadle-a-1-1</JB_name><JB_owner>me</JB_owner><state>r</state></job_list></queue_info>'
        '<job_info><job_list state="pending"><JB_job_number>8</JB_job_number><JB_name>treadle-a-2-1</JB_name>'
        '<JB_owner>me</JB_owner><state>qw</state></job_list></job_info></job_info>'
    )
    listing = SGE.read_listing(Reply(0, text, ''))
    assert listing.by_id['7'].phase is Phase.RUNNING and listing.by_name['treadle-a-2-1'].phase is Phase.QUEUED
    for bad in ('', '<job_info>', 'error'):
        with pytest.raises(SchedulerReplyError):
            SGE.read_listing(Reply(0, bad, ''))


def test_details_of_slurm() -> None:
    entry = SLURM.read_detail(
        Reply(0, 'JobId=5 JobName=a UserId=me(0) JobState=OUT_OF_MEMORY Partition=main\n', ''), '5'
    )
    assert entry is not None and entry.verdict is Verdict.MEMORY
    assert SLURM.read_detail(Reply(1, '', 'slurm_load_jobs error: Invalid job id specified'), '5') is None
    with pytest.raises(SchedulerReplyError):
        SLURM.read_detail(Reply(1, '', 'Unable to contact slurm controller'), '5')


def test_cancelling() -> None:
    SLURM.read_cancel(Reply(0, '', 'scancel: Terminating job 5'))
    SLURM.read_cancel(Reply(1, '', 'scancel: error: Kill job error on job id 5: Invalid job id specified'))
    PBS.read_cancel(Reply(153, '', 'qdel: Unknown Job Id 5.server'))
    for scheduler in (SLURM, PBS, SGE):
        with pytest.raises(SchedulerReplyError):
            scheduler.read_cancel(Reply(1, '', 'cannot connect to server'))


@pytest.mark.parametrize(
    ('scheduler', 'text', 'verdict'),
    [
        (SLURM, 'slurmstepd: error: *** JOB 5 ON n CANCELLED AT 2026 DUE TO TIME LIMIT ***', Verdict.TIMEOUT),
        (SLURM, 'slurmstepd: error: Detected 1 oom-kill event(s) in StepId=5.batch.', Verdict.MEMORY),
        (SLURM, 'slurmstepd: error: Job 5 exceeded memory limit (9 > 1), being killed', Verdict.MEMORY),
        (SLURM, 'my program: DUE TO TIME LIMIT of mine', None),
        (PBS, '=>> PBS: job killed: walltime 61 exceeded limit 60', Verdict.TIMEOUT),
        (SLURM, '', None),
    ],
)
def test_what_is_written_about_an_end(scheduler: Any, text: str, verdict: Verdict | None) -> None:
    assert scheduler.verdict_of_text(text) is verdict
