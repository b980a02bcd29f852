"""TPU slices, held and spot: what is called, and what a host then does."""

import os
import pathlib
import shutil
import subprocess
import time

import pytest

from tests import launching
from tests.launching import CONFIG


@pytest.fixture
def launch(tmp_path):
  return launching.tree(tmp_path)


def test_a_pod_is_asked_for_and_given_back(launch):
  done, calls = launch('tpu_pod.sh', 'create')
  assert done.returncode == 0, done.stderr
  assert calls == [
    'gcloud compute tpus tpu-vm create m3i --zone=us-east5-a '
    '--accelerator-type=v5p-128 --version=v2-alpha-tpuv5'.split()
  ]
  _, calls = launch('tpu_pod.sh', 'delete')
  assert calls[0][3:6] == ['tpu-vm', 'delete', 'm3i']


def test_the_tree_is_copied_to_all_hosts(launch, tmp_path):
  (launch.tree / 'a new file.py').write_text('x')
  done, (scp, ssh) = launch('tpu_pod.sh', 'sync')
  assert done.returncode == 0, done.stderr
  assert scp[3:5] == ['tpu-vm', 'scp'] and scp[-1] == '--worker=all'
  files = subprocess.check_output(['tar', '-tzf', scp[5]], text=True)
  assert {'a new file.py', 'launch/tpu_host.sh'} <= set(files.splitlines())
  assert ssh[-1].endswith('m3i_jax/launch/tpu_host.sh bucket')


@pytest.fixture
def host(launch, tmp_path):
  """A host with this tree and a Python that does what the test says."""
  home = tmp_path / 'host'
  shutil.copytree(launch.tree, home / 'm3i_jax')
  python = home / 'm3i_jax/.venv/bin/python'
  python.parent.mkdir(parents=True)

  def program(text):
    python.write_text(f'#!/usr/bin/env bash\n{text}')
    python.chmod(0o755)
    return home / 'm3i_jax'

  return program


def until(condition, seconds=20):
  deadline = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < deadline, 'it did not happen'
    time.sleep(0.05)


def test_a_pod_runs_again_where_it_was_stuck(launch, host):
  place = host('echo "$@" >>ran; [[ $(wc -l <ran) == 2 ]] || exit 74\n')
  option = "--config.data.source=a b'c$d"
  done, calls = launch(
    'tpu_pod.sh', 'run', CONFIG, option, HOST=str(place.parent), PAUSE='0'
  )
  assert done.returncode == 0, done.stderr
  assert len(calls) == 1 and '--worker=all' in calls[0]
  until(lambda: (place / 'ran').exists() and (
    len((place / 'ran').read_text().splitlines()) == 2))  # fmt: skip
  line = (place / 'ran').read_text().splitlines()[0]
  assert line == (
    '-m m3i_jax.main --platform=tpu --workdir=/mnt/bucket/runs/m3i '
    f'{CONFIG} {option}'
  )


def test_a_pod_is_stopped_and_saves(launch, host):
  place = host(
    'trap "echo saved >saved; exit 75" TERM\n'
    'touch begun; while :; do sleep .05; done\n'
  )
  where = dict(HOST=str(place.parent), PAUSE='0')
  launch('tpu_pod.sh', 'run', CONFIG, **where)
  until((place / 'begun').exists)
  done, _ = launch('tpu_pod.sh', 'stop', **where)
  assert done.returncode == 0, done.stderr
  until((place / 'saved').exists)
  pid = int((place / 'run.pid').read_text())
  until(lambda: not pathlib.Path(f'/proc/{pid}').exists())
  assert 'restart' not in (place / 'run.log').read_text()


def test_a_spot_slice_is_asked_for_again_until_the_run_has_ended(launch):
  queue = 'gcloud compute tpus queued-resources'
  done, calls = launch(
    'tpu_spot.sh', 'keep', CONFIG,
    fakes={
      'gcloud storage rm': [1, ''],
      'gcloud storage cat': [[1, ''], [1, ''], [1, ''], [0, 'exit code 0']],
      f'{queue} describe': [[1, ''], [0, 'ACTIVE\n'], [0, 'SUSPENDED\n']],
    },
  )  # fmt: skip
  assert done.returncode == 0 and 'exit code 0' in done.stdout, done.stderr
  verbs = [x[4] for x in calls if x[3] == 'queued-resources']
  assert verbs == [
    'describe', 'create', 'describe', 'describe', 'delete', 'create', 'delete'
  ]  # fmt: skip
  create = next(x for x in calls if 'create' in x)
  assert {'--spot', '--node-id=m3i', '--runtime-version=v2-alpha-tpuv5'} <= set(
    create
  )
  assert ['--force', '--quiet'] == calls[-1][-2:]


