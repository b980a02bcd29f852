"""P(z_y | zhat_y): "different forms of P result in different losses" (eq. 3).

Each gives the negative log-likelihood per sample, without the terms that do not
depend on the prediction, and measurements; and `floor`, what the best constant
prediction would cost on this batch.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from m3i_jax.models import layers
from m3i_jax.partition import (
  NEVER,
  likelier,
  log_partition,
  over_blocks,
  products,
)
from m3i_jax.representations import Represented

Array = jax.Array
Likelihood = tuple[Array, dict[str, Array]]


class Gaussian(nn.Module):
  """N(zhat, sigma^2 I) with sigma^2 = D / 2: the mean square over channels.

  Attributes:
    normalize: unit length for both sides, and the sum over channels: BYOL's
      2 - 2 cos.
  """

  normalize: bool = False

  def __call__(self, z: Represented, prediction: Array) -> Likelihood:
    """Both [B, Q, D] (or [B, D]) -> [B], the mean over Q."""
    value = z.value
    if self.normalize:
      value, prediction = layers.unit(value), layers.unit(prediction)
    error = jnp.square(prediction.astype(jnp.float32) - value)
    nll = error.reshape(len(error), -1).mean(-1)
    return nll * (value.shape[-1] if self.normalize else 1), {}

  def floor(self, z: Represented) -> Array:
    """The variance of the targets; of unit vectors, 2 - 2 |their mean|."""
    value = layers.unit(z.value) if self.normalize else z.value
    value = value.reshape(len(value), -1, value.shape[-1])
    centre = mean(value.mean(1), z.valid)
    if self.normalize:
      return 2 - 2 * jnp.linalg.norm(centre)
    return mean(jnp.square(value - centre).mean((1, 2)), z.valid)


class Boltzmann(nn.Module):
  """P proportional to exp(zhat . z / tau) over the candidates.

  The candidates are a table, or the targets of the global batch; those of dense
  targets are all its cells. They are met `block` at a time: memory is
  O(B block), not O(B M).

  Attributes:
    temperature: tau.
    learned: train log(1 / tau), clamped to 1 / tau <= 100 (CLIP).
    normalize: unit length for both sides.
    smoothing: share of the probability spread over all candidates.
    symmetric: also the likelihood of the prediction given the target, which
      needs the batch as candidates; the mean of both (CLIP).
    block: candidates at a time.
  """

  temperature: float = 1.0
  learned: bool = False
  normalize: bool = False
  smoothing: float = 0.0
  symmetric: bool = False
  block: int = 1024

  def setup(self):
    start = jnp.float32(np.log(1 / self.temperature))
    if self.learned:
      self.logit_scale = self.param('logit_scale', lambda _: start)

  def __call__(self, z: Represented, prediction: Array) -> Likelihood:
    """prediction [B, D] or [B, Q, D] -> [B] and {'top1'}.

    top1: the share of the valid samples whose likeliest candidate is theirs.
    """
    shape = prediction.shape[:-1]
    rows, candidates, bias = self._sides(z, prediction)
    each = lambda x: jnp.repeat(x, len(rows) // len(x))
    if z.candidates is None:
      real = each(z.valid)
      nll, hit = self._own(rows, candidates, real)
      if self.symmetric:
        nll = 0.5 * (nll + self._own(candidates, rows, real)[0])
    elif z.share is not None:
      nll, hit = self._shared(rows, candidates, bias, z.share)
    else:
      real = jnp.ones(len(candidates), bool)
      nll, hit = self._likelihood(rows, candidates, bias, z.index, real)
    per_sample = lambda x: x.reshape(shape[0], -1).mean(1)
    return per_sample(nll), {'top1': mean(per_sample(hit), z.valid)}

  def logits(self, z: Represented, prediction: Array) -> Array:
    """zhat . z / tau for every candidate: float32 [B, M]."""
    rows, candidates, bias = self._sides(z, prediction)
    return products(rows, candidates) + bias

  def floor(self, z: Represented) -> Array:
    """The entropy of how often each candidate is the right one."""
    if z.candidates is None:
      cells = z.value.size // (len(z.value) * z.value.shape[-1])
      return jnp.log(jnp.maximum(z.valid.sum() * cells, 1).astype(jnp.float32))
    if z.share is not None:
      return entropy(mean(z.share, z.valid))
    often = frequency(z.index, z.valid, len(z.candidates))
    return entropy(smoothed(often, self.smoothing))

  def scale(self) -> Array:
    """1 / tau."""
    if not self.learned:
      return jnp.float32(1 / self.temperature)
    return jnp.exp(jnp.minimum(self.logit_scale, np.log(100.0)))

  def _sides(self, z: Represented, prediction: Array):
    """Predictions [N, D] times 1 / tau, candidates [M, D], their bias [M]."""
    candidates = z.value if z.candidates is None else z.candidates
    width = candidates.shape[-1]
    rows = prediction.astype(jnp.float32).reshape(-1, width)
    candidates = candidates.astype(jnp.float32).reshape(-1, width)
    if self.normalize:
      rows, candidates = layers.unit(rows), layers.unit(candidates)
    bias = jnp.zeros(len(candidates)) if z.bias is None else z.bias
    return self.scale() * rows, candidates, bias

  def _own(self, rows, candidates, real):
    """Row n's candidate is candidate n; unreal ones are nobody's negatives."""
    bias, index = jnp.zeros(len(rows)), jnp.arange(len(rows))
    return self._likelihood(rows, candidates, bias, index, real)

  def _likelihood(self, rows, candidates, bias, index, real):
    """-log P of each row's candidate, and whether it is the likeliest."""
    log_z, own, best = log_partition(
      rows, candidates, jnp.where(real, bias, NEVER), index, self.block
    )
    nll = log_z - own
    if self.smoothing:
      # The mean logit needs no logits: it is that of the mean candidate.
      average = mean(candidates, real)[None]
      spread = log_z - products(rows, average)[:, 0] - mean(bias, real)
      nll = (1 - self.smoothing) * nll + self.smoothing * spread
    return nll, best == index

  def _shared(self, rows, candidates, bias, share):
    """The expectation of -log P when the candidate is drawn from `share`."""
    likeliest = share.argmax(-1)
    log_z, _, best = log_partition(
      rows, candidates, bias, likeliest, self.block
    )
    expected = (rows * products(share, candidates.T)).sum(-1)
    expected += (share * bias).sum(-1)
    return log_z - expected, best == likeliest


