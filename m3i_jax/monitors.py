"""Is the target still worth predicting? Its spread, rank and cosines.

Pure functions of z_y as it is scored, float32 [B, L, D] (dense) or [B, D], and
`valid`, bool [B]; samples that are not valid count nowhere. All are means over
the global batch, made of sums over it, so they mean the same on every mesh.
None sends a gradient back.

Cost for a target and a picture: some 20 L D operations and 32 D^2 for the
covariance. At ViT-B, 196 cells of 768: 3 + 19 MFLOP, next to more than 100
GFLOP of a step (an encoder's forward and backward pass alone are 105): 0.02 %.
The covariance is [D, D], and nothing is [B, B].
"""

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
SAMPLED = 16  # cells of a picture that enter the covariance
CHANNELS = 1024  # at most, of each (the 65,536 of DINO's would cost 9 %)
_TINY = 1e-30


def spread(z: Array, valid: Array) -> dict[str, Array]:
  """How the targets spread, by name; 'cosine_within' for a dense target only.

  Args:
    z: [B, D], or [B, L, D] with all of its cells in raster order.
  """
  measured = dict(
    target_std=target_std(z, valid),
    target_rank=target_rank(z, valid),
    cosine_across=cosine_across(z, valid),
  )
  if z.ndim == 3:
    measured['cosine_within'] = cosine_within(z, valid)
  return measured


def target_std(z: Array, valid: Array) -> Array:
  """Standard deviation across pictures over the rms about zero: 0..1.

  Each cell and channel is compared with itself in the other pictures: 0 if all
  pictures have one target, be it that of a position. 1 where there are not two
  pictures to compare.
  """
  z, weight = _read(z, valid)
  count = weight.sum()
  mean = z.sum(0) / jnp.maximum(count, 1)
  spread = (weight * jnp.square(z - mean)).sum()
  share = spread / jnp.maximum(jnp.square(z).sum(), _TINY)
  return jnp.where(count > 1, jnp.sqrt(share), 1.0)


def target_rank(z: Array, valid: Array) -> Array:
  """Over how many directions the tokens spread, 1..D; 0 if all are equal.

  The participation ratio tr(C)^2 / tr(C C) of the covariance C, which needs no
  eigenvalues. It is exp of the spectrum's Renyi entropy of order 2, so never
  above the exp of Shannon's, the 'effective rank' (Roy and Vetterli, 2007);
  both are k for k equal eigenvalues. At most 16 cells of a picture, evenly
  spaced, are read, and 1024 channels; few tokens bound it from above.

  The product runs at the device's default precision: its factors are centred
  in float32 before, so bfloat16 (TPU) costs under 1 % and no cancellation.
  """
  z, weight = _read(z, valid)
  z = z[:, _spaced(z.shape[1], SAMPLED)][..., _spaced(z.shape[2], CHANNELS)]
  count = jnp.maximum(weight.sum() * z.shape[1], 1)
  z = weight * (z - z.sum((0, 1)) / count)
  trace = jnp.square(z).sum()
  share = jnp.einsum('bnd,bne->de', z, z) / jnp.maximum(trace, _TINY)
  return jnp.where(trace > _TINY, 1 / jnp.square(share).sum(), 0.0)


def cosine_within(z: Array, valid: Array) -> Array:
  """Mean cosine of two different tokens [B, L, D] of a picture; -1..1."""
  z, weight = _read(z, valid)
  unit = _unit(z)
  pairs = jnp.square(unit.sum(1)).sum() - jnp.square(unit).sum()
  cells = z.shape[1]
  return pairs / jnp.maximum(weight.sum() * cells * (cells - 1), 1)


def cosine_across(z: Array, valid: Array) -> Array:
  """Mean cosine of two tokens of different pictures; 0 if there are none."""
  z, weight = _read(z, valid)
  own = _unit(z).sum(1)
  pairs = jnp.square(own.sum(0)).sum() - jnp.square(own).sum()
  count = weight.sum()
  return pairs / jnp.maximum(count * (count - 1) * z.shape[1] ** 2, 1)


def agreement(z: Array, valid: Array, prediction: Array) -> Array:
  """Mean cosine of the target and its prediction, same shape; -1..1."""
  z, weight = _read(z, valid)
  prediction, _ = _read(prediction, valid)
  cosine = (_unit(z) * _unit(prediction)).sum()
  return cosine / jnp.maximum(weight.sum() * z.shape[1], 1)


def _spaced(count: int, most: int) -> np.ndarray:
  """At most so many of `count` indices, evenly spaced."""
  return np.linspace(0, count - 1, min(count, most)).round().astype(int)


def _read(z: Array, valid: Array) -> tuple[Array, Array]:
  """float32 [B, L, D], zero where not valid; weight [B, 1, 1]. No gradient."""
  z = jax.lax.stop_gradient(z).astype(jnp.float32)
  z = z.reshape(z.shape[0], -1, z.shape[-1])
  valid = valid[:, None, None]
  return jnp.where(valid, z, 0), valid.astype(jnp.float32)


def _unit(z: Array) -> Array:
  """Of unit length; zero stays zero."""
  return z * jax.lax.rsqrt(jnp.square(z).sum(-1, keepdims=True) + _TINY)
