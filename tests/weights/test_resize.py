"""Tables of positions for pictures of another size, against timm's."""

import pathlib

import numpy as np
import pytest

from m3i_jax.errors import UserError
from m3i_jax.weights import resize

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / 'golden/pos_resize.npz')


@pytest.mark.parametrize('side', [3, 4, 7, 16])
@pytest.mark.parametrize('prefix', [0, 1])
def test_as_timm(side, prefix):
  table = GOLDEN['table'][:, 1 - prefix :]
  resized = resize.positions(table, prefix, side)
  assert resized.dtype == np.float32
  np.testing.assert_allclose(
    resized, GOLDEN[f'{prefix}/{side}'], rtol=0, atol=2e-6
  )
  if side == 7:
    np.testing.assert_array_equal(resized, table)
  np.testing.assert_array_equal(resized[:, :prefix], table[:, :prefix])


def test_a_table_of_no_square():
  with pytest.raises(UserError, match='pos_embed has 49 rows: 1 for the class'):
    resize.positions(GOLDEN['table'][:, 1:], 1, 4)
