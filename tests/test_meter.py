"""What a row tells of the machine."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3i_jax import chips, meter


class Device:
  device_kind = 'TPU v5p'

  def memory_stats(self):
    return {'bytes_in_use': 3 * meter.GIB, 'peak_bytes_in_use': 5 * meter.GIB}


def test_mfu_by_hand(monkeypatch):
  """8 devices of a chip with a known peak: 459 TFLOP/s each."""
  monkeypatch.setattr(jax, 'devices', lambda: [Device()] * 8)
  monkeypatch.setattr(jax, 'local_devices', lambda: [Device()] * 8)
  monkeypatch.setattr(jax, 'device_count', lambda: 8)
  assert chips.of('TPU v5p').flops == 459e12
  row = meter.Meter(8 * 459 * 10**12, 512).row(2.0)
  assert row['mfu_percent'] == pytest.approx(50)
  assert row['step_ms'] == 2000 and row['images_per_s'] == 256
  assert row['images_per_s_per_chip'] == 32
  assert row['memory_gib'] == 3 and row['memory_peak_gib'] == 5


def test_a_device_that_is_not_known_is_measured(monkeypatch):
  monkeypatch.setattr(meter, 'measured_peak', lambda: 1e9)
  row = meter.Meter(10**9, 4).row(4.0)
  assert row['mfu_percent'] == pytest.approx(25)
  assert row['images_per_s_per_chip'] == 1 and 'memory_gib' not in row


def test_the_measured_peak_is_a_speed():
  assert 1e8 < meter.measured_peak(side=128, times=2) < 1e15


def test_programs_are_counted_after_the_first_row_but_not_in_a_pause():
  own = meter.Meter(1, 1)
  compile_one = lambda n: jax.jit(lambda x: x * n + 1)(jnp.ones(3))
  compile_one(1.25)
  assert own.row(1.0)['recompiles'] == 0
  compile_one(2.25)
  once = own.row(1.0)['recompiles']
  assert once >= 1
  own.pause(lambda: compile_one(3.25))
  assert own.row(1.0)['recompiles'] == once


def test_resident_memory_grows_with_what_is_held():
  before = meter.resident()
  held = np.ones(2**25)  # 256 MiB
  assert meter.resident() - before > 2**27
  assert held[0] == 1
