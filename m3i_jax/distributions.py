"""P(z_y | zhat_y): "different forms of P result in different losses" (eq. 3).

Each gives the negative log-likelihood per sample, without the terms that do not
depend on the prediction, and measurements.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from m3i_jax.representations import Represented

Array = jax.Array
Likelihood = tuple[Array, dict[str, Array]]


class Gaussian(nn.Module):
  """N(zhat, sigma^2 I) with sigma^2 = D / 2: the mean square over channels."""

  def __call__(self, z: Represented, prediction: Array) -> Likelihood:
    """Both [B, Q, D] (or [B, D]) -> [B], the mean over Q."""
    error = jnp.square(prediction.astype(jnp.float32) - z.value)
    return error.reshape(len(error), -1).mean(-1), {}


class Boltzmann(nn.Module):
  """P proportional to exp(zhat . z / tau) over the candidates.

  Attributes:
    temperature: tau.
    learned: train log(1 / tau), clamped to 1 / tau <= 100 (CLIP).
    normalize: unit length for both sides.
    smoothing: share of the probability spread over all candidates.
    symmetric: also the likelihood of the prediction given the target, which
      needs the batch as candidates; the mean of both (CLIP).
  """

  temperature: float = 1.0
  learned: bool = False
  normalize: bool = False
  smoothing: float = 0.0
  symmetric: bool = False

  def setup(self):
    start = jnp.float32(np.log(1 / self.temperature))
    if self.learned:
      self.logit_scale = self.param('logit_scale', lambda _: start)

  def __call__(self, z: Represented, prediction: Array) -> Likelihood:
    """prediction [B, D] -> [B] and {'top1': share of the valid predicted}."""
    own = z.candidates is None
    index = jnp.arange(len(prediction)) if own else z.index
    logits = self.logits(z, prediction)
    # A sample without a target is nobody's negative.
    real = z.valid if own else jnp.ones(logits.shape[1], bool)
    logits = jnp.where(real, logits, -1e9)
    top1 = _mean(logits.argmax(-1) == index, z.valid)
    nll = self._cross_entropy(logits, index, real)
    if self.symmetric:
      back = jnp.where(real[:, None], logits, -1e9)
      nll = 0.5 * (nll + self._cross_entropy(back.T, index, real))
    return nll, {'top1': top1}

  def logits(self, z: Represented, prediction: Array) -> Array:
    """zhat . z / tau for every candidate: float32 [B, M]."""
    candidates = z.value if z.candidates is None else z.candidates
    prediction = prediction.astype(jnp.float32)
    candidates = candidates.astype(jnp.float32)
    if self.normalize:
      prediction, candidates = _unit(prediction), _unit(candidates)
    logits = self.scale() * jnp.einsum(
      'bd,md->bm', prediction, candidates, precision=jax.lax.Precision.HIGHEST
    )
    return logits if z.bias is None else logits + z.bias

  def scale(self) -> Array:
    """1 / tau."""
    if not self.learned:
      return jnp.float32(1 / self.temperature)
    return jnp.exp(jnp.minimum(self.logit_scale, np.log(100.0)))

  def _cross_entropy(self, logits: Array, index: Array, real: Array) -> Array:
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, index)
    if not self.smoothing:
      return loss
    spread = -jax.vmap(_mean, (0, None))(jax.nn.log_softmax(logits), real)
    return (1 - self.smoothing) * loss + self.smoothing * spread


def _unit(x: Array) -> Array:
  return x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-12)


def _mean(x: Array, valid: Array) -> Array:
  """Mean of [B] over the valid samples; 0 if there are none."""
  valid = valid.astype(jnp.float32)
  return (x * valid).sum() / jnp.maximum(valid.sum(), 1.0)


DISTRIBUTIONS = {'gaussian': Gaussian, 'boltzmann': Boltzmann}
