"""The training state and the step: pure functions of pytrees."""

from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from m3i_jax.gradient import Teachers, loss_and_gradient, norm
from m3i_jax.objective import Objective
from m3i_jax.optim import Schedule

Metrics = dict[str, jax.Array]


@flax.struct.dataclass
class TrainState:
  """Everything that a step reads and writes.

  Attributes:
    step: int32, steps done.
    params: {'encoder', 'decoders_*', 'targets_*'}, float32.
    ema: xi, the moving average of `Objective.averaged`, which encodes target
      views; {} if no target needs it.
    frozen: {'teacher'}, a pre-trained target encoder; {} if there is none.
    running: what regularizers keep from step to step, such as centres.
    opt_state: optax's.
    balance: of lambda, {} or {'g_u', 'g_m'}.
  """

  step: jax.Array
  params: dict
  ema: dict
  frozen: dict
  running: dict
  opt_state: optax.OptState
  balance: dict


def init_state(
  objective: Objective,
  optimizer: optax.GradientTransformation,
  seed: int,
  batch: dict,
) -> TrainState:
  """A fresh state; `batch` gives shapes and dtypes only.

  The weights of a frozen teacher, too, are fresh: `state.replace` them.
  """
  key = jax.random.key(seed)
  variables = objective.init({'params': key}, batch, key)
  params = variables['params']
  teacher = {k: params.pop(k) for k in ('teacher',) if k in params}
  return TrainState(
    step=jnp.int32(0),
    params=params,
    # A copy: the donated state must not hold one buffer twice.
    ema=jax.tree.map(jnp.copy, {k: params[k] for k in objective.averaged}),
    frozen=teacher,
    running=variables.get('running', {}),
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
    loss, gradient, running, balance, metrics = loss_and_gradient(
      objective,
      state.params,
      Teachers(ema, state.frozen),
      state.running,
      state.balance,
      batch,
      key,
    )
    updates, opt_state = optimizer.update(
      gradient, state.opt_state, state.params
    )
    params = optax.apply_updates(state.params, updates)
    metrics |= {'grad_norm': norm(gradient), 'ema_momentum': mu}
    state = state.replace(
      step=state.step + 1,
      params=params,
      ema=ema,
      running=running,
      opt_state=opt_state,
      balance=balance,
    )
    return state, metrics

  return train_step


def zero_batch(
  size: int, side: int, letters: tuple[str, ...], text_length: int = 0
) -> dict:
  """A batch of the pipeline's shapes and dtypes, all zeros but the boxes."""
  view = lambda: {
    'image': np.zeros((size, side, side, 3), np.uint8),
    'box': np.tile(np.array([0, 0, 1, 1], np.float32), (size, 1)),
    'flip': np.zeros(size, bool),
  }
  batch = {letter: view() for letter in letters}
  batch['label'] = np.zeros(size, np.int32)
  if text_length:
    batch['text'] = np.ones((size, text_length), np.int32)
  return batch
