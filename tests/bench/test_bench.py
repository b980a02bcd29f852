"""The benchmark of DCNv3 at tiny sizes."""

import json
import sys

import numpy as np
import pytest
from absl.testing import flagsaver

from m3i_jax import bench
from m3i_jax.bench import dcnv3 as bench_dcnv3
from m3i_jax.models import dcnv3

TINY = {'tiny': [(4, 2, 3, 2), (2, 4, 3, 1)]}


@pytest.fixture
def tiny(monkeypatch):
  monkeypatch.setattr(bench_dcnv3, 'STAGES', TINY)


def ran(monkeypatch, capsys, *arguments):
  """The numbers of the last line."""
  argv = ['bench', 'dcnv3', *arguments]
  monkeypatch.setattr(sys, 'argv', argv)
  with flagsaver.flagsaver():
    bench.run(bench.parse(argv))
  return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_every_formulation_of_every_stage(tiny, monkeypatch, capsys):
  monkeypatch.setattr(dcnv3, 'TPU_DENSE', 15)  # one stage is larger
  got = ran(monkeypatch, capsys, '--steps=1', '--batch=2', '--offset_std=0')
  assert (got['steps'], got['batch'], got['offset_std']) == (1, 2, 0)
  first, second = got['tiny']['stages']
  assert (first['shape'], second['shape']) == ([2, 4, 4, 2, 3], [2, 2, 2, 4, 3])
  assert set(dcnv3.IMPLS) - set(first['runs']) == {'onehot'}
  assert set(dcnv3.IMPLS) <= set(second['runs'])
  assert 'onehot' not in got['tiny']['all']  # not the time of all layers
  for name, total in got['tiny']['all'].items():
    runs = first['runs'][name], second['runs'][name]
    assert min(*runs[0].values(), *runs[1].values()) > 0
    for key in ('forward_ms', 'both_ms'):
      assert total[key] == pytest.approx(2 * runs[0][key] + runs[1][key])


def test_a_flag_that_is_none(tiny, monkeypatch, capsys):
  with pytest.raises(SystemExit) as error:
    ran(monkeypatch, capsys, '--batches=2')
  assert error.value.code == 2
  assert 'batches' in capsys.readouterr().err


def test_the_ideal_reads_and_writes_once():
  shape = 4, 48, 48, 10, 32
  got = bench_dcnv3.ideal(shape, speed=1e12)
  value, offset, modulation, _ = bench_dcnv3.drawn((1, 6, 6, 10, 32), 0.5)
  inputs = 4 * 64 * sum(x.nbytes for x in (value, offset, modulation))
  forward = inputs + 4 * 64 * value.nbytes
  # Backward: the same inputs, and a result for each; the gradient besides.
  backward = 2 * inputs + 4 * 64 * value.nbytes
  assert got['forward_ms'] == pytest.approx(1e3 * forward / 1e12)
  assert got['both_ms'] == pytest.approx(1e3 * (forward + backward) / 1e12)


def test_the_torch_reference_is_the_operator():
  torch = pytest.importorskip('torch')
  *args, _ = bench_dcnv3.drawn((2, 5, 7, 2, 3), 0.8)
  got = bench_dcnv3.reference(torch, *map(torch.tensor, args)).numpy()
  want = dcnv3.dcnv3(*args, kernel_size=3)
  np.testing.assert_allclose(got, want, atol=1e-5)
