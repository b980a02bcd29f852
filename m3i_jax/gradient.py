"""L = L_SSP + lambda L_SP and its gradient, as one pure function (eq. 13)."""

from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp

from m3i_jax import balance, guard
from m3i_jax.models import placement
from m3i_jax.objective import Objective, Sample

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

  def features(
    self, objective: Objective, parts: int = 1
  ) -> dict[str, Callable]:
    """As `Objective.sample` asks for it, `parts` of the batch in turn."""
    unit = objective.input.images

    def encode(images, reads):
      return objective.apply(
        {'params': getattr(self, reads)}, images, reads, method='encode_views'
      )

    def in_turn(images, reads):
      if parts == 1:
        return encode(images, reads)
      split = jax.tree.map(lambda x: _split(x, parts, unit), images)
      features = jax.lax.map(lambda part: encode(part, reads), split)
      return jax.tree.map(lambda x: _joined(x, unit), features)

    return {
      reads: lambda images, reads=reads: in_turn(images, reads)
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
  parts: int = 1,
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
    parts: see `encoded`.
  Returns:
    loss, gradient like `params`, the new running and balance, metrics.
  """
  k_sample, k_drop = jax.random.split(key)
  features = teachers.features(objective, parts)
  sample = objective.sample(batch, features, k_sample)

  z_x, pull_back = encoded(
    objective, params['encoder'], sample, k_drop, parts
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
  cotangent = jax.tree.map(
    lambda c, z: c.astype(z.dtype), combine(cotangents), z_x
  )
  (theta_gradient,) = pull_back(cotangent)
  metrics['unsound'] = guard.unsound(z_x, cotangent)
  gradient = {'encoder': theta_gradient} | combine(head_gradients)
  loss = combine(losses)
  return loss, gradient, running, state, metrics | {'loss': loss}


def encoded(
  objective: Objective, theta: Params, sample: Sample, key: Array, parts: int
):
  """z_x = f_theta(X), and what pulls its gradient back to theta.

  In `parts` above 1 the encoder sees so many parts of the batch one after the
  other, and once more on the way back (GradCache, Gao et al., 2021): its
  activations take 1 / parts of the memory, as do the target encoders'.
  Everything behind the features sees the whole batch, so no loss changes;
  stochastic depth draws anew.
  """

  def encode(theta, part, key):
    return objective.apply(
      {'params': {'encoder': theta}}, part, rngs={'drop_path': key},
      method='encode',
    )  # fmt: skip

  if parts == 1:
    return jax.vjp(lambda theta: encode(theta, sample, key), theta)
  unit = objective.input.images
  seen = {k: v for k, v in sample.y.items() if k == 'shared'}
  split = lambda tree: jax.tree.map(lambda x: _split(x, parts, unit), tree)
  pieces = split(Sample({}, sample.mixed, seen)), jax.random.split(key, parts)
  z_x = jax.lax.map(lambda piece: encode(theta, *piece), pieces)

  def pull_back(cotangent):
    def body(total, piece):
      own, c = piece
      back = jax.vjp(lambda theta: encode(theta, *own), theta)[1]
      return jax.tree.map(jnp.add, total, back(c)[0]), None

    zero = jax.tree.map(jnp.zeros_like, theta)
    return (jax.lax.scan(body, zero, (pieces, split(cotangent)))[0],)

  return jax.tree.map(lambda x: _joined(x, unit), z_x), pull_back


def _split(x: Array, parts: int, unit: int) -> Array:
  """[B, ...] -> [parts, B / parts, ...]; pairs stay, and no row moves."""
  shape = x.shape[1:]
  x = x.reshape(-1, parts, unit, *shape).swapaxes(0, 1)
  return placement.batch_sharded(x.reshape(parts, -1, *shape), 1)


def _joined(x: Array, unit: int) -> Array:
  """What `_split` has split."""
  shape = x.shape[2:]
  x = x.reshape(len(x), -1, unit, *shape).swapaxes(0, 1)
  return placement.batch_sharded(x.reshape(-1, *shape))


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
  return jnp.sqrt(jnp.square(norms(tree)).sum())


def norms(tree) -> Array:
  """Frobenius norm of each leaf, in float32, in the order of the leaves."""
  squares = [
    jnp.square(x.astype(jnp.float32)).sum() for x in jax.tree.leaves(tree)
  ]
  return jnp.sqrt(jnp.stack(squares))
