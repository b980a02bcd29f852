"""InternImage: the release's numbers, another form's numbers, the protocol."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3i_jax import weights
from m3i_jax.models import backbone, internimage
from m3i_jax.models.internimage import InternImage
from tests import numpy_internimage

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden'
# Of the released classes with 1000 classes, running statistics not counted.
PARAMETERS = {
  'T': 29_918_424, 'S': 50_079_880, 'B': 97_461_832, 'L': 223_334_810,
  'XL': 334_819_780, 'H': 1_089_636_760, 'G': 3_076_373_352,
}  # fmt: skip
NARROW = dict(
  channels=16, depths=(1, 1, 3, 1), groups=(1, 2, 4, 8), num_classes=5
)
POST = dict(
  dw_kernel_size=5, level2_post_norm=True, level2_post_norm_block_ids=(0, 2),
  center_feature_scale=True, use_clip_projector=True, fused=32,
)  # fmt: skip
STYLES = {
  'T': {},
  'S': dict(post_norm=True, layer_scale=1e-5),
  'L': dict(post_norm=True, layer_scale=1e-5, offset_scale=2.0),
  'H': dict(res_post_norm=True, **POST),
  'G': dict(post_norm=True, **POST),
}
RUNNING = ('mean', 'var', 'count')


def pixels(n=2, side=64, seed=0):
  return np.random.default_rng(seed).normal(size=(n, side, side, 3)).astype(
    np.float32
  )


def moved(params, seed=1):
  """Every leaf away from what it starts as, offsets of about a cell."""
  rng = np.random.default_rng(seed)

  def move(path, x):
    if path[-1].key == 'count':
      return np.float32(7)
    x = np.asarray(x) + 0.1 * rng.normal(size=x.shape).astype(np.float32)
    return abs(x) + 0.1 if path[-1].key == 'var' else x

  return jax.tree_util.tree_map_with_path(move, params)


@pytest.fixture(scope='module', params=STYLES)
def style(request):
  """(fields, module, parameters away from the start) of a narrow network."""
  fields = NARROW | STYLES[request.param]
  module = InternImage(**fields)
  params = jax.jit(module.init)(jax.random.key(0), pixels())['params']
  return fields, module, moved(params)


def test_the_release_says_the_same():
  golden = np.load(GOLDEN / 'internimage_t_style.npz')
  meta = json.loads(str(golden['meta']))
  del meta['note']
  named = {
    k.removeprefix('weights/'): golden[k]
    for k in golden.files if k.startswith('weights/')
  }  # fmt: skip
  params = weights.import_state('internimage', named)
  out = jax.jit(InternImage(**meta).apply)({'params': params}, golden['input'])
  np.testing.assert_allclose(out['logits'], golden['logits'], rtol=0, atol=1e-5)
  for n, x in enumerate(out['pyramid']):
    np.testing.assert_allclose(x, golden[f'stage{n}'], rtol=0, atol=1e-5)


def test_another_form_says_the_same(style):
  """NumPy in float64 under the release's names, which export writes."""
  fields, module, params = style
  image = pixels()
  named = weights.export_state('internimage', params)
  logits, maps = numpy_internimage.forward(image, named, fields)
  out = jax.jit(module.apply)({'params': params}, image)
  np.testing.assert_allclose(out['logits'], logits, rtol=0, atol=2e-5)
  for x, wanted in zip(out['pyramid'], maps, strict=True):
    np.testing.assert_allclose(x, wanted, rtol=0, atol=2e-5)


def test_every_parameter_learns(style):
  """But running statistics, and what moves all keys of the pool alike."""
  _, module, params = style
  image = pixels()
  loss = lambda p: jnp.square(
    module.apply({'params': p}, image)['logits'] - 1.0
  ).sum()
  gradient = jax.jit(jax.grad(loss))(params)
  dead = {
    jax.tree_util.keystr(path, simple=True, separator='/')
    for path, x in jax.tree_util.tree_leaves_with_path(gradient)
    if not np.abs(x).max() > 1e-7 and path[-1].key not in RUNNING
  }
  assert dead <= {'clip_projector/k/bias', 'clip_projector/norm_k/bias'}
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))


@pytest.mark.parametrize('dtype, tolerance', [('bfloat16', 0.03),
                                              ('mixed', 0.02)])  # fmt: skip
def test_half_precision_is_near(dtype, tolerance):
  """Of the norm of the tokens; offsets and softmax stay in float32."""
  fields = NARROW | STYLES['H'] | dict(num_classes=0)
  exact = InternImage(**fields)
  params = moved(jax.jit(exact.init)(jax.random.key(0), pixels())['params'])
  dtype = dtype if dtype == 'mixed' else jnp.dtype(dtype)
  one, other = (
    np.float32(jax.jit(m.apply)({'params': params}, pixels())['tokens'])
    for m in (exact, InternImage(**fields, dtype=dtype))
  )
  assert 0 < np.linalg.norm(one - other) < tolerance * np.linalg.norm(one)


