"""The Boltzmann form's sum over candidates, without a matrix of all logits."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from m3i_jax.models import placement

Array = jax.Array
NEVER = -1e9  # the logit of what cannot be chosen


def log_partition(
  rows: Array, candidates: Array, bias: Array, index: Array, block: int
) -> tuple[Array, Array, Array]:
  """log sum_m exp(rows . candidates + bias) without the N x M matrix.

  Args:
    rows: float32 [N, D]; candidates: [M, D]; bias: [M].
    index: int32 [N], the candidate whose logit is wanted.
    block: candidates at a time; memory, also of the gradient, is O(N block),
      and O(N M / block) for what the blocks hand on.
  Returns:
    float32 [N] the log partition function, float32 [N] the logits of `index`,
    int32 [N] the likeliest candidates.
  """

  def body(carry, logits, number):
    total, own, top, best = carry
    mine = index[:, None] == number
    own += jnp.where(mine, logits, 0.0).sum(-1)
    new, best = likelier(top, best, logits, number)
    total = total * jnp.exp(top - new)
    total += jnp.exp(logits - new[:, None]).sum(-1)
    return total, own, new, best

  zero = jnp.zeros(len(rows))
  start = zero, zero, zero + 2 * NEVER, jnp.zeros(len(rows), jnp.int32)
  total, own, top, best = over_blocks(
    body, start, rows, candidates, bias, block
  )
  return top + jnp.log(total), own, best


def likelier(top, best, logits, number):
  """The largest logit so far (a constant to the gradient), and whose it is."""
  logits = jax.lax.stop_gradient(logits)
  peak, where = logits.max(-1), number[logits.argmax(-1)]
  return jnp.maximum(top, peak), jnp.where(peak > top, where, best)


def over_blocks(
  body: Callable, start, rows: Array, candidates: Array, bias: Array, block: int
):
  """Folds body(carry, logits [N, block], their numbers) over the candidates.

  Logits are made again for the gradient instead of being kept.
  """
  # Gathered once: every device scores its own rows against all candidates.
  candidates = placement.gathered_rows(candidates)
  bias = placement.replicated(bias)
  count = len(candidates)
  block = min(block, count)
  missing = -count % block
  padded = jnp.pad(candidates, ((0, missing), (0, 0)))
  parts = (
    padded.reshape(-1, block, rows.shape[1]),
    jnp.pad(bias, (0, missing), constant_values=NEVER).reshape(-1, block),
    jnp.arange(count + missing, dtype=jnp.int32).reshape(-1, block),
  )

  @jax.checkpoint
  def step(carry, part):
    candidates, bias, number = part
    return body(carry, products(rows, candidates) + bias, number), None

  return jax.lax.scan(step, start, parts)[0]


def products(rows: Array, candidates: Array) -> Array:
  """[N, D], [M, D] -> [N, M] in full float32."""
  return jnp.einsum(
    'nd,md->nm', rows, candidates, precision=jax.lax.Precision.HIGHEST
  )
