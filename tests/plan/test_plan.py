"""Plans of a tiny M3I: on virtual devices of a CPU, and for a TPU slice."""

import dataclasses
import importlib.util
import json
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from absl.testing import flagsaver

from m3i_jax import chips, flops, plan
from m3i_jax.errors import UserError
from m3i_jax.plan import planning, report, topology
from m3i_jax.program import Program
from tests import small

HERE = 'configs/table1/auto_encoder.py:debug'


def request(name: str, **changes) -> planning.Request:
  found = dataclasses.replace(topology.find(name), **changes)
  return planning.Request(found, mfu=0.5, classes=7, vocabulary=50)


@pytest.fixture(scope='module')
def config():
  targets = {k: small.M3I[k] for k in ('inter', 'category')}
  c = small.small_config(targets)
  c.batch_size = 16
  return c


@pytest.fixture(scope='module')
def compiled(config):
  """(a plan for eight CPU devices, as if each were an H100; its program)."""
  kept = []
  with pytest.MonkeyPatch.context() as patch:
    compile_ = planning._compiled
    patch.setattr(
      planning, '_compiled', lambda p: kept.append(compile_(p)) or kept[0]
    )
    result = planning.measure(config, request('h100:8'))
  return result, kept[0][0]


@pytest.fixture
def measured(compiled):
  return compiled[0]


def shards(tree) -> int:
  """Bytes on the first device, from where JAX itself would put them."""
  total = 0
  for leaf in jax.tree.leaves(tree):
    places = leaf.sharding.devices_indices_map(leaf.shape)
    one = places[jax.devices()[0]]
    count = np.prod([
      len(range(*part.indices(size)))
      for part, size in zip(one, leaf.shape, strict=True)
    ])  # fmt: skip
    total += int(count) * leaf.dtype.itemsize
  return total


def test_bytes_by_kind_are_those_of_the_shards(config, compiled):
  measured, executable = compiled
  program: Program = planning.check(config, request('h100:8'))
  state, sizes = program.state(), measured['bytes_per_device']
  assert sizes['params'] == shards(state.params)
  assert sizes['optimizer'] == shards(state.opt_state)
  assert sizes['ema'] == shards(state.ema) > 0
  assert sizes['batch'] == shards(program.batch())
  assert measured['parameters'] == sum(
    x.size for x in jax.tree.leaves(state.params)
  )
  given = {k: v for k, v in sizes.items() if k not in ('total', 'available')}
  assert sizes['total'] == sum(given.values())
  memory = executable.memory_analysis()
  assert sizes['temporaries'] == memory.temp_size_in_bytes > 0
  assert sizes['total'] == (
    memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    - memory.alias_size_in_bytes
    + memory.temp_size_in_bytes
    + memory.generated_code_size_in_bytes
  )


def test_numbers_of_the_step_and_of_the_schedule(config, measured):
  program = planning.check(config, request('h100:8'))
  length = config.data.text_length
  parts = flops.analytic(
    program.objective, config.image_size, config.batch_size, length
  )
  assert measured['flops_per_step'] == sum(parts.values())
  floor = measured['floor_ms']
  assert floor['compute'] == pytest.approx(
    1e3 * sum(parts.values()) / (8 * 989e12)
  )
  assert measured['step_ms'] == pytest.approx(
    max(2 * floor['compute'], floor['memory'], floor['interconnect'])
  )
  assert measured['chip_hours'] == pytest.approx(
    8 * 10 * measured['step_ms'] / 3.6e6
  )
  assert measured['fits'] and 'CPUs' in measured['notes'][0]
  # Three quarters of 80 GiB are what JAX takes of a GPU.
  assert measured['bytes_per_device']['available'] == 60 * 2**30
  assert measured['collectives']['all-gather']['count'] > 0
  json.dumps(measured)


def test_what_does_not_fit_says_what_to_try(config, measured, monkeypatch):
  small = dataclasses.replace(chips.named('h100'), memory=1e6)
  ask = request('h100:8', chip=small)
  tried = []

  def measure(c, ask):
    tried.append((c.model.remat, c.accumulate))
    return measured | {'fits': len(tried) > 2}

  monkeypatch.setattr(planning, 'measure', measure)
  result = plan.plan(config, ask, False, lambda line: None)
  assert tried == [('none', 1)]
  assert result['remedies'][:2] == [
    {'model.remat': 'dots'}, {'model.remat': 'full'}
  ]  # fmt: skip
  assert {'batch_size': 8} not in result['remedies']  # no pair for each device
  assert 'try --config.model.remat=full' in report.table(result)
  # A search adds up what it changes.
  tried.clear()
  result = plan.plan(config, ask, True, lambda line: None)
  assert tried == [('none', 1), ('dots', 1), ('full', 1)]
  assert result['changes'] == {'model.remat': 'full'} and result['fits']


