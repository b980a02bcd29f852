"""What leaves steps out, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3i_jax import guard

INF, NAN = float('inf'), float('nan')


def run(norms, spike=0.0, losses=None):
  """[(taken, state)] of steps with these gradient norms."""
  state, seen = guard.init(spike > 0), []
  for norm, loss in zip(norms, losses or [1.0] * len(norms), strict=True):
    good, state = guard.judge(
      state, jnp.float32(loss), jnp.float32(norm), spike
    )
    seen.append((bool(good), jax.device_get(state)))
  return seen


def test_only_what_is_finite_counts():
  seen = run([1, NAN, 2, INF, 1, 1], losses=[1, 1, NAN, 1, -INF, 3])
  assert [good for good, _ in seen] == [True, False, False, False, False, True]
  assert [int(s['in_a_row']) for _, s in seen] == [0, 1, 2, 3, 4, 0]
  assert [int(s['skipped']) for _, s in seen] == [0, 1, 2, 3, 4, 4]
  assert 'norm' not in seen[0][1]


def test_a_spike_is_left_out_and_a_lasting_change_is_followed():
  seen = run([1.0, 1.5, 10.0, 1.0], spike=3.0)
  assert [good for good, _ in seen] == [True, True, False, True]
  usual = 1.0
  for (_, state), norm in zip(seen[1:], (1.5, 3 * 1.01, 1.0), strict=True):
    usual = 0.98 * usual + 0.02 * norm
    np.testing.assert_allclose(state['norm'], usual, rtol=1e-6)
  later = run([1.0] + [10.0] * 80, spike=3.0)
  assert not later[1][0] and later[-1][0]
  assert all(s['in_a_row'] == 0 for _, s in later)  # it never goes back


def test_what_is_not_finite_is_not_usual():
  seen = run([NAN, 2.0, INF], spike=3.0)
  assert [float(s['norm']) for _, s in seen] == [-1, 2, 2]


@pytest.mark.parametrize('good', [True, False])
def test_choose_keeps_the_bits(good):
  old = {'x': jnp.array([1e-45, -0.0, NAN]), 'n': jnp.int32(3)}
  new = {'x': jnp.array([1.0, 2.0, 3.0]), 'n': jnp.int32(4)}
  found = guard.choose(jnp.bool_(good), new, old)
  for key, wanted in (new if good else old).items():
    assert found[key].tobytes() == wanted.tobytes()


def test_the_inputs_to_blame():
  z = {'tokens': np.ones((4, 3, 2), np.float32), 'cls': np.ones((4, 2))}
  c = {k: v.copy() for k, v in z.items()}
  assert not guard.unsound(z, c).any()
  c['tokens'][1, 2, 0] = INF
  assert np.flatnonzero(guard.unsound(z, c)).tolist() == [1]
  z['cls'][3, 1] = NAN  # a feature: it made the gradients of all others
  c['tokens'][:] = NAN
  assert np.flatnonzero(guard.unsound(z, c)).tolist() == [3]


def mixed(x):
  """MurmurHash3's finalizer in whole numbers."""
  mask = 2**32 - 1
  x = (x ^ x >> 16) * 0x85EBCA6B & mask
  x = (x ^ x >> 13) * 0xC2B2AE35 & mask
  return x ^ x >> 16


def test_the_digest_by_hand():
  assert mixed(1) == 0x514E28B7  # the published finalizer of 1
  record = np.array([5, 2**31 - 1, 0, 5], np.int32)
  wanted = [
    sum(
      mixed(mixed((n + salt) % 2**32) ^ int(r)) for n, r in enumerate(record)
    )
    % 2**32
    for salt in (0, 0x85EBCA6B)
  ]
  assert guard.digest(jnp.asarray(record)).tolist() == wanted
  other = guard.digest(jnp.asarray(record[[1, 0, 2, 3]]))
  assert (np.array(wanted) != other).all()


def test_going_back_passes_over_what_was_read():
  found = jax.device_get(guard.init(spike=True)) | {'norm': np.float32(2)}
  old = {k: np.uint32(n) for k, n in dict(
    skipped=4, in_a_row=3, rollbacks=1, passed=10
  ).items()}  # fmt: skip
  new = guard.rolled_back(old, 108, found, 100)
  # Step 100 reads at 100 + 18: where step 108 would have read, at 108 + 10.
  assert new['passed'] == 18 and new['rollbacks'] == 2
  assert new['skipped'] == 4 and new['in_a_row'] == 0 and new['norm'] == 2
  assert {k: v.dtype for k, v in new.items()} == {
    k: v.dtype for k, v in found.items()
  }


def test_counts():
  counts = guard.init_counts()
  batch = {'replaced': jnp.array([True, False, True])}
  counts = guard.counted(guard.counted(counts, batch), batch)
  assert counts['replaced'] == 4 and counts['truncated'] == 0
