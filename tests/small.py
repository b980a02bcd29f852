"""A small M3I with all of its targets, which the tests of the core share.

Every width differs from the others, so that no two axes can be confused.
"""

import jax
import numpy as np
from ml_collections import ConfigDict

from m3i_jax import build, config, objective

CLASSES, VOCABULARY = 7, 50
SIDE, PATCH, GRID, CELLS, OWNED = 32, 8, 4, 16, 8

FEATURE = dict(
  representation='dense',
  decoder='dense',
  distribution='gaussian',
  regularizer='stop_gradient',
)
CATEGORY = dict(
  of='label',
  representation='category',
  decoder='pool',
  predictor='layer_norm',
  distribution=dict(kind='boltzmann', smoothing=0.1),
  regularizer='negatives',
)
TEXT = dict(
  of='text',
  representation=dict(kind='text', width=20, depth=1, heads=2, hidden=36),
  decoder='pool',
  distribution=dict(
    kind='boltzmann',
    temperature=0.07,
    learned=True,
    normalize=True,
    symmetric=True,
  ),
  regularizer='negatives',
)
M3I = dict(
  intra=dict(of='a', components=(0,), cells='hidden', **FEATURE),
  inter=dict(of='b', components=(1,), cells='all', **FEATURE),
  category=CATEGORY | dict(components=(0, 1)),
  text=TEXT | dict(components=(0, 1)),
)


def small_config(
  targets: dict = M3I, colours: bool = False, **input_: object
) -> ConfigDict:
  """A config of the given targets; `input_` changes the mix.

  Colours cost most of the time to compile, so they are off unless asked for.
  """
  c = config.default()
  c.update(batch_size=8, total_steps=10, image_size=SIDE)
  c.data.update(source='synthetic:16', label='label', text='caption')
  if colours:
    c.views.a.update(blur=1.0)
    c.views.b.update(blur=0.1, solarize=0.2)
  else:
    for view in c.views.values():
      view.update(jitter=0.0, gray=0.0)
  c.input.update(dict(images=2, mask=0.5) | input_)
  c.model.update(
    variant='', width=32, depth=2, heads=2, hidden=64, patch=PATCH
  )
  c.model.dtype = 'float32'
  every = dict(
    dense=dict(kind='dense', width=24, depth=1, heads=2, hidden=40),
    pool=dict(kind='pool', out=20, heads=4),
    project=dict(
      kind='mlp', out=12, hidden=(28,), norm='batch', activation='relu'
    ),
  )
  used = {row['decoder'] for row in targets.values()}
  c.decoders = {k: v for k, v in every.items() if k in used}
  c.targets = targets
  return c


def small_objective(c: ConfigDict | None = None) -> objective.Objective:
  return build.build(c or small_config(), CLASSES, VOCABULARY)


def draw_batch(seed: int = 0, size: int = 8) -> dict:
  """Noise with overlapping crops; one record lacks its label, one its text."""
  rng = np.random.default_rng(seed)

  def view():
    extent = rng.uniform(0.4, 0.9, (size, 2))
    corner = rng.uniform(0, 1, (size, 2)) * (1 - extent)
    return {
      'image': rng.integers(0, 256, (size, SIDE, SIDE, 3), np.uint8),
      'box': np.concatenate([corner, extent], 1).astype(np.float32),
      'flip': rng.random(size) < 0.5,
    }

  label = rng.integers(0, CLASSES, size).astype(np.int32)
  text = rng.integers(1, VOCABULARY, (size, 6)).astype(np.int32)
  text *= np.arange(6) < rng.integers(2, 7, (size, 1))
  label[3], text[5] = -1, 0
  batch = {'a': view(), 'b': view(), 'label': label, 'text': text}
  record = rng.integers(0, 1000, size).astype(np.int32)
  replaced, truncated = rng.random((2, size)) < 0.3
  return batch | dict(record=record, replaced=replaced, truncated=truncated)


def perturbed(params, seed: int = 0, size: float = 0.1):
  """The parameters and seeded noise, so that none is zero or one."""
  leaves, tree = jax.tree.flatten(params)
  rng = np.random.default_rng(seed)
  noise = [size * rng.standard_normal(x.shape, np.float32) for x in leaves]
  return tree.unflatten([x + n for x, n in zip(leaves, noise, strict=True)])


def same(got, wanted, rtol):
  """Equal within a share of each leaf's largest, and of the largest of all."""
  assert jax.tree.structure(got) == jax.tree.structure(wanted)
  largest = max(np.abs(x).max() for x in jax.tree.leaves(wanted))

  def check(path, x, y):
    np.testing.assert_allclose(
      x, y, rtol=0, atol=rtol * (np.abs(y).max() + 1e-2 * largest),
      err_msg=jax.tree_util.keystr(path),
    )  # fmt: skip

  jax.tree_util.tree_map_with_path(check, got, wanted)
