"""The caption decoder against NumPy, and what it must not see."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3i_jax.captions import CLS, EOS, PAD, CaptionDecoder
from m3i_jax.data.tokenizer import Tokenizer
from tests import numpy_transformer as reference

B, K, D, T, V, HEADS = 2, 5, 12, 7, 11, 2
SIZES = dict(
  out=V, width=8, depth_uni=1, depth_multi=2, heads=HEADS, hidden=20,
  positions=9,
)  # fmt: skip


def picture(seed=0):
  rng = np.random.default_rng(seed)
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
  return {'tokens': draw(B, K, D), 'cls': draw(B, D)}


def texts(seed=0):
  """Two texts of six and four pieces with CLS and EOS."""
  text = np.random.default_rng(seed).integers(4, V, (B, T)).astype(np.int32)
  text[:, 0], text[0, 6], text[1, 4], text[1, 5:] = CLS, EOS, EOS, PAD
  return text


@functools.cache
def params(**fields):
  model = CaptionDecoder(**SIZES | fields)
  start = jax.jit(model.init)(jax.random.key(0), picture(), texts())['params']
  return reference.perturbed(start, scale=0.3)


@functools.cache
def jitted(**fields):
  return jax.jit(CaptionDecoder(**SIZES | fields).apply)


def decode(own, text, **fields):
  return np.asarray(jitted(**fields)({'params': params()}, own, text))


def layer(x, p, memory):
  """One causal layer, row by row; with `memory`, one that looks at it."""
  y = reference.norm(x, p['norm1'], 1e-6)
  q, k, v = np.split(reference.linear(y, p['attn']['qkv']), 3, axis=-1)
  seen = [
    reference.attend(q[n : n + 1], k[: n + 1], v[: n + 1], HEADS)[0]
    for n in range(len(x))
  ]
  x = x + reference.linear(np.stack(seen), p['attn']['proj'])
  if memory is not None:
    y, cross = reference.norm(x, p['norm_cross'], 1e-6), p['cross']
    q = reference.linear(y, cross['q'])
    k, v = np.split(reference.linear(memory, cross['kv']), 2, axis=-1)
    seen = reference.attend(q, k, v, HEADS)
    x = x + reference.linear(seen, cross['proj'])
  return x + reference.mlp(reference.norm(x, p['norm2'], 1e-6), p['mlp'])


def in_numpy(p, memory, text):
  """One picture's memory [K, D] and text [T] -> logits [T - 1, V]."""
  p = jax.tree.map(lambda a: np.asarray(a, float), p)
  x = p['word'][text[:-1]] + p['position'][: len(text) - 1]
  for part, seen in (('uni', None), ('multi', memory)):
    layers = p[part]['layers']
    for n in range(len(layers['norm1']['scale'])):
      x = layer(x, jax.tree.map(lambda a, n=n: a[n], layers), seen)
  return reference.norm(x, p['norm'], 1e-6) @ p['word'].T


def test_pieces_are_the_tokenizers():
  assert (PAD, CLS, EOS) == (Tokenizer.pad, Tokenizer.cls, Tokenizer.eos)


@pytest.mark.parametrize('class_token', [True, False])
def test_decoder_in_numpy(class_token):
  own, text = picture(), texts()
  found = decode(own, text, class_token=class_token)
  assert found.shape == (B, T - 1, V) and found.dtype == np.float32
  for n in range(B):
    cls = own['cls'][n : n + 1 if class_token else n]
    memory = np.concatenate([cls, own['tokens'][n]]).astype(float)
    expected = in_numpy(params(), memory, text[n])
    np.testing.assert_allclose(found[n], expected, atol=1e-5, rtol=0)


def test_a_picture_without_class_token_has_a_memory_too():
  own, text = picture(), texts()
  alone = decode({'tokens': own['tokens']}, text)
  np.testing.assert_array_equal(alone, decode(own, text, class_token=False))


@pytest.mark.parametrize('later', range(1, T))
def test_a_later_piece_never_changes_an_earlier_logit(later):
  text = texts()
  before = decode(picture(), text)
  text[:, later] = (text[:, later] + 4) % V
  after = decode(picture(), text)
  np.testing.assert_array_equal(after[:, :later], before[:, :later])
  # The last piece is asked for and never read.
  assert (after[:, later:] != before[:, later:]).any() == (later < T - 1)


def test_length_of_the_padding_changes_nothing():
  longer = np.pad(texts(), ((0, 0), (0, 2)))
  np.testing.assert_allclose(
    decode(picture(), longer)[:, : T - 1], decode(picture(), texts()),
    atol=1e-5, rtol=0,
  )  # fmt: skip


@pytest.mark.parametrize('dtype', [jnp.bfloat16, 'mixed'])
def test_logits_are_float32_whatever_the_stream(dtype):
  exact = decode(picture(), texts())
  coarse = decode(picture(), texts(), dtype=dtype)
  error = np.linalg.norm(coarse - exact) / np.linalg.norm(exact)
  assert coarse.dtype == np.float32 and 1e-4 < error < 0.03
  # Not rounded to the eight bits of bfloat16.
  assert (coarse != coarse.astype(jnp.bfloat16).astype(np.float32)).mean() > 0.9


def test_every_parameter_learns():
  def loss(p):
    logits = CaptionDecoder(**SIZES).apply({'params': p}, picture(), texts())
    return jax.nn.log_softmax(logits)[..., 5].sum()

  gradient = jax.jit(jax.grad(loss))(params())
  for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
    assert np.abs(leaf).max() > 1e-6, path
