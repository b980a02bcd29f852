"""The text tower against a post-norm BERT in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3i_jax.models.text import VARIANTS, TextTower
from tests import golden_models
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
  pooler = TextTower(30522, width, depth, heads, hidden, pool='pooler')
  assert count_of(pooler) == 109_482_240


def count_of(model):
  shapes = jax.eval_shape(
    model.init, jax.random.key(0), jnp.zeros((1, 8), jnp.int32)
  )
  return sum(leaf.size for leaf in jax.tree.leaves(shapes))


# As the golden towers.
GOLDEN = dict(
  vocabulary=30, width=16, depth=2, heads=4, hidden=24, positions=9
)  # fmt: skip
CLIP = GOLDEN | dict(
  post_norm=False, causal=True, activation='quick_gelu', eps=1e-5,
  projection=12, pool='argmax',
)  # fmt: skip


def apply(fields, params, text):
  found = jax.jit(TextTower(**fields).apply)({'params': params}, text)
  return np.asarray(found)


@pytest.mark.parametrize(
  'name,output,fields',
  [
    ('clip_text', 'projected', CLIP),
    ('bert', 'pooled', GOLDEN | {'pool': 'pooler'}),
  ],
)
def test_golden_outputs_of_transformers(name, output, fields):
  """CLIP's text tower and BERT: float32 against float64, 3e-6."""
  params, golden = golden_models.load(name)
  model, text = TextTower(**fields), golden['input']
  start = jax.eval_shape(model.init, jax.random.key(0), text)['params']
  shapes = lambda tree: jax.tree.map(lambda x: x.shape, tree)
  assert shapes(start) == shapes(params)
  found = apply(fields, params, text)
  assert found.dtype == np.float32
  np.testing.assert_allclose(found, golden[output], rtol=0, atol=3e-6)
  if name == 'bert':
    del params['pooler']
    first = apply(GOLDEN, params, text)
    np.testing.assert_allclose(first, golden['first'], rtol=0, atol=3e-6)


def test_clip_has_the_size_of_clip():
  """transformers 5.23: CLIPTextModelWithProjection of ViT-B/32."""
  sizes = dict(width=512, depth=12, heads=8, hidden=2048, positions=77)
  sizes |= dict(vocabulary=49408, projection=512)
  assert count_of(TextTower(**CLIP | sizes)) == 63_428_096


def test_causal_towers_do_not_look_ahead():
  """What follows the token that is read changes nothing, padding or not."""
  params, _ = golden_models.load('clip_text')
  one = np.array([[28, 3, 0, 7, 29, 0, 0]], np.int32)
  two = np.array([[28, 3, 0, 7, 29, 5, 29]], np.int32)
  np.testing.assert_array_equal(
    apply(CLIP, params, one), apply(CLIP, params, two)
  )
  a, b = (apply(CLIP | {'causal': False}, params, x) for x in (one, two))
  assert np.abs(a - b).max() > 0.01


@pytest.mark.parametrize('pool', ['last', 'argmax', 'mean'])
def test_which_token_is_read(pool):
  """That at place t is the last one of the text up to there."""
  params, _ = golden_models.load('clip_text')
  texts = np.array([[28, 3, 9, 7, 4, 0], [5, 29, 8, 29, 0, 0]], np.int32)
  ends = {
    'last': ([4], [3]),
    'argmax': ([0], [1]),
    'mean': (range(5), range(4)),
  }[pool]
  found = apply(CLIP | {'pool': pool}, params, texts)
  for vector, text, places in zip(found, texts, ends, strict=True):
    upto = np.stack([np.where(np.arange(6) <= t, text, 0) for t in places])
    read = apply(CLIP | {'pool': 'last'}, params, upto)
    np.testing.assert_allclose(vector, read.mean(0), rtol=0, atol=5e-6)


@pytest.mark.parametrize(
  'name,fields', [('clip_text', CLIP), ('bert', GOLDEN | {'pool': 'pooler'})]
)
def test_gradients_and_half_precision(name, fields):
  """Each leaf has a finite gradient; outputs within 3% and 1%, relative."""
  params, golden = golden_models.load(name)
  text = golden['input']
  model = TextTower(**fields)
  loss = lambda p: jnp.sin(model.apply({'params': p}, text)).sum()
  gradient = jax.jit(jax.grad(loss))(params)
  for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
    assert np.isfinite(leaf).all() and np.abs(leaf).max() > 1e-6, path
  exact = golden['pooled' if name == 'bert' else 'projected']
  for dtype, bound in ((jnp.bfloat16, 0.03), ('mixed', 0.01)):
    found = apply(fields | {'dtype': dtype}, params, text)
    assert found.dtype == np.float32
    assert 1e-5 < golden_models.relative(found, exact) < bound