def test_every_remedy_is_possible(config):
  c = planning.changed(config, {
    'batch_size': 64, 'mesh.replica': 2, 'mesh.fsdp': 4, 'model.remat': 'full',
  })  # fmt: skip
  ask = request('h100:8')
  found = planning.remedies(c, ask)
  assert {'mesh.replica': 1, 'mesh.fsdp': 8} in found
  assert {'mesh.replica': 2, 'mesh.fsdp': 2, 'mesh.tensor': 2} in found
  assert {'accumulate': 2} in found and {'accumulate': 5} not in found
  for change in found:
    assert planning.check(planning.changed(c, change), ask)


def test_compilers_tell_how_much_too_large():
  kinds = {'params': 2**20, 'batch': 2**10}
  known = sum(kinds.values())
  said = (
    'RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required '
    'for HLO temporaries (31.50G) exceeds available HBM (15.75G).'
  )  # of libtpu 0.0.42
  sizes = planning._sizes(kinds, None, said)
  assert sizes['temporaries'] == int(31.5 * 2**30)
  assert sizes['total'] == int(31.5 * 2**30) + known
  said = 'RESOURCE_EXHAUSTED: ... Used 17.5G of 15.75G hbm. Exceeded by 1.8G'
  assert planning._sizes(kinds, None, said)['total'] == int(17.5 * 2**30)
  assert planning._sizes(kinds, None, 'something else')['total'] is None


def test_impossible_meshes_and_batches(config):
  ask = request('h100:8')
  with pytest.raises(UserError, match='the nearest are 1 x 4 x 2'):
    planning.check(planning.changed(config, {'mesh.fsdp': 3}), ask)
  with pytest.raises(UserError, match='such as 16 or 32'):
    planning.check(planning.changed(config, {'batch_size': 20}), ask)


def command(*arguments: str) -> tuple[int, str, str]:
  done = subprocess.run(
    [sys.executable, '-m', 'm3i_jax.plan', *arguments],
    capture_output=True, text=True,
  )  # fmt: skip
  return done.returncode, done.stdout, done.stderr


def test_the_command_prints_one_object():
  code, out, told = command(f'--config={HERE}', '--topology=cpu:4', '--json')
  assert code == 0, told
  result = json.loads(out)
  assert {
    'bytes_per_device', 'fits', 'flops_per_step', 'collectives', 'chip_hours'
  } <= set(result)  # fmt: skip
  assert result['devices'] == 4 and result['fits']
  assert result['chip_hours'] is None  # of no chip
  assert told.startswith('plan: compiling for cpu:4')


@pytest.mark.parametrize(
  ('arguments', 'said'),
  [
    ((f'--config={HERE}',), '--topology is missing'),
    ((f'--config={HERE}', '--topology=v5e:3x3'), 'no such slice'),
    (('--topology=cpu:4',), '--config is missing'),
    ((f'--config={HERE}', '--topology=cpu:4', '--mfu=2'), '--mfu=2.0'),
    ((f'--config={HERE}', '--topology=cpu:4', '--jsn'), 'jsn'),
  ],
)
def test_mistakes_are_one_line(arguments, said, capsys):
  with flagsaver.flagsaver(), pytest.raises(SystemExit) as error:
    plan.parse(['plan', *arguments])
  assert error.value.code == 2
  told = capsys.readouterr().err
  assert told.startswith('m3i_jax: ') and told.count('\n') == 1
  assert said in told


def test_a_report_is_narrow_and_says_what_it_knows(measured):
  whole = measured | {'changes': {}, 'remedies': []}
  text = report.table(whole)
  assert max(map(len, text.splitlines())) <= 80
  assert 'it fits' in text and 'all-gather' in text
  assert re.search(r'parameters +[\d.]+ [KM]iB', text)
  unknown = whole | {'floor_ms': None, 'collectives': {}, 'fits': False}
  assert 'IT DOES NOT FIT' in report.table(unknown)
  assert report.size(999) == '999 B'
  assert report.size(3 * 2**19) == '1.5 MiB'
  assert report.size(3 * 2**40) == '3072 GiB'


def test_a_tpu_slice_without_a_tpu(tmp_path):
  try:
    topology.prepare('v5e:2x2')
  except UserError as error:
    pytest.skip(str(error))
  ask = request('v5e:2x2')
  spec = importlib.util.spec_from_file_location('c', HERE.partition(':')[0])
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  result = planning.measure(module.get_config('debug'), ask)
  assert result['fits'] and result['device'] == 'TPU v5 lite'
  sizes = result['bytes_per_device']
  assert sizes['available'] == 15.75 * 2**30
  assert sizes['temporaries'] > 0 and sizes['program'] > 0
  assert sizes['total'] < 2**30
  assert result['floor_ms']['compute'] > 0
  assert any(result['collectives'])
