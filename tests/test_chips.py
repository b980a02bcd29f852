"""The table of accelerators."""

import pytest

from m3i_jax import chips


def test_found_by_what_jax_calls_them():
  assert chips.of('TPU v5 lite').name == 'v5e'
  assert chips.of('TPU v5').name == 'v5p'
  assert chips.of('NVIDIA H100 80GB HBM3').name == 'h100'
  assert chips.of('NVIDIA L4').name == 'l4'


def test_unknown_is_none_rather_than_a_near_name():
  for kind in ('cpu', 'TPU', 'NVIDIA L40', 'NVIDIA H100', ''):
    assert chips.of(kind) is None
  assert chips.named('h100').memory == 80 * 2**30
  assert chips.named('v5') is None


def test_no_kind_or_name_is_said_twice():
  kinds = [kind for chip in chips.CHIPS for kind in chip.kinds]
  names = [chip.name for chip in chips.CHIPS]
  assert len({*kinds}) == len(kinds) and len({*names}) == len(names)


@pytest.mark.parametrize('chip', chips.CHIPS, ids=lambda chip: chip.name)
def test_units(chip):
  # A factor of 1000, or bits for bytes, would leave these ranges.
  assert 40e12 < chip.flops < 5e15
  assert 10e9 < chip.memory < 300e9
  assert 2e11 < chip.bandwidth < 2e13
  assert 3e10 < chip.links < 2e12
  assert 2e9 < chip.network < chip.links
  # Of an accelerator for training: operations per byte of HBM.
  assert 50 < chip.flops / chip.bandwidth < 600


def test_two_devices_on_a_chip_share_its_peak():
  assert chips.of('TPU7x').peak == pytest.approx(1153.5e12)
  assert chips.of('TPU v6 lite').peak == pytest.approx(918e12)
