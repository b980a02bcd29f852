"""The training state and the step: pure functions of pytrees."""

from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from m3i_jax import guard
from m3i_jax.gradient import Teachers, loss_and_gradient, norms
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
    guard: see `guard.init`.
    counts: see `guard.init_counts`.
  """

  step: jax.Array
  params: dict
  ema: dict
  frozen: dict
  running: dict
  opt_state: optax.OptState
  balance: dict
  guard: dict
  counts: dict


def init_state(
  objective: Objective,
  optimizer: optax.GradientTransformation,
  seed: int,
  batch: dict,
  spike: bool = False,
) -> TrainState:
  """A fresh state; `batch` gives shapes and dtypes only.

  spike: the state also keeps the usual norm of the gradient.

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
    guard=guard.init(spike),
    counts=guard.init_counts(),
  )


def make_train_step(
  objective: Objective,
  optimizer: optax.GradientTransformation,
  momentum: Schedule,
  seed: int,
  spike: float = 0.0,
  parts: int = 1,
  rate: Schedule | None = None,
) -> Callable[[TrainState, dict], tuple[TrainState, Metrics]]:
  """The step as a pure function (state, batch) -> (state, metrics).

  It does all of it: EMA, colours, masks, mix, targets, losses, lambda, update.
  Randomness comes from (seed, step, sample), whatever the mesh. A step that is
  not finite is left out, see guard.py.

  Args:
    momentum: step -> mu of the EMA.
    spike: see `guard.judge`.
    parts: see `loss_and_gradient`.
    rate: step -> learning rate, for the metrics.
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
      parts,
    )
    if rate:
      # The optimizer does not count what is left out.
      counts = optax.tree_utils.tree_get_all_with_path(
        state.opt_state, 'count'
      )
      metrics['learning_rate'] = rate(counts[0][1])
    updates, opt_state = optimizer.update(
      gradient, state.opt_state, state.params
    )
    params = optax.apply_updates(state.params, updates)
    sizes = norms(gradient)
    size = jnp.sqrt(jnp.square(sizes).sum())
    good, guarded = guard.judge(state.guard, loss, size, spike)
    new = dict(
      params=params, ema=ema, running=running, opt_state=opt_state,
      balance=balance,
    )  # fmt: skip
    old = {k: getattr(state, k) for k in new}
    state = state.replace(
      step=state.step + 1,
      guard=guarded,
      counts=guard.counted(state.counts, batch),
      **guard.choose(good, new, old),
    )
    metrics |= {'grad_norm': size, 'ema_momentum': mu, 'good': good}
    metrics['leaves'] = ~jnp.isfinite(sizes)
    return state, metrics | _counters(state, batch)

  return train_step


def _counters(state: TrainState, batch: dict) -> Metrics:
  """What the guard and the counts say after a step, and its samples."""
  told = {k: v for k, v in state.counts.items() if k in batch}
  if 'record' in batch:
    told['samples'] = guard.digest(batch['record'])
  return told | state.guard


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
  batch['label'] = batch['record'] = np.zeros(size, np.int32)
  batch['replaced'] = np.zeros(size, bool)
  if text_length:
    batch['text'] = np.ones((size, text_length), np.int32)
    batch['truncated'] = np.zeros(size, bool)
  return batch
