"""Candidates met block by block: the full matrix's numbers, not its memory.

The full matrices are float64 and differentiated by JAX; the package runs in
float32, which is what the tolerances allow for.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3i_jax.distributions import Boltzmann, Sigmoid
from m3i_jax.representations import Represented

VALUE = 1e-6  # relative
GRADIENT = 2e-6  # of a gradient's largest entry
BLOCKS = (4, 5, 1024)  # of 12 candidates: divides, does not, is more
VALID = np.arange(12) % 5 != 1
SHAPES = {'vectors': (12, 6), 'cells': (3, 4, 6)}


def normal(*shape, seed=0):
  rng = np.random.default_rng([seed, *shape])
  return rng.standard_normal(shape).astype(np.float32)


def unit(x):
  return x / jnp.sqrt((x**2).sum(-1, keepdims=True))


def mean(x, valid):
  return jnp.where(valid, x, 0).sum() / valid.sum()


def cross_entropy(logits, wanted):
  """Rows against rows of probabilities; -inf where nothing is wanted."""
  log_p = logits - jax.nn.logsumexp(logits, axis=-1, keepdims=True)
  return -jnp.where(wanted > 0, wanted * log_p, 0.0).sum(-1)


def info_nce(z, p, valid, tau, smoothing, symmetric):
  """The whole matrix of the batch, or of all its cells."""
  valid = jnp.repeat(valid, z.size // z.shape[-1] // len(z))
  z, p = (unit(x.reshape(-1, x.shape[-1])) for x in (z, p))
  own = jnp.eye(len(z)) * (1 - smoothing)
  wanted = jnp.where(valid, own + smoothing / valid.sum(), 0.0)
  one_way = lambda x: mean(
    cross_entropy(jnp.where(valid, x, -jnp.inf), wanted), valid
  )
  logits = p @ z.T / tau
  if not symmetric:
    return one_way(logits)
  return (one_way(logits) + one_way(logits.T)) / 2


def shared(z, p, share, tau):
  """Each candidate as much a sample's own as `share` says."""
  return cross_entropy(unit(p) @ unit(z).T / tau, share).mean()


def sigmoid(z, p, valid, log_t, offset):
  """Every pair of two valid samples by itself."""
  logits = jnp.exp(log_t) * unit(p) @ unit(z).T + offset
  sign = 2 * jnp.eye(len(z)) - 1
  pairs = jnp.log1p(jnp.exp(-sign * logits))
  return mean(jnp.where(valid, pairs, 0.0).sum(-1), valid)


def loss(distribution, z, p, params=None):
  nll, _ = distribution.apply({'params': params or {}}, z, p)
  return mean(nll, z.valid)


def agree(found, full, *arguments):
  """Values and all gradients."""
  both = lambda f, x: jax.jit(
    jax.value_and_grad(f, tuple(range(len(arguments))))
  )(*x)
  with jax.enable_x64(True):
    value, gradients = both(full, [np.float64(x) for x in arguments])
  for block in BLOCKS:
    got, slopes = both(functools.partial(found, block), arguments)
    np.testing.assert_allclose(got, value, rtol=VALUE)
    for slope, wanted in zip(slopes, gradients, strict=True):
      np.testing.assert_allclose(
        slope, wanted, rtol=0, atol=GRADIENT * np.abs(wanted).max()
      )


@pytest.mark.parametrize('smoothing', [0.0, 0.1])
@pytest.mark.parametrize('symmetric', [False, True])
@pytest.mark.parametrize('shape', list(SHAPES))
def test_info_nce(shape, symmetric, smoothing):
  """Some samples are void: their rows and columns, or cells, count nowhere."""
  size = SHAPES[shape]
  valid = VALID[: size[0]]

  def found(block, z, p):
    nce = Boltzmann(
      0.2, False, True, smoothing=smoothing, symmetric=symmetric, block=block
    )
    return loss(nce, Represented(z, valid), p)

  full = lambda z, p: info_nce(z, p, valid, 0.2, smoothing, symmetric)
  agree(found, full, normal(*size, seed=1), normal(*size, seed=2))


def test_share():
  share = np.exp(normal(5, 12))
  share /= share.sum(-1, keepdims=True)

  def found(block, table, p):
    z = Represented(None, np.ones(5, bool), table, share=share)
    return loss(Boltzmann(0.2, normalize=True, block=block), z, p)

  full = lambda table, p: shared(table, p, np.float64(share), 0.2)
  agree(found, full, normal(12, 6, seed=1), normal(5, 6, seed=2))


def test_sigmoid():
  def found(block, z, p, log_t, offset):
    params = {'logit_scale': log_t, 'offset': offset}
    return loss(Sigmoid(block=block), Represented(z, VALID), p, params)

  full = lambda z, p, log_t, offset: sigmoid(z, p, VALID, log_t, offset)
  pair = normal(12, 6, seed=1), normal(12, 6, seed=2)
  agree(found, full, *pair, np.float32(1.5), np.float32(-2.0))


def test_the_likeliest_is_found_in_whatever_block():
  """The first of equals; void candidates are never the likeliest."""
  z = normal(12, 6)
  p = z[np.array([0, 1, 2, 3, 7, 5, 6, 4, 8, 9, 10, 11])]  # two are exchanged
  for block in BLOCKS:
    nce = Boltzmann(0.1, normalize=True, block=block)
    _, measured = nce.apply({}, Represented(z, np.ones(12, bool)), p)
    np.testing.assert_allclose(measured['top1'], 10 / 12, rtol=1e-6)


def temporary(distribution, size, width=64):
  """Bytes that value and gradient need at a time; nothing is run."""
  params = jax.eval_shape(
    lambda: distribution.init(
      jax.random.key(0),
      Represented(jnp.zeros((2, width)), jnp.ones(2, bool)),
      jnp.zeros((2, width)),
    )
  ).get('params', {})

  def value(params, z, p):
    z = Represented(z, jnp.ones(size, bool))
    return loss(distribution, z, p, params)

  x = jax.ShapeDtypeStruct((size, width), jnp.float32)
  compiled = jax.jit(jax.value_and_grad(value, (0, 1, 2))).lower(params, x, x)
  return compiled.compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize(
  'distribution',
  [
    Boltzmann(0.2, normalize=True),
    Boltzmann(0.07, learned=True, normalize=True, symmetric=True),
    Boltzmann(0.2, normalize=True, smoothing=0.1),
    Sigmoid(),
  ],
  ids=['one way', 'both ways', 'smoothed', 'sigmoid'],
)
def test_memory_is_the_batch_times_a_block(distribution):
  """At B = 16,384 far less than one matrix of logits, which is a gigabyte."""
  size = 16384
  most = temporary(distribution, size)
  assert most < 4 * size**2 / 4
  half = temporary(distribution, size // 2)
  np.testing.assert_allclose(most / half, 2, rtol=0.01)
  # What is left is of the order of B D.
  assert temporary(distribution.clone(block=512), size) < 0.62 * most
