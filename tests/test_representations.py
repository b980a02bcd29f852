import jax
import numpy as np
import pytest

from m3i_jax.representations import (
  Category,
  DenseFeature,
  GlobalFeature,
  Pixels,
  Prototypes,
  Represented,
  TextEmbedding,
  TextTokens,
)


def normal(*shape, seed=0):
  rng = np.random.default_rng(seed)
  return rng.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize('normalize', [True, False])
def test_pixels_are_patches_row_by_row(normalize):
  image = 3 * normal(2, 6, 6, 3) + 1
  z = Pixels(2, normalize).apply({}, image)
  assert z.value.shape == (2, 9, Pixels(2).width) == (2, 9, 12)
  assert z.valid.all()
  for n in range(2):
    for cell in range(9):
      r, c = 2 * (cell // 3), 2 * (cell % 3)
      patch = np.float64(image[n, r : r + 2, c : c + 2]).reshape(-1)
      if normalize:
        # MAE's, by the unbiased variance of the 12 numbers.
        patch = patch - patch.mean()
        patch = patch / np.sqrt((patch**2).sum() / 11 + 1e-6)
      np.testing.assert_allclose(z.value[n, cell], patch, rtol=0, atol=2e-6)


def test_a_flat_patch_is_zero():
  z = Pixels(2).apply({}, np.full((1, 4, 4, 3), 0.3, np.float32))
  np.testing.assert_allclose(z.value, 0.0, atol=1e-4)


@pytest.mark.parametrize('scale', [1.0, 1e-3])
def test_dense_feature_is_normalised_with_epsilon_1e_5(scale):
  tokens = np.float32(scale) * normal(2, 3, 8)
  z = DenseFeature(8).apply({}, tokens)
  x = np.float64(tokens)
  x = x - x.mean(-1, keepdims=True)
  wanted = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)
  np.testing.assert_allclose(z.value, wanted, rtol=0, atol=1e-6)
  plain = DenseFeature(8, normalize=False).apply({}, tokens)
  np.testing.assert_array_equal(plain.value, tokens)


@pytest.mark.parametrize('normalize', [False, True])
def test_global_feature_is_one_vector_a_view(normalize):
  """A frozen teacher's is the mean of its tokens, another's its projector's."""
  tokens = normal(3, 4, 5)
  teacher = GlobalFeature(5, 'frozen', normalize)
  assert (teacher.reads, teacher.projected) == ('frozen', False)
  z = teacher.apply({}, tokens).value
  wanted = np.float64(tokens).mean(1)
  if normalize:
    wanted = wanted - wanted.mean(-1, keepdims=True)
    wanted /= np.sqrt((wanted**2).mean(-1, keepdims=True) + 1e-5)
  np.testing.assert_allclose(z, wanted, rtol=0, atol=2e-6)
  online = GlobalFeature(5, 'shared', normalize)
  assert (online.reads, online.projected) == ('shared', True)
  np.testing.assert_array_equal(online.apply({}, tokens.mean(1)).value, z)


def test_prototypes_are_a_table_that_the_target_does_not_move():
  """Softmax of the cosines; no gradient to target or table through `share`."""
  module, x = Prototypes(5, count=7, temperature=0.2), normal(3, 5)
  params = module.init(jax.random.key(0), x)['params']
  assert params['table'].shape == (7, 5)
  assert np.abs(params['table']).max() <= 5**-0.5
  table = normal(7, 5, seed=1)
  unit = lambda x: x / np.linalg.norm(np.float64(x), axis=-1, keepdims=True)
  e = np.exp(unit(x) @ unit(table).T / 0.2)
  z = module.apply({'params': {'table': table}}, x)
  wanted = e / e.sum(-1, keepdims=True)
  np.testing.assert_allclose(z.share, wanted, rtol=1e-5)
  np.testing.assert_array_equal(z.candidates, table)
  assert z.value is None and z.valid.all()

  weight = normal(3, 7, seed=2)

  def loss(x, table):
    z = module.apply({'params': {'table': table}}, x)
    return (weight * z.share).sum() + z.candidates.sum()

  to_x, to_table = jax.grad(loss, (0, 1))(x, table)
  np.testing.assert_array_equal(to_x, 0.0)
  np.testing.assert_array_equal(to_table, 1.0)


def test_tokens_are_the_text_from_its_second_piece():
  text = np.array([[2, 5, 4, 3, 0], [2, 7, 3, 0, 0], [0] * 5], np.int32)
  z = TextTokens(9).apply({}, text)
  np.testing.assert_array_equal(z.index, text[:, 1:])
  np.testing.assert_array_equal(z.valid.sum(-1), [3, 2, 0])
  assert z.choices == TextTokens(9).width == 9
  assert z.value is None and z.candidates is None
  np.testing.assert_array_equal(z.of(0).index, z.index)


def test_category_is_the_class_table():
  label = np.array([2, -1, 0], np.int32)
  module = Category(classes=4, width=5)
  params = module.init(jax.random.key(0), label)['params']
  assert params['table'].shape == (4, 5)
  np.testing.assert_array_equal(params['bias'], np.zeros(4))
  params = {'table': normal(4, 5), 'bias': normal(4)}
  z = module.apply({'params': params}, label)
  assert z.value is None
  np.testing.assert_array_equal(z.candidates, params['table'])
  np.testing.assert_array_equal(z.bias, params['bias'])
  np.testing.assert_array_equal(z.valid, [True, False, True])
  np.testing.assert_array_equal(z.index[np.array([0, 2])], [2, 0])


@pytest.mark.parametrize('pool', ['cls', 'mean'])
def test_text_embedding_ignores_padding(pool):
  module = TextEmbedding(9, 8, 1, 2, 16, positions=6, pool=pool)
  text = np.array([[3, 4, 5, 0], [0, 0, 0, 0], [5, 0, 0, 0]], np.int32)
  params = module.init(jax.random.key(0), text)
  z = module.apply(params, text)
  np.testing.assert_array_equal(z.valid, [True, False, True])
  assert np.isfinite(z.value).all()
  # Shorter rows of a shorter batch are the same texts.
  short = module.apply(params, text[:1, :3])
  np.testing.assert_allclose(z.value[:1], short.value, rtol=0, atol=1e-6)
  other = module.apply(params, text[:1, :2])
  assert np.abs(other.value - z.value[0]).max() > 1e-3


def test_a_representation_seen_from_the_second_image():
  z = Represented(
    value=normal(4, 3, 2),
    valid=np.array([True, False, True, True]),
    candidates=normal(5, 2),
    index=np.arange(4),
    bias=normal(5),
    share=normal(4, 5),
  )
  partner = np.array([1, 0, 3, 2])
  seen = z.of(1)
  np.testing.assert_array_equal(seen.value, z.value[partner])
  np.testing.assert_array_equal(seen.valid, z.valid[partner])
  np.testing.assert_array_equal(seen.index, partner)
  np.testing.assert_array_equal(seen.share, z.share[partner])
  np.testing.assert_array_equal(seen.candidates, z.candidates)
  np.testing.assert_array_equal(seen.bias, z.bias)
  np.testing.assert_array_equal(z.of(0).value, z.value)
