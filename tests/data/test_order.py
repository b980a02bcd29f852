"""Which record stands where, of one source and of several."""

import numpy as np
import pytest

from m3i_jax.data.order import BLOCK, Order, counted, epochs


def drawn(order, count=BLOCK, start=0):
  """(source, index within it) of each position."""
  ends = np.cumsum(order.lengths)
  index = np.array([order[start + i] for i in range(count)])
  source = np.searchsorted(ends, index, side='right')
  return source, index - (ends - order.lengths)[source]


def test_each_epoch_of_one_source_has_every_record_once():
  order = Order((7,), seed=3)
  found = [order[i] for i in range(21)]
  for epoch in (found[:7], found[7:14], found[14:]):
    assert sorted(epoch) == list(range(7))
  assert found[:7] != found[7:14]
  assert found == [epochs(7, 3)[i] for i in range(21)]
  assert found != [Order((7,), seed=4)[i] for i in range(21)]


def test_shares_are_exact_and_no_source_starves():
  order = Order((1000, 5000, 40), seed=1, shares=(5, 3, 2))
  for start in (0, 30 * BLOCK):
    source, index = drawn(order, start=start)
    assert np.bincount(source).tolist() == [5000, 3000, 2000]
    # The small one is through fifty times, each epoch complete.
    small = index[source == 2]
    assert all(
      sorted(small[i : i + 40]) == list(range(40)) for i in range(0, 2000, 40)
    )
    # The second one has not met a record twice.
    assert len(set(index[source == 1])) == 3000
  # Each source goes on where the block before it stopped.
  one, other = drawn(order), drawn(order, start=BLOCK)
  first, second = one[1][one[0] == 1], other[1][other[0] == 1]
  assert len({*first, *second[:2000]}) == 5000


def test_a_block_is_shuffled_and_blocks_differ():
  order = Order((9000, 9000), seed=0, shares=(1, 1))
  one, other = drawn(order)[0], drawn(order, start=BLOCK)[0]
  assert (one != other).mean() > .4
  # A fair coin's runs, within five standard deviations.
  changes = (one[1:] != one[:-1]).sum()
  assert abs(changes - BLOCK / 2) < 5 * np.sqrt(BLOCK) / 2


def test_positions_together_come_from_one_source():
  order = Order((2000, 6000), seed=2, shares=(1, 3), together=4)
  source, index = drawn(order, 4000)
  runs = source.reshape(-1, 4)
  assert (runs == runs[:, :1]).all() and set(runs[:, 0]) == {0, 1}
  assert len(set(index[source == 0])) == (source == 0).sum() > 900


def test_the_first_source_is_in_the_order_it_has_alone():
  alone = Order((50,), seed=5)
  source, index = drawn(Order((50, 70, 70), 5, (1, 1, 1)), 900)
  assert index[source == 0][:100].tolist() == [alone[i] for i in range(100)]
  # Equally long ones are not in the same order.
  assert (index[source == 1][:70] != index[source == 2][:70]).mean() > .8


def test_small_shares_are_drawn_and_zero_ones_never():
  assert counted((1e-9, 1.0)) == [1, BLOCK - 1]
  assert counted((0.0, 2.0)) == [0, BLOCK]
  assert counted((1, 1, 1)) == [3334, 3333, 3333]
  many = counted((1e-6,) * 20 + (1.0,))
  assert many == [1] * 20 + [BLOCK - 20] and sum(many) == BLOCK


def test_a_stand_in_is_of_the_same_source_and_far():
  order = Order((3, 1000), 0, (1, 1))
  assert sorted(order.instead(2, n) for n in range(3)) == [0, 1, 2]
  assert order.instead(2, 0) == 2 and order.instead(2, 3) == 2
  tries = [order.instead(500, n) for n in range(1000)]
  assert sorted(tries) == list(range(3, 1003))
  # A tenth that is damaged in one piece is left at the first or second try.
  for index in range(303, 403):
    assert not all(303 <= order.instead(index, n) < 403 for n in range(2))
  with pytest.raises(IndexError):
    order.instead(1003, 0)
