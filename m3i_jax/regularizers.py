"""H(z_y) > 0: what keeps the target representation from collapsing (Table 1).

A regularizer maps (z_y, zhat_y, P) to (z_y as the likelihood sees it, a
penalty or None).
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from m3i_jax.distributions import (
  cross_correlation,
  entropy,
  mean,
)
from m3i_jax.representations import Represented

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Given:
  """Nothing to do: y itself is the target (pixels), its entropy the data's."""

  def __call__(self, z: Represented, prediction: Array, distribution):
    return z, None


@dataclasses.dataclass(frozen=True)
class Negatives:
  """The Boltzmann form's candidates: one point for all cannot beat chance."""

  def __call__(self, z: Represented, prediction: Array, distribution):
    return z, None


@dataclasses.dataclass(frozen=True)
class StopGradient:
  """The target does not follow the prediction."""

  def __call__(self, z: Represented, prediction: Array, distribution):
    return jax.lax.stop_gradient(z), None


@dataclasses.dataclass(frozen=True)
class Covariance:
  """Stop-gradient and E[zhat' C zhat] / D with C = E[z z'] over all tokens.

  The covariance term of UniGrad (Tao et al., 2022) as SiameseIM uses it for
  dense features, weight 0.02: a collapsed target costs .94 instead of .02.
  """

  weight: float = 0.02

  def __call__(self, z: Represented, prediction: Array, distribution):
    z = jax.lax.stop_gradient(z)
    width = prediction.shape[-1]
    t = z.value.reshape(-1, width)
    p = prediction.astype(jnp.float32).reshape(-1, width)
    covariance = t.T @ t / len(t)
    return z, self.weight * jnp.mean((p @ covariance) * p)


@dataclasses.dataclass(frozen=True)
class Decorrelation:
  """weight * sum_{i != j} C_ij^2 of the cross-correlation matrix.

  Barlow Twins (Zbontar et al. 2021, eq. 1), weight .0051.
  """

  weight: float = 0.0051

  def __call__(self, z: Represented, prediction: Array, distribution):
    c = cross_correlation(z.value, prediction)
    off_diagonal = jnp.where(jnp.eye(len(c), dtype=bool), 0.0, c)
    return z, self.weight * jnp.square(off_diagonal).sum()


@dataclasses.dataclass(frozen=True)
class MeanEntropy:
  """weight * (log M - H(mean P)): use all candidates alike (MSN's ME-MAX)."""

  weight: float = 1.0

  def __call__(self, z: Represented, prediction: Array, distribution):
    logits = distribution.logits(z, prediction)
    average = mean(jax.nn.softmax(logits), z.valid)
    return z, self.weight * (jnp.log(len(average)) - entropy(average))


class Centering(nn.Module):
  """Targets become softmax((z - c) / tau), c their moving average (DINO).

  Centring keeps one coordinate from winning everywhere, the low temperature
  keeps the targets from becoming uniform (Caron et al. 2021, section 3.1).

  Attributes:
    temperature: of the target; DINO warms it up from .04 to .07.
    momentum: of c, which a step reads before it writes it.
  """

  temperature: float = 0.04
  momentum: float = 0.9

  @nn.compact
  def __call__(self, z: Represented, prediction: Array, distribution):
    value = jax.lax.stop_gradient(z.value)
    zeros = lambda: jnp.zeros(value.shape[-1])
    centre = self.variable('running', 'centre', zeros)
    old = centre.value
    if self.is_mutable_collection('running') and not self.is_initializing():
      new = mean(value, z.valid)
      centre.value = self.momentum * old + (1 - self.momentum) * new
    share = jax.nn.softmax((value - old) / self.temperature)
    return z.replace(value=share), None


REGULARIZERS = {
  'none': Given,
  'negatives': Negatives,
  'stop_gradient': StopGradient,
  'covariance': Covariance,
  'decorrelation': Decorrelation,
  'centering': Centering,
  'mean_entropy': MeanEntropy,
}
