"""A JobSet on GKE and a job of Slurm: what they ask for, when they go on."""

import json
import re

import jsonschema
import pytest
import yaml

from tests import launching
from tests.launching import CONFIG, ROOT


@pytest.fixture
def launch(tmp_path):
  return launching.tree(tmp_path)


def jobset(launch, *options, **env) -> dict:
  done, calls = launch('gke.sh', 'run', CONFIG, *options, **env)
  assert done.returncode == 0, done.stderr
  assert calls[0][:4] == ['kubectl', 'apply', '-f', '-']
  return yaml.safe_load(calls[0][4])


def test_the_jobset_fits_its_schema(launch):
  schema = json.loads((ROOT / 'tests/golden/jobset.schema.json').read_text())
  made = jobset(launch)
  jsonschema.validate(made, schema)
  job = made['spec']['replicatedJobs'][0]['template']['spec']
  container = job['template']['spec']['containers'][0]
  for part in (made['spec']['failurePolicy'], job, container):
    part['misspelt'] = 1
    with pytest.raises(jsonschema.ValidationError, match='misspelt'):
      jsonschema.validate(made, schema)
    del part['misspelt']
  job['parallelism'] = '16'
  with pytest.raises(jsonschema.ValidationError, match="'16' is not of type"):
    jsonschema.validate(made, schema)


def test_the_jobset_says_what_was_asked(launch):
  made = jobset(launch, '--config.data.source=a"b\\c', SLICES='2')
  (slices,) = made['spec']['replicatedJobs']
  job = slices['template']['spec']
  assert slices['replicas'] == 2
  assert job['parallelism'] == job['completions'] == 16
  pod = job['template']['spec']
  (container,) = pod['containers']
  assert container['command'] == ['python', '-m', 'm3i_jax.main']
  assert container['args'] == [
    '--platform=tpu', '--workdir=/bucket/runs/m3i', CONFIG,
    '--config.data.source=a"b\\c',
  ]  # fmt: skip
  assert container['resources']['limits'] == {'google.com/tpu': 4}
  assert '${' not in json.dumps(made)


def test_the_jobset_ends_for_what_a_restart_does_not_mend(launch):
  spec = jobset(launch)['spec']
  job = spec['replicatedJobs'][0]['template']['spec']
  (rule,) = job['podFailurePolicy']['rules']
  assert rule['action'] == 'FailJob'
  assert rule['onExitCodes']['values'] == [2, 70]
  container = job['template']['spec']['containers'][0]['name']
  assert rule['onExitCodes']['containerName'] == container
  (ends,) = spec['failurePolicy']['rules']
  assert ends['action'] == 'FailJobSet'
  assert ends['onJobFailureReasons'] == ['PodFailurePolicy']
  # The two that Kubernetes asks for beside a podFailurePolicy of one failure.
  assert job['template']['spec']['restartPolicy'] == 'Never'
  assert job['backoffLimit'] == 0


def test_a_jobset_is_suspended_and_goes_on(launch):
  for verb, value in (('stop', True), ('resume', False)):
    _, (call,) = launch('gke.sh', verb)
    assert call[:4] == ['kubectl', 'patch', 'jobset', 'm3i']
    assert json.loads(call[-1]) == {'spec': {'suspend': value}}


@pytest.mark.parametrize(
  ('code', 'before', 'again'),
  [(0, 0, 0), (75, 0, 1), (74, 3, 1), (137, 0, 1), (75, 20, 0), (2, 0, 0),
   (70, 0, 0), (1, 0, 0)],
)  # fmt: skip
def test_slurm_requeues_what_a_restart_mends(launch, code, before, again):
  done, calls = launch(
    'slurm.sbatch', CONFIG, '--workdir=runs/a b', fakes={'srun': [code, '']},
    SLURM_JOB_ID='7', SLURM_RESTART_COUNT=str(before), SLURM_CPUS_PER_TASK='12',
  )  # fmt: skip
  assert done.returncode == code
  assert calls[0] == [
    'srun', '--kill-on-bad-exit=0', '--wait=300', '--cpus-per-task=12',
    '.venv/bin/python', '-m', 'm3i_jax.main', '--platform=gpu', CONFIG,
    '--workdir=runs/a b',
  ]  # fmt: skip
  assert calls[1:] == [['scontrol', 'requeue', '7']] * again


def test_slurm_asks_for_a_signal_in_time_and_a_task_a_gpu():
  text = (ROOT / 'launch/slurm.sbatch').read_text()
  head = text[:text.index('\nset ')]
  asked = dict(re.findall(r'^#SBATCH --([\w-]+)=?(\S*)$', head, re.M))
  assert asked['signal'] == 'TERM@300' and asked['open-mode'] == 'append'
  assert 'requeue' in asked
  assert asked['gpus-per-node'] == asked['ntasks-per-node']
