"""Decoders against NumPy: the code of the queries, the layers, the pool."""

import functools

import jax
import numpy as np
import pytest

from m3i_jax import positions
from m3i_jax.decoders import AttentionPool, DenseDecoder, Frame, Mlp
from m3i_jax.views import View
from tests import numpy_transformer as reference

KEY = jax.random.key(0)
GRID, CELLS = 4, 16
SIZES = dict(out=16, width=16, depth=2, heads=4, hidden=24)


def normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def frame(cells=None, queries=None):
  """Two pairs of views; the second pair is mirrored to each other."""
  x = np.array([[0.1, 0.2, 0.5, 0.6], [0.3, 0.0, 0.7, 0.4]], np.float32)
  y = np.array([[0.4, 0.1, 0.3, 0.8], [0.0, 0.5, 0.6, 0.5]], np.float32)
  view = lambda box, flip: View(None, box, np.array(flip))
  return Frame.between(
    GRID, view(x, [True, False]), view(y, [True, True]), cells, queries
  )


def code(f):
  return positions.relative_sincos(
    f.input_box, f.input_flip, f.target_box, f.target_flip, grid=GRID, width=16
  )


def own(count=CELLS, seed=0):
  """What a whole image, or `count` cells of it, knows."""
  return {
    'tokens': normal(2, count, 16, seed=seed), 'cls': normal(2, 16, seed=7)
  }  # fmt: skip


@functools.cache
def params(kind, **fields):
  start = jax.jit(kind(**fields).init)(KEY, own(), frame())['params']
  return reference.perturbed(start)


def dense(tokens, f, p, **fields):
  apply = jax.jit(DenseDecoder(**SIZES | fields).apply)
  known = {'tokens': tokens, 'cls': own()['cls']}
  return np.asarray(apply({'params': p}, known, f))


def pool(tokens, mask=None, **fields):
  apply = jax.jit(AttentionPool(**fields).apply)
  return np.asarray(
    apply(
      {'params': params(AttentionPool, **fields)}, {'tokens': tokens}, mask=mask
    )
  )


def query_code(f, p):
  """Linear(relative_sincos) + mask token, all cells: float64 [B, L, D]."""
  linear = {'kernel': p['position_kernel'], 'bias': p['position_bias']}
  return reference.linear(np.asarray(code(f), float), linear) + p['mask_token']


def bare():
  """Parameters with which the decoder returns its queries as they are."""
  p = jax.tree.map(np.copy, params(DenseDecoder, **SIZES))
  for layer in (
    p['blocks']['layers']['attn']['proj'], p['blocks']['layers']['mlp']['fc2']
  ):  # fmt: skip
    for value in layer.values():
      value[:] = 0.0
  p['head'] = {'kernel': np.eye(16, dtype=np.float32), 'bias': np.zeros(16)}
  return p


def test_queries_are_a_linear_map_of_the_position_and_the_mask_token():
  p = bare()
  found = dense(normal(2, CELLS, 16), frame(), p)
  expected = query_code(frame(), p)
  assert found.shape == (2, 16, 16) and found.dtype == np.float32
  np.testing.assert_allclose(found, expected, atol=5e-6, rtol=0)


def test_some_queries_are_some_of_all():
  p, queries = bare(), np.array([[5, 0, 15], [7, 8, 2]], np.int32)
  tokens = normal(2, CELLS, 16)
  every = dense(tokens, frame(), p)
  some = dense(tokens, frame(queries=queries), p)
  for n in range(2):
    np.testing.assert_allclose(some[n], every[n, queries[n]], atol=1e-6, rtol=0)


@pytest.mark.parametrize('part', [False, True])
def test_decoder_in_numpy(part):
  """`part`: seven of the tokens and five of the queries."""
  p = params(DenseDecoder, **SIZES)
  cells = queries = None
  place = np.asarray(positions.grid_sincos(GRID, 16), float)
  places = [place, place]
  asked = query_code(frame(), p)
  if part:
    rng = np.random.default_rng(3)
    cells, queries = (
      np.array([rng.permutation(CELLS)[:n] for _ in range(2)], np.int32)
      for n in (7, 5)
    )
    places = [place[c] for c in cells]
    asked = [asked[n][q] for n, q in enumerate(queries)]
  tokens = normal(2, 7 if part else CELLS, 16, seed=1)
  found = dense(tokens, frame(cells, queries), p)
  for n in range(2):
    x = reference.linear(tokens[n].astype(float), p['embed']) + places[n]
    x = reference.blocks(np.concatenate([x, asked[n]]), p['blocks'], 4)
    expected = reference.linear(x[len(tokens[n]) :], p['head'])
    np.testing.assert_allclose(found[n], expected, atol=1e-5, rtol=0)


def test_width_of_the_prediction_and_of_the_tokens_are_free():
  fields = SIZES | {'out': 10, 'width': 8}
  model, known = DenseDecoder(**fields), {'tokens': normal(2, CELLS, 12)}
  shape = jax.eval_shape(model.init_with_output, KEY, known, frame())[0].shape
  assert shape == (2, CELLS, 10)


def batch_normed(x, p):
  """[B, N, D] by the statistics of the batch and its tokens."""
  x = x - x.mean((0, 1))
  x = x / np.sqrt((x**2).mean((0, 1)) + 1e-6)
  return x * np.asarray(p['scale'], float) + np.asarray(p['bias'], float)


def batch_norm_blocks(x, params):
  """The stacked layers with batch norm: all pictures together."""
  layers = params['layers']
  for n in range(len(layers['norm1']['scale'])):
    p = jax.tree.map(lambda a, n=n: a[n], layers)
    y = batch_normed(x, p['norm1'])
    x = x + np.stack([reference.attention(row, p['attn'], 4) for row in y])
    x = x + reference.mlp(batch_normed(x, p['norm2']), p['mlp'])
  return x