class Sigmoid(Boltzmann):
  """Each pair by itself: is it a true one? (SigLIP, Zhai et al. 2023, eq. 1)

  The likelihood of all pairs of a batch, over its size; it needs no partition
  function. Scale and bias are learned.
  """

  temperature: float = 0.1
  learned: bool = True
  normalize: bool = True

  def setup(self):
    super().setup()
    self.offset = self.param('offset', nn.initializers.constant(-10.0), ())

  def floor(self, z: Represented) -> Array:
    """Every pair taken for true with the share of true pairs."""
    count = jnp.exp(super().floor(z))
    share = 1 / jnp.maximum(count, 2.0)
    return -jnp.log(share) - (count - 1) * jnp.log1p(-share)

  def _likelihood(self, rows, candidates, bias, index, real):
    bias = jnp.where(real, bias + self.offset, NEVER)

    def body(carry, logits, number):
      total, own, top, best = carry
      mine = index[:, None] == number
      own += jnp.where(mine, logits, 0.0).sum(-1)
      total += jax.nn.softplus(logits).sum(-1)
      return total, own, *likelier(top, best, logits, number)

    zero = jnp.zeros(len(rows))
    start = zero, zero, zero + NEVER, jnp.zeros(len(rows), jnp.int32)
    total, own, _, best = over_blocks(
      body, start, rows, candidates, bias, self.block
    )
    # -log sigmoid(x) = softplus(x) - x: the true pair's sign differs.
    return total - own, best == index


