"""What keeps a run clean: steps that are left out, and what each step saw.

A step whose loss or gradient is not finite changes nothing but the counters.
All of it is part of the state, so a run that was killed counts on.
"""

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
State = dict[str, Array]
DECAY = 0.98  # of the usual gradient norm
COUNTED = ('replaced', 'truncated')  # of a batch: pictures, texts


def init(spike: bool = False) -> State:
  """Nothing happened yet.

  Returns:
    uint32 'skipped', steps left out; 'in_a_row', of them the newest in a row
    that were not finite;
    'rollbacks', and 'passed', batches of the data's order that these passed
    over; and, to tell spikes, float32 'norm', the usual gradient norm, -1
    before the first.
  """
  counters = ('skipped', 'in_a_row', 'rollbacks', 'passed')
  state = {k: jnp.uint32(0) for k in counters}
  return state | ({'norm': jnp.float32(-1)} if spike else {})


def init_counts() -> State:
  """uint32 'replaced' pictures and 'truncated' texts, since the start."""
  return {k: jnp.uint32(0) for k in COUNTED}


def judge(
  state: State, loss: Array, size: Array, spike: float = 0.0
) -> tuple[Array, State]:
  """Whether a step counts, and the state after it.

  Args:
    loss, size: of the step, the loss and the gradient's global norm.
    spike: above 0, a gradient so many times its usual norm is left out, too.
      The usual norm takes such a step in at that size, so that it follows a
      lasting change.
  """
  good = jnp.isfinite(loss) & jnp.isfinite(size)
  new = dict(state)
  # A spike is no reason to go back.
  new['in_a_row'] = jnp.where(good, jnp.uint32(0), state['in_a_row'] + 1)
  if spike:
    usual = state['norm']
    seen = jnp.where(usual < 0, size, jnp.minimum(size, spike * usual))
    average = jnp.where(usual < 0, seen, DECAY * usual + (1 - DECAY) * seen)
    new['norm'] = jnp.where(good, average, usual)
    good &= (usual < 0) | (size <= spike * usual)
  new['skipped'] += 1 - good.astype(jnp.uint32)
  return good, new


def rolled_back(old: State, step: int, found: State, found_step: int) -> State:
  """The state of a run that goes back from `step` to a checkpoint's.

  Its next step reads what the step after `step` would have read: the batches
  between are passed over.
  """
  back = step - found_step
  return found | {
    'skipped': old['skipped'],
    'rollbacks': old['rollbacks'] + np.uint32(1),
    'passed': old['passed'] + np.uint32(back),
    'in_a_row': np.uint32(0),
  }


def choose(good: Array, new, old):
  """`new` if the step counts, else `old`, bit for bit."""
  return jax.tree.map(lambda x, y: jnp.where(good, x, y), new, old)


def counted(counts: State, batch: dict) -> State:
  """The counts after a batch."""
  return {
    k: v + batch[k].sum(dtype=jnp.uint32) if k in batch else v
    for k, v in counts.items()
  }


def unsound(z_x, cotangent) -> Array:
  """bool [B], the inputs whose features are not finite, or else gradients."""

  def rows(tree):
    bad = [
      ~jnp.isfinite(x).reshape(len(x), -1).all(1) for x in jax.tree.leaves(tree)
    ]
    return sum(bad) > 0

  features = rows(z_x)
  return jnp.where(features.any(), features, rows(cotangent))


def digest(record: Array) -> Array:
  """uint32 [2] of which record is in which row, the same on any mesh.

  A sum over the rows of a mixed (row, record): 64 bits.
  """
  row = jnp.arange(len(record), dtype=jnp.uint32)
  lanes = [
    _mixed(_mixed(row + np.uint32(salt)) ^ record.astype(jnp.uint32))
    for salt in (0, 0x85EBCA6B)
  ]
  return jnp.stack([lane.sum(dtype=jnp.uint32) for lane in lanes])


def _mixed(x: Array) -> Array:
  """MurmurHash3's finalizer: each bit of x changes each bit of the result."""
  x = (x ^ x >> 16) * np.uint32(0x85EBCA6B)
  x = (x ^ x >> 13) * np.uint32(0xC2B2AE35)
  return x ^ x >> 16