@pytest.mark.parametrize('variant', PARAMETERS)
def test_parameter_counts_are_the_release_s(variant):
  model = backbone('internimage', variant, num_classes=1000)
  shapes = jax.eval_shape(
    model.init, jax.random.key(0), jnp.zeros((1, 192, 192, 3))
  )['params']
  count = sum(
    x.size
    for path, x in jax.tree_util.tree_leaves_with_path(shapes)
    if path[-1].key not in RUNNING
  )
  assert count == PARAMETERS[variant]


def test_tokens_are_cells_in_the_order_asked():
  model = InternImage(**NARROW | dict(num_classes=0, fused=24))
  assert (model.width, model.patch, model.stride) == (24, 16, 32)
  params = jax.jit(model.init)(jax.random.key(0), pixels())
  apply = jax.jit(model.apply)
  whole = apply(params, pixels())['tokens']
  assert whole.shape == (2, 16, 24)
  cells = jnp.stack([jnp.arange(16)[::-1], jnp.arange(16)])
  some = apply(params, pixels(), cells)['tokens']
  np.testing.assert_array_equal(some[0], whole[0, ::-1])
  np.testing.assert_array_equal(some[1], whole[1])
  plain = InternImage(**NARROW | dict(num_classes=0))
  assert (plain.width, plain.patch) == (128, 32)


def test_stochastic_depth_drops_whole_branches():
  model = InternImage(**NARROW | dict(num_classes=0, drop_path=0.9))
  image = pixels(side=32)
  params = jax.jit(model.init)(jax.random.key(0), image)
  run = jax.jit(lambda key: model.apply(
    params, image, train=True, rngs={'drop_path': jax.random.key(key)}
  )['tokens'])
  assert np.abs(run(0) - run(1)).max() > 0
  np.testing.assert_array_equal(run(0), run(0))


def test_scanned_straight_and_again_are_one():
  """Unrolled layers and layers computed again change nothing but rounding."""
  fields = NARROW | STYLES['H'] | dict(num_classes=0, impl='onehot')
  image = pixels(side=32)
  params = moved(
    jax.jit(InternImage(**fields).init)(jax.random.key(0), image)['params']
  )

  def slope(**how):
    model = InternImage(**fields, **how)
    loss = lambda p: model.apply({'params': p}, image)['tokens'].sum()
    return jax.jit(jax.grad(loss))(params)

  one = slope()
  for how in (dict(unroll=3), dict(remat='full')):
    jax.tree.map(
      lambda x, y: np.testing.assert_allclose(
        x, y, rtol=0, atol=2e-5 * max(1, np.abs(x).max())
      ),
      one, slope(**how),
    )  # fmt: skip


def test_the_start_is_a_mean_of_nine_cells():
  """Offsets 0 and equal weights (paper, section 3.1)."""
  dcn = internimage.DCN(2, 1.0, 3, False, False, 'auto', jnp.float32)
  x = pixels(1, 8)[..., :2].repeat(2, -1)
  params = dcn.init(jax.random.key(0), x)['params']
  eye = dict(kernel=jnp.eye(4), bias=jnp.zeros(4))
  params = params | dict(input_proj=eye, output_proj=eye)
  y = dcn.apply({'params': params}, x)
  wide = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  mean = sum(wide[:, i : i + 8, j : j + 8] for i in range(3) for j in range(3))
  np.testing.assert_allclose(y, mean / 9, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_h_compiles_at_its_size():
  """The billion parameters as shapes alone: no weight is made."""
  model = backbone('internimage', 'H', dtype=jnp.bfloat16, num_classes=1000)
  image = jax.ShapeDtypeStruct((1, 192, 192, 3), jnp.float32)
  params = jax.eval_shape(model.init, jax.random.key(0), image)
  compiled = jax.jit(model.apply).lower(params, image).compile()
  out = compiled.out_info
  assert out['tokens'].shape == (1, 144, 1024)
  assert [x.shape[1] for x in out['pyramid']] == [48, 24, 12, 6]
  assert out['logits'].shape == (1, 1000)


def test_post_norms_are_in_the_order_of_their_blocks_as_listed():
  rows = lambda ids: internimage.PostNorms(ids, 4).apply(
    {'params': {'scale': np.array([[1.0], [2.0]]), 'bias': np.zeros((2, 1))}}, 1
  )
  for ids, wanted in (((1, 3), (1, 2)), ((3, 1), (2, 1))):
    here, scale, _ = rows(ids)
    assert list(here) == [False, True, False, True]
    assert tuple(scale[[1, 3], 0]) == wanted