class Correlation(nn.Module):
  """The diagonal of the cross-correlation matrix, Gaussian around one.

  sum_i (1 - C_ii)^2 over the channels (Zbontar et al. 2021, eq. 1). The batch
  as a whole has this likelihood: each sample is given it.
  """

  def __call__(self, z: Represented, prediction: Array) -> Likelihood:
    """Both [B, D] -> [B]."""
    diagonal = jnp.diagonal(cross_correlation(z.value, prediction))
    nll = jnp.square(1.0 - diagonal).sum()
    return jnp.full(len(prediction), nll), {'correlation': diagonal.mean()}

  def floor(self, z: Represented) -> Array:
    """A constant correlates with nothing."""
    return jnp.float32(z.value.shape[-1])


class Categorical(nn.Module):
  """softmax(zhat / tau) over coordinates: the prediction is the logits.

  The Boltzmann form with the unit vectors as candidates: pieces of text, or
  the outputs of a distillation head. A caption's likelihood is the product of
  its pieces', each given the earlier ones.

  Attributes:
    temperature: tau.
    smoothing: share of the probability spread over all coordinates.
  """

  temperature: float = 1.0
  smoothing: float = 0.0

  def __call__(self, z: Represented, prediction: Array) -> Likelihood:
    """Logits [B, M] or [B, T, M] -> [B] or [B, T], as z.valid."""
    logits = prediction.astype(jnp.float32) / self.temperature
    if z.index is None:
      nll = optax.softmax_cross_entropy(logits, z.value)
      likeliest = z.value.argmax(-1)
    else:
      nll = optax.softmax_cross_entropy_with_integer_labels(logits, z.index)
      likeliest = z.index
    if self.smoothing:
      spread = -jax.nn.log_softmax(logits).mean(-1)
      nll = (1 - self.smoothing) * nll + self.smoothing * spread
    hit = logits.argmax(-1) == likeliest
    return nll, {'top1': mean(hit.reshape(-1), z.valid.reshape(-1))}

  def floor(self, z: Represented) -> Array:
    """The entropy of how often each coordinate is the right one."""
    valid = z.valid.reshape(-1)
    if z.index is None:
      often = mean(z.value.reshape(len(valid), -1), valid)
    else:
      often = frequency(z.index.reshape(-1), valid, z.choices)
    return entropy(smoothed(often, self.smoothing))


def cross_correlation(z: Array, prediction: Array) -> Array:
  """C_ij of prediction i and target j over the batch: float32 [D, D]."""
  left = layers.standardized(prediction.astype(jnp.float32), 1e-5)
  right = layers.standardized(z.astype(jnp.float32), 1e-5)
  return jnp.einsum(
    'bi,bj->ij', left, right, precision=jax.lax.Precision.HIGHEST
  ) / len(left)


def mean(x: Array, valid: Array) -> Array:
  """Mean of [B, ...] over the valid samples; 0 if there are none."""
  valid = valid.astype(jnp.float32)
  total = jnp.tensordot(valid, x.astype(jnp.float32), 1)
  return total / jnp.maximum(valid.sum(), 1.0)


def entropy(share: Array) -> Array:
  """In nats, of probabilities [M]."""
  return -(share * jnp.log(jnp.maximum(share, 1e-30))).sum()


def smoothed(share: Array, smoothing: float) -> Array:
  """Probabilities [M], a part of them spread over all."""
  return (1 - smoothing) * share + smoothing / len(share)


def frequency(index: Array, valid: Array, count: int) -> Array:
  """How often each of `count` candidates is the valid samples' own: [M]."""
  total = jnp.zeros(count).at[index].add(valid.astype(jnp.float32))
  return total / jnp.maximum(valid.sum(), 1)


DISTRIBUTIONS = {
  'gaussian': Gaussian,
  'boltzmann': Boltzmann,
  'sigmoid': Sigmoid,
  'correlation': Correlation,
  'categorical': Categorical,
}
