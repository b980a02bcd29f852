"""H(z_y) > 0: what keeps the target representation from collapsing (Table 1).

A regularizer maps (z_y, zhat_y) to (z_y as the likelihood sees it, a penalty).
"""

import dataclasses

import jax
import jax.numpy as jnp

from m3i_jax.representations import Represented

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Given:
  """Nothing to do: y itself is the target (pixels), its entropy the data's."""

  def __call__(self, z: Represented, prediction: Array):
    return z, jnp.float32(0.0)


@dataclasses.dataclass(frozen=True)
class Negatives:
  """The Boltzmann form's candidates: one point for all cannot beat chance."""

  def __call__(self, z: Represented, prediction: Array):
    return z, jnp.float32(0.0)


@dataclasses.dataclass(frozen=True)
class StopGradient:
  """The target does not follow the prediction."""

  def __call__(self, z: Represented, prediction: Array):
    return jax.lax.stop_gradient(z), jnp.float32(0.0)


@dataclasses.dataclass(frozen=True)
class Decorrelation:
  """Stop-gradient and E[zhat' C zhat] / D with C = E[z z'] over all tokens.

  The covariance term of UniGrad (Tao et al., 2022) as SiameseIM uses it for
  dense features, weight 0.02: a collapsed target costs .94 instead of .02.
  """

  weight: float = 0.02

  def __call__(self, z: Represented, prediction: Array):
    z = jax.lax.stop_gradient(z)
    width = prediction.shape[-1]
    t = z.value.reshape(-1, width)
    p = prediction.astype(jnp.float32).reshape(-1, width)
    covariance = t.T @ t / len(t)
    return z, self.weight * jnp.mean((p @ covariance) * p)


REGULARIZERS = {
  'none': Given,
  'negatives': Negatives,
  'stop_gradient': StopGradient,
  'decorrelation': Decorrelation,
}