def test_siameseims_decoder_in_numpy():
  """Class token among the tokens, projector of its own layers, batch norm.

  And a last norm, which is MAE's.
  """
  fields = dict(class_token=True, projector=1, norm='batch', final_norm=True)
  p, known = params(DenseDecoder, **SIZES, **fields), own()
  cells = np.tile(np.arange(3, 12, dtype=np.int32), (2, 1))
  f = frame(cells)
  known['tokens'] = known['tokens'][:, :9]
  found = dense(known['tokens'], f, p, **fields)
  x = np.concatenate([known['cls'][:, None], known['tokens']], axis=1)
  x = reference.linear(x.astype(float), p['embed'])
  x = projected = batch_norm_blocks(x, p['projector_blocks'])
  place = np.asarray(positions.grid_sincos(GRID, 16), float)[3:12]
  x = x + np.concatenate([np.zeros((1, 16)), place])
  x = np.concatenate([x, query_code(f, p)], axis=1)
  x = batch_norm_blocks(x, p['blocks'])[:, 10:]
  x = reference.norm(x, p['last_norm'], 1e-6)
  np.testing.assert_allclose(
    found, reference.linear(x, p['head']), atol=2e-5, rtol=0
  )
  # A projected target encoder ends with the first part, without the class.
  project = jax.jit(
    functools.partial(DenseDecoder(**SIZES | fields).apply, method='project')
  )({'params': p}, known)
  np.testing.assert_allclose(project, projected[:, 1:], atol=2e-5, rtol=0)


def test_an_input_without_a_class_token_is_decoded_too():
  """As that of a mix, which keeps it to itself."""
  p = params(DenseDecoder, **SIZES)
  apply = jax.jit(DenseDecoder(**SIZES | dict(class_token=True)).apply)
  alone = {'tokens': own()['tokens']}
  np.testing.assert_allclose(
    apply({'params': p}, alone, frame()), dense(own()['tokens'], frame(), p),
    atol=1e-6, rtol=0,
  )  # fmt: skip
  with_class = apply({'params': p}, own(), frame())
  assert np.abs(with_class - apply({'params': p}, alone, frame())).max() > 0.01


@pytest.mark.parametrize('pool', ['mean', 'cls', 'none'])
def test_mlp_projects_what_its_pool_names(pool):
  fields = dict(
    out=6, hidden=(10,), norm='batch', activation='relu', pool=pool
  )
  p, known = params(Mlp, **fields), own()
  apply = functools.partial(Mlp(**fields).apply, {'params': p})
  found = apply(known)
  x = {
    'mean': known['tokens'].mean(1),
    'cls': known['cls'],
    'none': known['tokens'],
  }[pool].astype(float)
  p = jax.tree.map(lambda a: np.asarray(a, float), p['layers'])
  assert set(p['fc1']) == {'kernel'}  # a batch norm takes a bias away
  x = x @ p['fc1']['kernel']
  axes = tuple(range(x.ndim - 1))
  x = (x - x.mean(axes)) / np.sqrt(x.var(axes) + 1e-5)
  x = np.maximum(x * p['norm1']['scale'] + p['norm1']['bias'], 0)
  wanted = reference.linear(x, p['fc2'])
  assert found.dtype == np.float32
  np.testing.assert_allclose(found, wanted, atol=5e-6, rtol=0)
  np.testing.assert_array_equal(apply(known, method='project'), found)


def pooled(tokens, p, heads):
  """InternImage-H's head on one sample's tokens [N, D]."""
  x = tokens.astype(float)

  def project(x, name):
    x = reference.norm(x, p[f'norm_{name}'], 1e-6)
    return reference.linear(x, p[name])

  q = project(x.mean(0, keepdims=True), 'q')
  x = reference.attend(q, project(x, 'k'), project(x, 'v'), heads)
  return reference.linear(x, p['proj'])[0]


def test_pool_in_numpy():
  fields, tokens = dict(out=10, heads=4), normal(2, CELLS, 16)
  found = pool(tokens, **fields)
  assert found.shape == (2, 10) and found.dtype == np.float32
  for n in range(2):
    expected = pooled(tokens[n], params(AttentionPool, **fields), 4)
    np.testing.assert_allclose(found[n], expected, atol=5e-6, rtol=0)


def test_pool_has_three_norms_and_all_biases():
  p = params(AttentionPool, out=10, heads=4)
  linear = {'kernel', 'bias'}
  assert {k: set(v) for k, v in p.items()} == {
    **{f'norm_{k}': {'scale', 'bias'} for k in 'qkv'},
    **{k: linear for k in ('q', 'k', 'v', 'proj')},
  }


def test_masked_pool_is_the_pool_of_the_tokens_left():
  fields, tokens = dict(out=10, heads=4), normal(2, CELLS, 16)
  mask = np.zeros((2, CELLS), bool)
  mask[0, [1, 4, 5, 9, 12]] = mask[1, [0, 2, 3, 13, 15]] = True
  left = np.stack([tokens[n][mask[n]] for n in range(2)])
  found = pool(tokens, mask, **fields)
  np.testing.assert_allclose(found, pool(left, **fields), atol=2e-6, rtol=0)
  other = np.where(mask[..., None], tokens, 1e3).astype(np.float32)
  np.testing.assert_allclose(pool(other, mask, **fields), found, atol=1e-6)


def test_order_of_the_tokens_does_not_matter_to_the_pool():
  fields, tokens = dict(out=10, heads=4), normal(2, CELLS, 16)
  found = pool(tokens[:, ::-1], **fields)
  np.testing.assert_allclose(found, pool(tokens, **fields), atol=2e-6, rtol=0)
