"""What a train step sends between devices: parameters, and no picture.

The compiled programs are read, not the code. XLA for CPUs gathers in float32
and scatters nothing, so bytes are those of the program for a TPU slice.
"""

import importlib
import math
import re

import jax
import pytest

from configs import vitb
from m3i_jax import build, sharding
from m3i_jax.errors import UserError
from m3i_jax.models import placement
from m3i_jax.plan import hlo, topology
from m3i_jax.program import Program
from tests import small

LARGE = 2**20  # bytes
QUICK = {'xla_backend_optimization_level': 0}  # to compile


def slice_of(name):
  try:
    topology.prepare(name)
    return topology.find(name).devices
  except UserError as error:
    pytest.skip(str(error))


def count(tree):
  return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


@pytest.mark.slow
def test_vit_b_on_64_chips_moves_its_parameters_alone():
  """Parameters twice in bfloat16, the EMA's once, float32 gradients once.

  The least that ZeRO-3 needs. Beyond it, the decoder's blocks run twice, once
  for each of the two mixed pictures, and so do their gathers and gradients.
  """
  c = vitb.get_config()
  c.batch_size = 128  # collectives do not depend on it, compiling does
  mesh = sharding.make_mesh(1, 64, 1, slice_of('v5p:4x4x4'))
  program = Program(c, build.build(c, 1000, 0), mesh)
  state = program.state()
  found = hlo.collectives(program.lower().compile().as_text())
  assert all(one.counted for one in found)
  params, ema = count(state.params), count(state.ema)
  least = 2 * 2 * params + 2 * ema + 4 * params
  moved = sum(one.times * one.payload for one in found)
  assert least < moved < 1.3 * least
  decoder = count(state.params['decoders_dense']['blocks'])
  assert abs(moved - least - 8 * decoder) < 0.02 * least  # the whole rest
  # Whatever is large is a parameter of one layer, or equal parts of its rows.
  params = [x.shape for x in jax.tree.leaves(state.params) if x.ndim > 1]
  for one in found:
    for dtype, dims in re.findall(r'(\w+)\[([\d,]*)\]', one.shape):
      shape = tuple(int(n) for n in dims.split(',') if n)
      if math.prod(shape) * 4 > LARGE:
        rows, columns = shape[-2:]
        assert any(
          p[-1] == columns and p[-2] % rows == 0 for p in params
        ), (dtype, shape, one.source)


def lowered(function, *args):
  """The compiled text of a function of batches on 2 x 2 x 2 devices."""
  mesh = sharding.make_mesh(2, 2, 2)
  rows = sharding.batch_sharding(mesh)
  args = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows), args
  )
  with jax.set_mesh(mesh):
    return jax.jit(function).lower(*args).compile().as_text()


ROWS = 13  # a factor of the batch, and of nothing else


@pytest.mark.parametrize('name', [
  'vitb', 'internimage_h', 'mug', 'table1.siamese_feature',
  'table1.mim_global',
])  # fmt: skip
def test_no_activation_is_sent_along_the_batch(name, monkeypatch):
  """Of networks whose parameters are all stored in parts, also small ones.

  What crosses the batch axes are parameters, sums, and whole batches of single
  vectors: the candidates of InfoNCE.
  """
  monkeypatch.setattr(placement, 'SMALLEST', 64)
  c = importlib.import_module(f'configs.{name}').get_config('debug')
  c.batch_size = 16 * ROWS
  mesh = sharding.make_mesh(2, 4, 1)
  objective = build.build(c, 5, 400 if c.data.text else 0)
  compiled = Program(c, objective, mesh).lower().compile(QUICK)
  found = hlo.collectives(compiled.as_text())
  assert {'all-gather', 'all-reduce'} <= {one.kind for one in found}
  for one in found:
    for _, dims in re.findall(r'(\w+)\[([\d,]*)\]', one.shape):
      shape = [int(n) for n in dims.split(',') if n]
      along = any(n % ROWS == 0 for n in shape)
      assert not along or len(shape) <= 2, (shape, one.kind, one.source)


@pytest.mark.parametrize('pattern', ['block', 'random'])
def test_masks_mix_and_pairs_stay_on_their_device(pattern):
  """Also the loops that draw blocks: none waits for another device's."""
  objective = small.small_objective(small.small_config(pattern=pattern))
  same = {'ema': lambda images: images}
  text = lowered(
    lambda batch: objective.sample(batch, same, jax.random.key(0)),
    small.draw_batch(0, 16),
  )
  assert ' while(' in text or pattern == 'random'
  assert hlo.collectives(text) == []


def test_colours_stay_on_their_device():
  c = small.small_config(colours=True)
  objective = small.small_objective(c)
  same = {'ema': lambda images: images}
  text = lowered(
    lambda batch: objective.sample(batch, same, jax.random.key(0)),
    small.draw_batch(0, 16),
  )
  assert hlo.collectives(text) == []


@pytest.mark.parametrize('shape', [(1, 64, 1), (1, 32, 2), (4, 16, 1)])
@pytest.mark.parametrize('name', ['vitb', 'internimage_h', 'mug'])
def test_no_large_leaf_is_on_every_device(name, shape):
  """Parameters, EMA and optimizer of ViT, InternImage and text tower."""
  c = importlib.import_module(f'configs.{name}').get_config()
  mesh = jax.sharding.AbstractMesh(shape, ('replica', 'fsdp', 'tensor'))
  objective = build.build(c, 21_841, 32_000 if c.data.text else 0)
  program = Program(c, objective, mesh)
  abstract = jax.eval_shape(program.init)
  places = sharding.state_shardings(mesh, abstract)
  whole = parts = 0
  for (path, x), place in zip(
    jax.tree.leaves_with_path(abstract), jax.tree.leaves(places), strict=True
  ):
    size = math.prod(x.shape)
    here = math.prod(place.shard_shape(x.shape))
    whole, parts = whole + size, parts + here
    if size >= 2**21:
      assert here <= size / shape[1], (jax.tree_util.keystr(path), x.shape)
  split = shape[1] * shape[2]
  assert parts < 1.15 * whole / split
