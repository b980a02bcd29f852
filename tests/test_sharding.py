"""The mesh, what lies where on it, and that no mesh changes a ConvNet."""

import types

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from m3i_jax import sharding
from m3i_jax.errors import UserError
from m3i_jax.models import placement
from m3i_jax.models.internimage import InternImage
from m3i_jax.plan import topology
from tests import small

MESH = dict(replica=2, fsdp=4, tensor=2)


def test_the_rest_of_the_devices():
  assert sharding.sizes(1, -1, 1, 64) == (1, 64, 1)
  assert sharding.sizes(-1, 8, 2, 64) == (4, 8, 2)
  assert sharding.sizes(4, 4, 4, 64) == (4, 4, 4)
  mesh = sharding.make_mesh(2, -1, 2)
  assert dict(mesh.shape) == {'replica': 2, 'fsdp': 2, 'tensor': 2}


@pytest.mark.parametrize('asked,nearest', [
  ((3, -1, 1), '4 x 2 x 1, 2 x 4 x 1'), ((1, 8, 2), '1 x 4 x 2, 1 x 8 x 1'),
  ((-1, -1, 1), '1 x 8 x 1'), ((0, -1, 1), '1 x 8 x 1'),
  ((1, 1, 16), '1 x 1 x 8'),
])  # fmt: skip
def test_an_impossible_mesh_is_told_with_the_nearest(asked, nearest):
  with pytest.raises(UserError, match='does not make 8 devices') as told:
    sharding.make_mesh(*asked)
  assert f'the nearest are {nearest}' in str(told.value)
  assert '\n' not in str(told.value)


def test_replica_spans_the_slices():
  try:
    topology.prepare('2xv5e:2x2')
    devices = topology.find('2xv5e:2x2').devices
  except UserError as error:
    pytest.skip(str(error))
  mesh = sharding.make_mesh(2, 4, 1, devices)
  for replica, one in enumerate(mesh.devices):
    assert {d.slice_index for d in one.flat} == {replica}
  with pytest.raises(UserError, match='set config.mesh.replica=2 or'):
    sharding.make_mesh(1, 8, 1, devices)


def test_fsdp_spans_the_hosts_of_gpus():
  """JAX gives each of their hosts a slice of its own."""
  devices = [
    types.SimpleNamespace(
      id=n, platform='gpu', device_kind='NVIDIA H100', slice_index=n // 8,
      process_index=n // 8, local_hardware_id=n % 8,
    )
    for n in range(32)
  ]  # fmt: skip
  wide = sharding.arranged((1, 32, 1), devices)
  assert [d.id for d in wide.flat] == list(range(32))
  hybrid = sharding.arranged((4, 8, 1), devices)
  for replica, one in enumerate(hybrid):
    assert {d.slice_index for d in one.flat} == {replica}


@pytest.mark.parametrize('shape,split,spec', [
  ((768, 3072), placement.COLUMNS, ('fsdp', 'tensor')),
  ((3072, 768), placement.ROWS, ('tensor', 'fsdp')),
  ((768, 2304), None, (None, ('fsdp', 'tensor'))),
  ((30522, 768), None, ('tensor', 'fsdp')),  # 30522 = 2 x 15261
  ((30522, 765), None, ('tensor', None)),
  ((768, 3071), placement.COLUMNS, (('fsdp', 'tensor'), None)),
  ((4, 3072), placement.COLUMNS, (None, None)),  # too small
  ((3, 3, 320, 640), None, (None, None, None, ('fsdp', 'tensor'))),
])  # fmt: skip
def test_how_a_parameter_is_stored(shape, split, spec):
  assert placement.stored(shape, split, MESH) == P(*spec)


@pytest.mark.parametrize('path,shape,spec', [
  ('opt_state/2/mu/encoder/blocks/layers/mlp/fc1/kernel', (12, 768, 3072),
   (None, 'fsdp', 'tensor')),
  ('ema/encoder/blocks/layers/attn/proj/kernel', (12, 768, 768),
   (None, 'tensor', 'fsdp')),
  ('encoder/stages_2/blocks/mlp/fc2/kernel', (64, 5120, 1280),
   (None, 'tensor', 'fsdp')),  # never along the depth
  ('encoder/blocks/layers/mlp/fc1/bias', (12, 3072), (None, None)),
  ('decoders_pool/q/kernel', (768, 768), ('fsdp', 'tensor')),
  ('step', (), ()),
])  # fmt: skip
def test_how_a_leaf_of_the_state_lies(path, shape, spec):
  found = placement.stored_leaf(path.split('/'), shape, MESH)
  assert found == P(*spec)


def test_nothing_happens_outside_a_mesh_or_on_one_device():
  def use(x):
    x = placement.batch_sharded(placement.gathered(x, -1))
    return placement.scatter(placement.gathered_rows(x))

  x = np.ones((8, 4), np.float32)
  assert 'sharding_constraint' not in str(jax.make_jaxpr(use)(x))
  with jax.set_mesh(sharding.make_mesh(2, 2, 2)):
    assert 'sharding_constraint' in str(jax.make_jaxpr(use)(x))


def test_rows_of_a_process_and_what_tensor_repeats():
  mesh = sharding.make_mesh(2, 2, 2)
  rows = sharding.batch_sharding(mesh)
  assert sharding.local_rows(rows, 16).tolist() == list(range(16))
  x = np.arange(32, dtype=np.float32).reshape(16, 2)
  put = sharding.put({'x': x}, rows, 16)['x']
  np.testing.assert_array_equal(put, x)
  shards = {s.device: s.data.shape for s in put.addressable_shards}
  assert len(shards) == 8 and set(shards.values()) == {(4, 2)}


def test_no_mesh_changes_an_internimage(monkeypatch):
  """Groups of the deformable convolution on 'tensor', kernels on all axes."""
  monkeypatch.setattr(placement, 'SMALLEST', 64)
  net = InternImage(
    channels=8, depths=(1, 2, 1, 1), groups=(2, 4, 8, 16), fused=12,
    layer_scale=None, impl='onehot',
  )  # fmt: skip
  rng = np.random.default_rng(0)
  image = rng.standard_normal((8, 32, 32, 3)).astype(np.float32)
  params = jax.jit(net.init)(jax.random.key(0), image)['params']
  params = small.perturbed(params, size=0.05)

  def loss(params, image):
    tokens = net.apply({'params': params}, image)['tokens']
    return (tokens * np.float32(np.arange(tokens.shape[-1]))).std()

  wanted = jax.jit(jax.value_and_grad(loss))(params, image)
  mesh = sharding.make_mesh(2, 2, 2)
  places = sharding.state_shardings(mesh, params)
  used = {str(x.spec) for x in jax.tree.leaves(places)}
  assert any('tensor' in x for x in used) and any('fsdp' in x for x in used)
  with jax.set_mesh(mesh):
    rows = sharding.batch_sharding(mesh)
    found = jax.jit(jax.value_and_grad(loss), out_shardings=(None, places))(
      jax.device_put(params, places), jax.device_put(image, rows)
    )
  np.testing.assert_allclose(found[0], wanted[0], rtol=1e-5)
  small.same(found[1], wanted[1], 2e-5)
