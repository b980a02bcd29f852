"""Caption decoder and search against NumPy, by enumeration, and by loops."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3i_jax.captions import CLS, EOS, PAD, CaptionDecoder, generate
from m3i_jax.data import tokenizer
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
  assert (PAD, CLS, EOS) == (tokenizer.PAD, tokenizer.CLS, tokenizer.EOS)


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


def score(own, text):
  return jitted()({'params': params()}, own, text)


def log_softmax(x):
  x = np.asarray(x, float)
  x = x - x.max(-1, keepdims=True)
  return x - np.log(np.exp(x).sum(-1, keepdims=True))


def mean_of(said, text):
  """Mean log-likelihood of a text [T] under log-probabilities [T - 1, V]."""
  real = text[1:] != PAD
  return said[np.arange(len(text) - 1), text[1:]][real].mean()


def test_greedy_is_a_loop_of_argmax():
  own = picture()
  text, mean = jax.jit(functools.partial(generate, score, length=T))(own)
  expected = np.zeros((B, T), np.int32)
  expected[:, 0] = CLS
  for n in range(B):
    for at in range(1, T):
      said = np.array(score(own, expected)[n, at - 1])
      said[[PAD, CLS]] = -np.inf
      expected[n, at] = said.argmax()
      if expected[n, at] == EOS:
        break
  np.testing.assert_array_equal(text, expected)
  said = log_softmax(score(own, expected))
  for n in range(B):
    np.testing.assert_allclose(
      mean[n], mean_of(said[n], expected[n]), atol=1e-5
    )


def table(pieces, length, seed, sharpness=2.0):
  """A score that reads the last two pieces: logits by (at, two pieces)."""
  rng = np.random.default_rng(seed)
  size = (length - 1, pieces, pieces, pieces)
  table = jnp.asarray(sharpness * rng.normal(size=size), jnp.float32)

  def score(own, text):
    before = jnp.pad(text, ((0, 0), (1, 0)))[:, : length - 1]
    at = jnp.arange(length - 1)
    logits = table[at, before, text[:, :-1]]
    return logits.at[..., EOS].add(own['ends'][:, None])

  return score


ENDS = {'ends': np.array([-1.0, 0.0, 1.0, 3.0], np.float32)}


def every_text(pieces, length):
  """All texts that may be said, int32 [N, length]."""
  inner = [p for p in range(pieces) if p not in (PAD, CLS, EOS)]
  found = []
  for count in range(length - 1):
    for middle in itertools.product(inner, repeat=count):
      found.append((CLS, *middle, EOS))
  found += [(CLS, *m) for m in itertools.product(inner, repeat=length - 1)]
  return np.array([t + (PAD,) * (length - len(t)) for t in found], np.int32)


def best_of_all(score, pieces, length):
  """The likeliest texts and their means, by scoring all there are."""
  every, found = every_text(pieces, length), []
  for ends in ENDS['ends']:
    said = log_softmax(score({'ends': np.full(len(every), ends)}, every))
    means = [mean_of(s, t) for s, t in zip(said, every, strict=True)]
    found.append((every[np.argmax(means)], max(means)))
  return map(np.array, zip(*found, strict=True))


# For a last piece as many beams as pieces are enough: none is ever dropped.
@pytest.mark.parametrize(
  ('seed', 'length', 'beams'), [(0, 5, 121), (1, 3, 6)]
)
def test_a_wide_beam_finds_the_best_of_all_texts(seed, length, beams):
  score = table(6, length, seed)
  text, mean = generate(score, ENDS, length, beams=beams)
  expected, means = best_of_all(score, 6, length)
  np.testing.assert_array_equal(text, expected)
  np.testing.assert_allclose(mean, means, atol=1e-5)
  greedy = generate(score, ENDS, length)[1]
  assert (mean >= greedy - 1e-6).all() and (mean > greedy + 1e-3).any()


@pytest.mark.parametrize(
  'more', [{}, {'beams': 3}, {'key': jax.random.key(0), 'temperature': 2.0}]
)
def test_nothing_but_padding_after_the_end(more):
  ends = {'ends': np.linspace(-2, 3, 24, dtype=np.float32)}
  text, mean = map(np.asarray, generate(table(9, 8, 0), ends, 8, **more))
  assert np.isfinite(mean).all() and (text[:, 0] == CLS).all()
  ended = 0
  for line in text.tolist():
    end = line.index(EOS) if EOS in line else len(line)
    assert not {PAD, CLS} & set(line[1:end])
    assert set(line[end + 1 :]) <= {PAD}
    ended += end < len(line) - 1
  assert ended > 5


def test_sampling_is_a_function_of_the_key_and_a_nucleus_of_one_is_greedy():
  score = table(9, 8, 0)
  draw = jax.jit(lambda n: generate(score, ENDS, 8, key=jax.random.key(n))[0])
  np.testing.assert_array_equal(draw(0), draw(0))
  assert (draw(0) != draw(1)).any()
  one = generate(score, ENDS, 8, key=jax.random.key(0), top_p=1e-6)[0]
  np.testing.assert_array_equal(one, generate(score, ENDS, 8)[0])


@pytest.mark.parametrize('top_p', [0.3, 0.6, 0.95, 1.0])
def test_the_nucleus_is_sampled_as_often_as_it_is_likely(top_p):
  pieces, temperature, count = 9, 1.5, 20_000
  logits = np.random.default_rng(0).normal(size=pieces).astype(np.float32)
  score = lambda own, text: jnp.broadcast_to(
    jnp.asarray(logits), (len(text), text.shape[1] - 1, pieces)
  )
  text, mean = generate(
    score, np.zeros(count), 2, key=jax.random.key(0), top_p=top_p,
    temperature=temperature,
  )  # fmt: skip
  odds = np.exp(logits.astype(float) / temperature)
  odds[[PAD, CLS]] = 0
  odds /= odds.sum()
  kept, mass = np.zeros(pieces), 0.0
  for piece in np.argsort(-odds):
    if mass < top_p:
      kept[piece] = odds[piece]
      mass += odds[piece]
  seen = np.bincount(np.asarray(text)[:, 1], minlength=pieces) / count
  assert (seen[kept == 0] == 0).all()
  np.testing.assert_allclose(seen, kept / mass, atol=0.018)  # 5 sigma
  # The likelihood is the model's own, before temperature and nucleus.
  np.testing.assert_allclose(
    mean, log_softmax(logits)[np.asarray(text)[:, 1]], atol=1e-5
  )


def test_search_stops_when_all_texts_have_ended():
  asked = []

  def score(own, text):
    jax.debug.callback(lambda: asked.append(1))
    return jnp.zeros((len(text), text.shape[1] - 1, 5)).at[..., EOS].set(9.0)

  jax.block_until_ready(generate(score, np.zeros(3), 50))
  jax.effects_barrier()
  assert len(asked) == 1


@pytest.mark.parametrize(
  'more',
  [dict(beams=0), dict(temperature=0.0), dict(top_p=0.0), dict(top_p=1.1),
   dict(beams=2, key=jax.random.key(0)), dict(length=1)],
)  # fmt: skip
def test_mistakes(more):
  with pytest.raises(ValueError, match='generate'):
    generate(score, picture(), **{'length': T} | more)
