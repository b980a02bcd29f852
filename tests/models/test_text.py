"""The text tower against a post-norm BERT in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3i_jax.models.text import VARIANTS, TextTower
from tests import numpy_transformer as reference

SIZES = dict(vocabulary=40, width=32, depth=2, heads=4, hidden=64, positions=12)
TEXT = np.array([[3, 9, 9, 17, 39, 1], [5, 2, 31, 0, 0, 0]], np.int32)


@functools.cache
def params():
  model = TextTower(**SIZES)
  start = jax.jit(model.init)(jax.random.key(0), TEXT)['params']
  return reference.perturbed(start)


def encode(text, **fields):
  model = TextTower(**SIZES | fields)
  return np.asarray(jax.jit(model.apply)({'params': params()}, text))


def bert(tokens):
  """All outputs [T, D] for the real tokens of one text."""
  p = params()
  x = p['word'][tokens].astype(float)
  x = x + p['position'][: len(tokens)] + p['type'][0]
  x = reference.norm(x, p['norm'], 1e-12)
  return reference.blocks(x, p['blocks'], 4, post_norm=True, eps=1e-12)


@pytest.mark.parametrize('pool', ['cls', 'mean'])
def test_bert_in_numpy(pool):
  result = encode(TEXT, pool=pool)
  assert result.shape == (2, 32) and result.dtype == np.float32
  for found, text in zip(result, TEXT, strict=True):
    x = bert(text[text > 0])
    expected = x[0] if pool == 'cls' else x.mean(0)
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize('pool', ['cls', 'mean'])
def test_padding_changes_nothing(pool):
  longer = np.pad(TEXT, ((0, 0), (0, 5)))
  np.testing.assert_allclose(
    encode(longer, pool=pool), encode(TEXT, pool=pool), atol=2e-6, rtol=0
  )


def test_order_and_first_token_count():
  text = np.array([[3, 9, 4], [3, 4, 9], [9, 3, 4]], np.int32)
  a, b, c = encode(text)
  assert np.abs(a - b).max() > 1e-3 and np.abs(a - c).max() > 1e-3


@pytest.mark.parametrize('pool', ['cls', 'mean'])
def test_no_text_at_all_is_finite(pool):
  text = np.zeros((2, 6), np.int32)
  result = encode(text, pool=pool)
  assert np.isfinite(result).all()
  # What its first, unmasked position gives.
  np.testing.assert_allclose(result[0], bert([0])[0], atol=1e-5, rtol=0)
  model = TextTower(**SIZES, pool=pool)
  loss = lambda p: (model.apply({'params': p}, text)[:, 0] ** 2).sum()
  for gradient in jax.tree.leaves(jax.jit(jax.grad(loss))(params())):
    assert np.isfinite(gradient).all()


def test_bfloat16_is_close():
  half = encode(TEXT, dtype=jnp.bfloat16)
  full = encode(TEXT)
  assert half.dtype == np.float32
  assert np.linalg.norm(half - full) < 0.02 * np.linalg.norm(full)


def test_base_has_the_size_of_bert_base():
  width, depth, heads, hidden = VARIANTS['base']
  model = TextTower(30522, width, depth, heads, hidden)
  shapes = jax.eval_shape(
    model.init, jax.random.key(0), jnp.zeros((1, 8), jnp.int32)
  )
  count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
  # Devlin et al.'s 109.48 M less the pooler's 768 * 768 + 768.
  assert count == 109_482_240 - 590_592
  assert round(count / 1e6, 1) == 108.9
