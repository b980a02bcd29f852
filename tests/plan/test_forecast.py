"""Floors of a step's time, by hand."""

import dataclasses

import pytest

from m3i_jax import build
from m3i_jax.chips import Chip
from m3i_jax.plan import forecast
from m3i_jax.plan.hlo import Collective
from tests.small import small_config

CHIP = Chip('t', (), 100e12, 16e9, 1e12, 200e9, 10e9, cores=2)


def sent(payload, group, kind='all-gather', network=False, times=1):
  return Collective(kind, '', payload, group, times, True, network, '')


def floors(collectives, per_host=8):
  return forecast.floors(1e15, 5e9, collectives, 8, CHIP, per_host)


def test_compute_and_memory_of_devices_that_are_half_a_chip():
  got = floors([])
  assert got.compute == pytest.approx(1e15 / (8 * 50e12))
  assert got.memory == pytest.approx(5e9 / 0.5e12)
  assert got.interconnect == 0


def test_links_and_network_work_at_the_same_time():
  inside = sent(8e9, 8)  # 7e9 bytes over links of 100e9 a device
  assert floors([inside]).interconnect == pytest.approx(0.07)
  slow = sent(1e8, 2, network=True, times=4)  # 4 * 5e7 over 5e9
  assert floors([inside, slow]).interconnect == pytest.approx(0.07)
  assert floors([slow]).interconnect == pytest.approx(0.04)
  # A group of two hosts of four devices: a fourth of it over each one's share.
  assert floors([inside], per_host=4).interconnect == pytest.approx(
    7e9 / 4 / 5e9
  )


def test_a_step_passes_no_floor():
  got = forecast.Floors(compute=1.0, memory=2.0, interconnect=3.0)
  assert got.seconds(0.5) == 3.0
  assert got.seconds(0.25) == 4.0


def test_schedule():
  got = forecast.schedule(seconds=0.5, batch=1000, steps=7200, chips=4)
  assert got == {
    'step_ms': 500.0,
    'images_per_s': 2000.0,
    'images_per_s_per_chip': 500.0,
    'days': pytest.approx(1 / 24),
    'chip_hours': 4.0,
  }


def test_what_a_vit_keeps_of_a_picture():
  c = small_config(mask=0.5, hidden='drop', images=2)
  objective = build.build(c, 7, 50)
  theta = objective.encoder
  cells = (c.image_size // theta.patch) ** 2
  tokens = cells + theta.class_token  # half of each of two pictures
  expected = theta.depth * tokens * theta.width
  assert forecast.saved(objective, c.image_size) == expected
  moved = forecast.least_bytes(objective, c.image_size, 3, 100, 10, 1)
  assert moved == 200 + 10 + 1 + 2 * 4 * 3 * expected


def test_what_a_convnet_keeps_of_a_picture():
  c = small_config()
  objective = build.build(c, 7, 50)

  @dataclasses.dataclass
  class Net:
    depths = (1, 2, 3, 1)
    dims = (8, 16, 32, 64)
    whole = True

  objective = objective.clone(encoder=Net())
  expected = 16**2 * 8 + 2 * 8**2 * 16 + 3 * 4**2 * 32 + 2**2 * 64
  assert forecast.saved(objective, 64) == expected
