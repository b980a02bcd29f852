"""Generated texts: by loops, by lists, and by scoring every text there is."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3i_jax.captions import CLS, EOS, PAD, CaptionDecoder, generate
from tests import numpy_transformer as reference


@functools.cache
def decoder():
  """A score by a real decoder, and a picture for each of four texts."""
  model = CaptionDecoder(
    out=9, width=8, depth_uni=1, depth_multi=1, heads=2, hidden=12, positions=8
  )
  seen = np.random.default_rng(0).normal(size=(4, 5, 12))
  own = {'tokens': seen.astype(np.float32)}
  start = model.init(jax.random.key(0), own, np.zeros((4, 8), np.int32))
  moved = jax.tree.map(jnp.asarray, reference.perturbed(start, scale=0.5))
  return jax.jit(functools.partial(model.apply, moved)), own


def log_softmax(x):
  x = np.asarray(x, float)
  x = x - x.max(-1, keepdims=True)
  return x - np.log(np.exp(x).sum(-1, keepdims=True))


def mean_of(said, text):
  """Mean log-likelihood of a text [T] under log-probabilities [T - 1, V]."""
  real = text[1:] != PAD
  return said[np.arange(len(text) - 1), text[1:]][real].mean()


def test_greedy_is_a_loop_of_argmax():
  score, own = decoder()
  text, mean = jax.jit(functools.partial(generate, score, length=8))(own)
  expected = np.zeros((4, 8), np.int32)
  expected[:, 0] = CLS
  for n in range(4):
    for at in range(1, 8):
      said = np.array(score(own, expected)[n, at - 1])
      said[[PAD, CLS]] = -np.inf
      expected[n, at] = said.argmax()
      if expected[n, at] == EOS:
        break
  np.testing.assert_array_equal(text, expected)
  said = log_softmax(score(own, expected))
  means = [mean_of(s, t) for s, t in zip(said, expected, strict=True)]
  np.testing.assert_allclose(mean, means, atol=1e-5)


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


def beam_search(said, length, beams):
  """By lists: `said` gives the log-probabilities after a tuple of pieces."""
  kept = [((CLS,), 0.0)]
  for _ in range(length - 1):
    found = [(text, total) for text, total in kept if text[-1] == EOS]
    for text, total in kept:
      if text[-1] != EOS:
        odds = said(text)
        found += [
          (text + (p,), total + odds[p])
          for p in range(len(odds))
          if p not in (PAD, CLS)
        ]
    kept = sorted(found, key=lambda one: -one[1] / (len(one[0]) - 1))[:beams]
  return kept[0]


@pytest.mark.parametrize('beams', [2, 3])
def test_beam_search_by_lists(beams):
  score = table(9, 8, 3)
  text, mean = generate(score, ENDS, 8, beams=beams)
  for n in range(4):

    def said(pieces, n=n):
      line = np.zeros((4, 8), np.int32)
      line[n, : len(pieces)] = pieces
      return log_softmax(score(ENDS, line)[n, len(pieces) - 1])

    best, total = beam_search(said, 8, beams)
    np.testing.assert_array_equal(text[n], best + (PAD,) * (8 - len(best)))
    np.testing.assert_allclose(mean[n], total / (len(best) - 1), atol=1e-5)


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
    generate(None, ENDS, **{'length': 8} | more)


@pytest.mark.parametrize('how', [{}, {'beams': 3}, {'key': jax.random.key(1)}])
def test_a_text_begins_and_ends_with_the_pieces_of_its_tokenizer(how):
  """The same score with its pieces renamed says the same, renamed."""
  score = table(6, 5, 2)
  new = np.array([0, 3, 4, 1, 5, 2])  # of CLS 4, of EOS 1
  old = np.argsort(new)
  renamed = lambda own, text: score(own, jnp.asarray(old)[text])[..., old]
  text, mean = generate(renamed, ENDS, 5, cls=4, eos=1, **how)
  assert (text[:, 0] == 4).all() and (text == 1).any()
  if 'key' not in how:  # what is drawn depends on the order of the pieces
    want, means = generate(score, ENDS, 5, **how)
    np.testing.assert_array_equal(text, new[want])
    np.testing.assert_allclose(mean, means, atol=1e-6)
