"""Accelerators by name."""

import os

import jax
import pytest

from m3i_jax import chips
from m3i_jax.errors import UserError
from m3i_jax.plan import topology


def refused(name: str) -> str:
  with pytest.raises(UserError) as error:
    topology.prepare(name)
  said = str(error.value)
  assert '\n' not in said and f'--topology={name}' in said
  return said


@pytest.mark.parametrize(
  ('name', 'near'),
  [
    ('v5e:3x3', 'v5e:2x4, v5e:4x4, v5e:2x2'),
    ('v5e:4x4x4', 'v5e:8x8'),  # libtpu would compile for it, nobody sells it
    ('v5p:3x3x3', 'v5p:2x4x4'),
    ('v5p:9x9x9', 'v5p:8x8x12'),
    ('v5f:2x2', 'v5p:2x2x2'),
    ('h10:8', 'h100:8'),
    ('v5e', 'v5e:2x2'),
    ('2xh100:8', 'h100:4x8'),
    ('h100:0', 'h100:8'),
    ('', 'cpu:8'),
  ],
)
def test_what_there_is_not_names_the_nearest(name, near):
  assert near in refused(name)


def test_no_libtpu_is_one_line(monkeypatch, tmp_path):
  monkeypatch.setenv('TPU_LIBRARY_PATH', str(tmp_path / 'none.so'))
  with pytest.raises(UserError, match='launch/setup.sh plan'):
    topology.prepare('v5e:2x2')


def test_the_environment_is_that_of_a_machine_without_a_tpu(
  monkeypatch, tmp_path
):
  monkeypatch.setattr(os, 'environ', {})
  library = tmp_path / 'libtpu.so'
  library.touch()
  os.environ['TPU_LIBRARY_PATH'] = str(library)
  topology.prepare('2xv5e:16x16')
  assert os.environ['JAX_PLATFORMS'] == 'cpu'
  assert os.environ['TPU_SKIP_MDS_QUERY'] == '1'
  assert os.environ['TPU_LIBRARY_PATH'] == str(library)
  topology.prepare('h100:4x8')
  assert os.environ['XLA_FLAGS'].endswith('device_count=32')


def test_devices_of_this_process():
  found = topology.find('cpu:4')
  assert found.devices == jax.devices()[:4] and found.chip is None
  assert 'CPUs' in found.notes[0]
  found = topology.find('h100:2x4')
  assert len(found.devices) == 8 and found.per_host == 4
  assert found.chip == chips.named('h100')
  assert topology.find('here').devices == jax.devices()
  with pytest.raises(UserError, match='cpu:512 needs 512 virtual devices'):
    topology.find('cpu:512')
