"""Monitors against pairs and eigenvalues in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from m3i_jax import monitors, sharding

B, L, D = 8, 9, 5
CELLS = {1: [0], 9: list(range(9)), 256: list(range(0, 256, 17))}


def draw(seed=0, shape=(B, L, D)):
  """Correlated tokens about a common mean; some pictures are not valid."""
  rng = np.random.default_rng(seed)
  z = rng.standard_normal(shape) @ rng.standard_normal((D, D))
  z += rng.standard_normal(D) + rng.standard_normal((shape[0], *[1] * len(
    shape[1:]
  )))  # fmt: skip
  valid = np.ones(shape[0], bool)
  valid[[2, 5]] = False
  return z.astype(np.float32), valid


def watch(z, valid, prediction):
  return monitors.spread(z, valid) | {
    'agreement': monitors.agreement(z, valid, prediction)
  }


def cosine(x, y):
  return x @ y / np.sqrt((x @ x) * (y @ y))


def expected(z, valid, prediction):
  z, prediction = (
    x[valid].astype(np.float64).reshape(valid.sum(), -1, D)
    for x in (z, prediction)
  )
  n, cells = z.shape[:2]
  tokens = z[:, CELLS[cells]].reshape(-1, D)
  eigenvalues = np.linalg.eigvalsh(np.cov(tokens.T))
  spread = np.mean([
    np.std(z[:, i, c]) ** 2 for i in range(cells) for c in range(D)
  ])
  pairs = [(a, i, b, j) for a in range(n) for i in range(cells)
           for b in range(n) for j in range(cells)]  # fmt: skip
  mean_cosine = lambda pairs: np.mean(
    [cosine(z[a, i], z[b, j]) for a, i, b, j in pairs]
  )
  found = dict(
    target_std=np.sqrt(spread / np.mean(z**2)),
    target_rank=eigenvalues.sum() ** 2 / (eigenvalues**2).sum(),
    cosine_across=mean_cosine([p for p in pairs if p[0] != p[2]]),
    agreement=np.mean([
      cosine(z[a, i], prediction[a, i])
      for a in range(n) for i in range(cells)
    ]),  # fmt: skip
  )
  if cells > 1:
    found['cosine_within'] = mean_cosine(
      [p for p in pairs if p[0] == p[2] and p[1] != p[3]]
    )
  return found


@pytest.mark.parametrize('shape', [(B, L, D), (B, D)])
@pytest.mark.parametrize('broken', [False, True])
def test_they_are_what_pairs_and_eigenvalues_say(shape, broken):
  (z, valid), (prediction, _) = draw(0, shape), draw(1, shape)
  wanted = expected(z, valid, prediction)
  if broken:
    z[~valid] = prediction[~valid] = np.nan
  found = jax.jit(watch)(z, valid, prediction)
  assert found.keys() == wanted.keys()
  for name, value in wanted.items():
    np.testing.assert_allclose(found[name], value, rtol=2e-5, err_msg=name)


def test_the_rank_of_many_cells_is_that_of_sixteen_on_a_diagonal():
  z, valid = draw(shape=(B, 256, D))
  tokens = z[valid][:, CELLS[256]].reshape(-1, D).astype(np.float64)
  values = np.linalg.eigvalsh(np.cov(tokens.T))
  np.testing.assert_allclose(
    monitors.target_rank(z, valid),
    values.sum() ** 2 / (values**2).sum(), rtol=2e-5,
  )  # fmt: skip


@pytest.mark.parametrize('k', [1, 3, 5])
def test_the_rank_counts_equal_directions(k):
  tokens = np.concatenate([np.eye(D)[:k], -np.eye(D)[:k]]) + 7
  rank = monitors.target_rank(tokens, np.ones(2 * k, bool))
  np.testing.assert_allclose(rank, k, rtol=1e-5)


def test_what_a_collapse_looks_like():
  rng = np.random.default_rng(0)
  valid = np.ones(B, bool)
  constant = np.broadcast_to(rng.standard_normal(D), (B, L, D))
  place = np.broadcast_to(rng.standard_normal((L, D)), (B, L, D))
  measured = watch(constant, valid, 3 * constant)
  for name in ('cosine_within', 'cosine_across', 'agreement'):
    np.testing.assert_allclose(measured[name], 1, atol=1e-6)
  np.testing.assert_allclose(measured['target_std'], 0, atol=1e-6)
  measured = watch(place, valid, -place)
  np.testing.assert_allclose(measured['target_std'], 0, atol=1e-6)
  np.testing.assert_allclose(measured['agreement'], -1, atol=1e-6)
  assert measured['target_rank'] > 1.5 and measured['cosine_within'] < 0.9


@pytest.mark.parametrize('pictures', [0, 1])
def test_too_few_pictures_are_no_evidence(pictures):
  z, _ = draw()
  measured = watch(z, np.arange(B) < pictures, z)
  assert measured['target_std'] == 1 and measured['cosine_across'] == 0
  assert all(np.isfinite(x) for x in measured.values())
  nothing = watch(0 * z, np.ones(B, bool), z)
  assert all(x == 0 for x in nothing.values())


def test_no_gradient():
  z, valid = draw()
  total = lambda z, p: sum(watch(z, valid, p).values())
  for gradient in jax.grad(total, (0, 1))(jnp.array(z), jnp.array(z) ** 2):
    np.testing.assert_array_equal(gradient, 0)


def test_eight_devices_say_what_one_says():
  (z, valid), (prediction, _) = draw(0), draw(1)
  alone = jax.jit(watch)(z, valid, prediction)
  mesh = sharding.make_mesh(replica=2, fsdp=4)
  split = sharding.batch_sharding(mesh)
  with jax.set_mesh(mesh):
    put = lambda x: jax.device_put(x, split)
    together = jax.jit(
      watch, out_shardings=NamedSharding(mesh, PartitionSpec())
    )(put(z), put(valid), put(prediction))
  for name, value in alone.items():
    np.testing.assert_allclose(together[name], value, rtol=1e-5, err_msg=name)


def test_nothing_grows_with_the_square_of_the_batch():
  shape = (4096, 196, 64)
  z = jax.ShapeDtypeStruct(shape, jnp.float32)
  valid = jax.ShapeDtypeStruct(shape[:1], bool)
  graph = str(jax.make_jaxpr(watch)(z, valid, z))
  assert '4096,4096' not in graph and '64,64]' in graph