def test_several_slices_of_spot(launch):
  _, calls = launch('tpu_spot.sh', 'create', CONFIG, SLICES='2')
  assert {'--node-count=2', '--node-prefix=m3i'} <= set(calls[-1])
  assert '--node-id=m3i' not in calls[-1]


@pytest.mark.parametrize(('code', 'ended'), [(0, 1), (70, 1), (2, 1), (75, 0)])
def test_a_host_of_a_spot_slice_runs(launch, host, tmp_path, code, ended):
  place = host(f'echo "$@" >ran\nexit {code}\n')
  _, calls = launch('tpu_spot.sh', 'create', CONFIG, '--config.seed=1')
  (flag,) = [x for x in calls[-1] if x.startswith('--metadata-from-file=')]
  path = flag.removeprefix('--metadata-from-file=startup-script=')
  text = pathlib.Path(path).read_text()
  shutil.rmtree(place / 'launch')
  archive = tmp_path / 'code.tar.gz'
  setup = launch.tree / 'launch/tpu_host.sh'
  setup.write_text('#!/bin/sh\ntouch "set-up-$1"\n')
  pack = ['tar', '-C', launch.tree, '-czf', archive, 'launch']
  subprocess.run(pack, check=True)
  for real, fake in (
    ('/opt/m3i_jax', place), ('/mnt/', f'{tmp_path}/'),
    ('/var/log/m3i_jax.log', tmp_path / 'log'),
    ('gcloud storage cat "gs://$BUCKET/code/$NAME.tar.gz"', f'cat {archive}'),
    ('/root', tmp_path),
  ):  # fmt: skip
    assert real in text
    text = text.replace(real, str(fake))
  env = os.environ | {'RESTARTS': '0'}
  subprocess.run(['bash', '-c', text], check=True, env=env, timeout=60)
  assert (place / 'set-up-bucket').exists(), (tmp_path / 'log').read_text()
  assert (place / 'ran').read_text() == (
    f'-m m3i_jax.main --platform=tpu --workdir={tmp_path}/bucket/runs/m3i '
    f'{CONFIG} --config.seed=1\n'
  )
  assert (tmp_path / 'bucket/runs/m3i/ended').exists() == bool(ended)


@pytest.mark.parametrize(
  'line',
  [
    'tpu_pod.sh create', 'tpu_pod.sh sync', f'tpu_pod.sh run {CONFIG}',
    'tpu_pod.sh stop', 'tpu_pod.sh kill', f'tpu_spot.sh create {CONFIG}',
    f'tpu_spot.sh keep {CONFIG}', 'tpu_spot.sh logs', 'gke.sh image',
    f'gke.sh run {CONFIG}', 'gke.sh logs', f'slurm.sbatch {CONFIG}',
  ],
)  # fmt: skip
def test_a_dry_run_prints_what_would_be_called(launch, line):
  script, *options = line.split()
  done, calls = launch(script, *options, '--dry-run')
  assert done.returncode == 0 and not calls, done.stderr
  # The lines printed, run by a shell, make the calls of the script itself.
  printed = [x for x in done.stdout.splitlines() if not x.startswith('git ls')]
  (launch.tree / 'launch/printed.sh').write_text('\n'.join(printed))
  _, replayed = launch('printed.sh')
  _, calls = launch(
    script, *options,
    fakes={
      'gcloud compute tpus queued-resources describe': [1, ''],
      'gcloud storage cat': [[1, ''], [0, '']],
    },
  )  # fmt: skip
  looks = {'cat', 'describe'}
  calls, replayed = ([x for x in y if not looks & set(x)]
                     for y in (calls, replayed))  # fmt: skip
  assert replayed == calls != []


@pytest.mark.parametrize(
  ('line', 'said'),
  [
    ('tpu_pod.sh launch', "say create, sync, run, logs, stop, kill or delete"),
    ('tpu_pod.sh run', 'give --config=FILE'),
    ('tpu_spot.sh create', 'give --config=FILE'),
    ('gke.sh run', 'give --config=FILE'),
    ('slurm.sbatch --workdir=w', 'give --config=FILE'),
  ],
)
def test_a_mistake_is_one_line(launch, line, said):
  done, calls = launch(*line.split())
  assert done.returncode == 2 and not calls
  assert said in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_missing_setting_is_named(launch):
  done, _ = launch('tpu_pod.sh', 'create', settings={'NAME': 'm3i'})
  assert done.stderr == (
    'tpu_pod.sh: ZONE is not set: such as us-east5-a (see --help)\n'
  )
