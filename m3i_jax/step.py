"""The training state and the step: pure functions of pytrees."""

from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
import optax

from m3i_jax.objective import Objective, loss_and_gradient, norm
from m3i_jax.optim import Schedule

Metrics = dict[str, jax.Array]


@flax.struct.dataclass
class TrainState:
  """Everything that a step reads and writes.

  Attributes:
    step: int32, steps done.
    params: {'encoder', 'decoders_*', 'targets_*'}, float32.
    ema: {'encoder'}: xi, the moving average that encodes the target views; {}
      if no target needs it.
    opt_state: optax's.
    balance: of lambda, {} or {'g_u', 'g_m'}.
  """

  step: jax.Array
  params: dict
  ema: dict
  opt_state: optax.OptState
  balance: dict


def init_state(
  objective: Objective,
  optimizer: optax.GradientTransformation,
  seed: int,
  batch: dict,
) -> TrainState:
  """A fresh state; `batch` gives shapes and dtypes only."""
  key = jax.random.key(seed)

  def features(images):
    width = objective.encoder.width
    cells = (images[0].shape[1] // objective.encoder.patch) ** 2
    return [jnp.zeros((len(x), cells, width)) for x in images]

  sample = objective.sample(batch, features, key)
  params = objective.init({'params': key}, sample)['params']
  ema = {}
  if objective.reading('features'):
    # A copy: the donated state must not hold one buffer twice.
    ema = {'encoder': jax.tree.map(jnp.copy, params['encoder'])}
  return TrainState(
    step=jnp.int32(0),
    params=params,
    ema=ema,
    opt_state=optimizer.init(params),
    balance=objective.balance.init(),
  )


def make_train_step(
  objective: Objective,
  optimizer: optax.GradientTransformation,
  momentum: Schedule,
  seed: int,
) -> Callable[[TrainState, dict], tuple[TrainState, Metrics]]:
  """The step as a pure function (state, batch) -> (state, metrics).

  It does all of it: EMA, colours, masks, mix, targets, losses, lambda, update.
  Randomness comes from (seed, step, sample), whatever the mesh.
  """

  def train_step(state: TrainState, batch: dict) -> tuple[TrainState, Metrics]:
    mu = momentum(state.step)
    # The targets of a step are made by the EMA that includes its parameters.
    ema = jax.tree.map(
      lambda xi, theta: mu * xi + (1 - mu) * theta,
      state.ema,
      {k: state.params[k] for k in state.ema},
    )
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    loss, gradient, balance, metrics = loss_and_gradient(
      objective, state.params, ema, state.balance, batch, key
    )
    updates, opt_state = optimizer.update(
      gradient, state.opt_state, state.params
    )
    params = optax.apply_updates(state.params, updates)
    metrics |= {'grad_norm': norm(gradient), 'ema_momentum': mu}
    state = TrainState(state.step + 1, params, ema, opt_state, balance)
    return state, metrics

  return train_step
