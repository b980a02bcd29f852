"""L = L_SSP + lambda L_SP and its gradient, as one pure function (eq. 13)."""

from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp

from m3i_jax import balance
from m3i_jax.objective import Objective

Array = jax.Array
Params = dict


@flax.struct.dataclass
class Teachers:
  """Parameters of the target encoders that no gradient reaches.

  Attributes:
    ema: {'encoder', 'decoders_*'}: xi, the moving average of the online
      parameters in `Objective.averaged`.
    frozen: {'teacher'}, a pre-trained encoder; {} if there is none.
  """

  ema: Params
  frozen: Params

  def features(self, objective: Objective) -> dict[str, Callable]:
    """As `Objective.sample` asks for it."""
    return {
      reads: lambda images, reads=reads: objective.apply(
        {'params': getattr(self, reads)}, images, reads, method='encode_views'
      )
      for reads in ('ema', 'frozen')
    }


def loss_and_gradient(
  objective: Objective,
  params: Params,
  teachers: Teachers,
  running: dict,
  state: balance.State,
  batch: dict,
  key: Array,
):
  """L = L_SSP + lambda L_SP and its gradient with one pass back (eq. 13).

  The gradient that each group sends to z_x is both what lambda is made of and
  what is pulled back through the encoder, once: c_u + lambda c_m.

  Args:
    params: {'encoder', 'decoders_*', 'targets_*'}.
    teachers: parameters of the target encoders without gradient, see
      `Teachers`.
    running: what regularizers keep from step to step.
    state: of the balance.
    batch: see data/pipeline.py.
    key: of this step.
  Returns:
    loss, gradient like `params`, the new running and balance, metrics.
  """
  k_sample, k_drop = jax.random.split(key)
  apply = objective.apply
  sample = objective.sample(batch, teachers.features(objective), k_sample)

  z_x, pull_back = jax.vjp(
    lambda theta: apply(
      {'params': {'encoder': theta}},
      sample,
      rngs={'drop_path': k_drop},
      method='encode',
    ),
    params['encoder'],
  )
  heads = {k: v for k, v in params.items() if k != 'encoder'}
  losses, cotangents, head_gradients, running, metrics = _heads(
    objective, heads, z_x, sample, running
  )
  weights = {group: 1.0 for group in objective.groups}
  if len(weights) == 2:
    # Of the input features alone, not of those that f_theta has as a target.
    g_u, g_m = (
      norm({k: v for k, v in cotangents[g].items() if k != 'shared'})
      for g in ('ssp', 'sp')
    )
    weights['sp'], state = objective.balance(state, g_u, g_m)
    metrics |= {'lambda': weights['sp'], 'g_u': g_u, 'g_m': g_m}

  combine = lambda trees: jax.tree.map(
    lambda *x: sum(w * y for w, y in zip(weights.values(), x, strict=True)),
    *trees.values(),
  )
  (theta_gradient,) = pull_back(
    jax.tree.map(lambda c, z: c.astype(z.dtype), combine(cotangents), z_x)
  )
  gradient = {'encoder': theta_gradient} | combine(head_gradients)
  loss = combine(losses)
  return loss, gradient, running, state, metrics | {'loss': loss}


def _heads(objective: Objective, heads: Params, z_x, sample, running: dict):
  """Everything behind the features, forward and back.

  Returns:
    by group the loss, its gradient to z_x, its gradient to the heads; the new
    running; metrics.
  """
  losses, cotangents, gradients, metrics = {}, {}, {}, {}
  for group in objective.groups:

    def group_loss(z_x, heads, group=group, running=running):
      (loss, measured), changed = objective.apply(
        {'params': heads, 'running': running},
        z_x,
        sample,
        group,
        method='group_loss',
        mutable=['running'],
      )
      return loss, (measured, changed.get('running', running))

    (losses[group], (measured, running)), both = jax.value_and_grad(
      group_loss, (0, 1), has_aux=True
    )(z_x, heads)
    cotangents[group], gradients[group] = both
    metrics |= measured
  return losses, cotangents, gradients, running, metrics


def norm(tree) -> Array:
  """Global Frobenius norm of a pytree, in float32."""
  squares = [
    jnp.square(x.astype(jnp.float32)).sum() for x in jax.tree.leaves(tree)
  ]
  return jnp.sqrt(sum(squares))
