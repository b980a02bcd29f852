"""lambda: the weight of L_SP beside L_SSP (eq. 13)."""

import dataclasses

import jax
import jax.numpy as jnp

Array = jax.Array
State = dict[str, Array]


@dataclasses.dataclass(frozen=True)
class Fixed:
  """A constant lambda."""

  value: float = 1.0

  def init(self) -> State:
    return {}

  def __call__(
    self, state: State, g_u: Array, g_m: Array
  ) -> tuple[Array, State]:
    return jnp.float32(self.value), state


@dataclasses.dataclass(frozen=True)
class GradientNorm:
  """lambda = gamma * gbar_u / gbar_m, without gradient.

  gbar are exponential moving averages of the norm of the gradient that L_SSP
  (uni-modal) and L_SP (multi-modal) send to the input features. They start at
  their first values, and stay where a gradient is zero; until both have one,
  lambda is gamma. Lambda is kept within 1e-4..1e4.
  """

  gamma: float = 1.0
  decay: float = 0.99

  def init(self) -> State:
    # Negative: no value seen yet.
    return {'g_u': jnp.float32(-1.0), 'g_m': jnp.float32(-1.0)}

  def __call__(
    self, state: State, g_u: Array, g_m: Array
  ) -> tuple[Array, State]:
    new = {'g_u': g_u, 'g_m': g_m}
    average = lambda gbar, g: self.decay * gbar + (1 - self.decay) * g
    # A batch without a single caption or label says nothing of its group.
    state = {
      k: jnp.where(
        new[k] > 0, jnp.where(gbar < 0, new[k], average(gbar, new[k])), gbar
      )
      for k, gbar in state.items()
    }
    seen = (state['g_u'] > 0) & (state['g_m'] > 0)
    ratio = state['g_u'] / jnp.maximum(state['g_m'], 1e-12)
    weight = self.gamma * jnp.where(seen, ratio, 1.0)
    return jax.lax.stop_gradient(jnp.clip(weight, 1e-4, 1e4)), state


BALANCES = {'fixed': Fixed, 'gradient_norm': GradientNorm}
