"""The engine that runs rules both ways, and what it refuses."""

import inspect

import jax.numpy as jnp
import numpy as np
import pytest

from m3i_jax import weights
from m3i_jax.errors import UserError
from m3i_jax.weights import checks, layouts, rules
from tests.weights.official import drawn, golden

LAYOUTS = {
  name: value
  for name, value in vars(layouts).items()
  if isinstance(value, layouts.Layout)
}
# Official shapes, for one layer.
SHAPES = {
  'SCALAR': [()],
  'COUNT': [()],
  'VECTOR': [(5,)],
  'TABLE': [(4, 5)],
  'TOKEN': [(1, 4, 5)],
  'LINEAR': [(4, 5)],
  'CONV': [(4, 5, 2, 3)],
  'POINTWISE': [(4, 5, 1, 1)],
  'LEADING': [(4, 5)],
  'QKV': [(4, 4)] * 3,
  'QKV_BIAS': [(4,)] * 3,
  'IN_PROJ': [(12, 4)],
  'IN_PROJ_BIAS': [(12,)],
}


@pytest.mark.parametrize('name', LAYOUTS)
def test_layouts_are_pairs_of_inverses(name):
  layout, rng = LAYOUTS[name], np.random.default_rng(0)
  arrays = [rng.normal(size=shape) for shape in SHAPES[name]]
  if name == 'COUNT':
    arrays = [np.asarray(12, np.int64)]
  ours = layout.load(*arrays)
  assert all(x.ndim == layout.rank for x in ours)
  assert len(inspect.signature(layout.dump).parameters) == len(ours)
  back = layout.dump(*ours)
  assert len(back) == len(arrays)
  for x, y in zip(back, arrays, strict=True):
    np.testing.assert_array_equal(x, y)
    assert x.dtype == y.dtype


def test_joined_maps_stand_side_by_side():
  q, k, v = (np.full((2, 2), n) + np.arange(2)[:, None] * 10 for n in (1, 2, 3))
  joined = layouts.QKV.load(q, k, v)[0]
  np.testing.assert_array_equal(joined[0], [1, 11, 2, 12, 3, 13])
  packed = np.concatenate([q, k, v])
  query, rest = layouts.IN_PROJ.load(packed)
  np.testing.assert_array_equal(query, joined[:, :2])
  np.testing.assert_array_equal(rest, joined[:, 2:])


FAMILY = rules.Family(
  'toy',
  (
    rules.Rule(('a.w',), ('a',), ('D 3D',), layouts.TABLE),
    rules.Rule(('b.{n}.w',), ('b/w',), ('E D',), layouts.LINEAR),
    rules.Rule(('b.{n}.v',), ('b/v',), ('E',), layouts.VECTOR),
    rules.Rule(('c.w',), ('c/w',), ('D',), layouts.VECTOR, 'c'),
    rules.Rule(('c.v',), ('c/v',), ('D',), layouts.VECTOR, 'c'),
    rules.Rule(('d',), ('d',), ('D',), layouts.VECTOR, 'd'),
  ),
  lambda net, given: dict(net.sizes),
  prefix='net.',
  outside=('c.',),
  prefixed=('c',),
  left_out=('gone',),
  needs=(('c', ('d', 'e')),),
)
TOY = {'a.w': (2, 6)} | {
  f'b.{n}.{name}': shape
  for n in range(11)
  for name, shape in (('w', (5, 2)), ('v', (5,)))
}


def told(arrays):
  net = rules.read(FAMILY, arrays)
  return checks.problems(FAMILY, arrays, net), net


def test_layers_are_stacked_in_the_order_of_numbers():
  arrays = drawn(TOY)
  shuffled = dict(sorted(arrays.items(), reverse=True))
  lines, net = told(shuffled)
  assert not lines and net.depths == {'b.': 11}
  assert net.sizes == {'D': 2, 'E': 5}
  flat = rules.load(FAMILY, shuffled, net)
  assert flat['b/w'].shape == (11, 2, 5)
  for n in range(11):
    np.testing.assert_array_equal(flat['b/w'][n], arrays[f'b.{n}.w'].T)
  back = rules.dump(FAMILY, flat)
  assert set(back) == set(arrays)
  for name, x in arrays.items():
    np.testing.assert_array_equal(back[name], x)
    assert not np.shares_memory(back[name], flat['b/w'])


def test_groups_are_there_as_a_whole_with_what_they_need():
  arrays = drawn(TOY | {'c.w': (2,)})
  assert told(arrays)[0] == ['c.v is missing', 'd is missing']
  whole = drawn(TOY | {'c.w': (2,), 'c.v': (2,), 'd': (2,)})
  flat = rules.load(FAMILY, whole, told(whole)[1])
  names = {'c.w', 'c.v'} | {f'net.{x}' for x in (*TOY, 'd')}
  assert set(rules.dump(FAMILY, flat)) == names
  del flat['c/v']
  with pytest.raises(UserError, match='toy: c.v is missing: give c/v'):
    rules.dump(FAMILY, flat)


def test_a_prefix_is_of_all_names_or_of_none():
  arrays = {f'net.{k}': x for k, x in drawn(TOY).items()}
  assert not told(arrays)[0]
  arrays['a.w'] = arrays.pop('net.a.w')
  arrays['gone.x'] = None
  lines, net = told(arrays)
  assert lines == ['net.a.w is missing', 'a.w is unexpected']
  assert net.left_out == ['gone.x']


@pytest.mark.parametrize(
  'key', ['b.01.w', 'b.x.w', 'b.0.w.w', 'B.0.w', 'a_w', 'b.99999999.w', '']
)
def test_names_are_matched_as_they_stand(key):
  assert told(drawn(TOY) | {key: np.zeros(2)})[0] == [f'{key} is unexpected']


@pytest.mark.parametrize(
  'key, value, line',
  [
    ('b.3.w', np.zeros((5, 3)), r'of shape \(5, 3\), wanted is \(5, 2\)'),
    ('b.3.w', np.zeros((2, 5)), r'of shape \(2, 5\), wanted is \(5, 2\)'),
    ('b.3.w', np.zeros(10), r'of shape \(10,\), wanted is \(5, 2\)'),
    ('b.3.w', np.zeros((5, 2, 1)), 'wanted is'),
    ('b.3.w', np.zeros((0, 2)), 'wanted is'),
    ('a.w', np.zeros((2, 7)), r'of shape \(2, 7\), wanted is \(2, 6\)'),
    ('b.3.v', np.full(5, np.nan), 'not finite'),
    ('b.3.v', np.array([0, 0, np.inf, 0, 0]), 'not finite'),
    ('b.3.v', np.full(5, 1e300), 'not finite'),
    ('b.3.v', np.zeros(5, np.int32), 'dtype int32'),
    ('b.3.v', np.zeros(5, bool), 'dtype bool'),
    ('b.3.v', np.zeros(5, np.complex64), 'dtype complex64'),
    ('b.3.v', np.array(['x'] * 5), 'dtype <U1'),
    ('b.3.v', np.array([None] * 5), 'dtype object'),
    ('b.3.v', [0.0] * 5, 'is a list'),
    ('b.3.v', None, 'is a NoneType'),
  ],
)
def test_what_does_not_fit_is_named(key, value, line):
  lines, _ = told(drawn(TOY) | {key: value})
  assert len(lines) == 1 and lines[0].startswith(f'{key} ')
  assert line.replace('\\', '') in lines[0]


def test_the_one_that_disagrees_with_the_others_is_named():
  """Also if it comes first, and alone says what a letter is in another."""
  lines, _ = told(drawn(TOY | {'a.w': (3, 9)}))
  assert lines == ['a.w is of shape (3, 9), wanted is (2, 6)']


@pytest.mark.parametrize('dtype', [np.float16, np.float64, jnp.bfloat16])
def test_other_floating_numbers_become_float32(dtype):
  arrays = {k: x.astype(dtype) for k, x in drawn(TOY).items()}
  lines, net = told(arrays)
  assert not lines
  flat = rules.load(FAMILY, arrays, net)
  assert {x.dtype for x in flat.values()} == {np.dtype(np.float32)}
  np.testing.assert_array_equal(flat['a'], arrays['a.w'].astype(np.float32))


def test_exports_keep_the_dtype_and_refuse_what_has_no_place():
  arrays = drawn(TOY)
  flat = rules.load(FAMILY, arrays, told(arrays)[1])
  half = {k: jnp.asarray(x, jnp.bfloat16) for k, x in flat.items()}
  found = rules.dump(FAMILY, half)
  assert {x.dtype for x in found.values()} == {np.dtype(jnp.bfloat16)}
  assert all(isinstance(x, np.ndarray) for x in found.values())
  with pytest.raises(UserError, match='toy has no place for z'):
    rules.dump(FAMILY, flat | {'z': flat['a']})
  with pytest.raises(UserError, match=r'b/v is of shape \(55,\), wanted are 2'):
    rules.dump(FAMILY, flat | {'b/v': flat['b/v'].ravel()})


def refused(family, arrays):
  with pytest.raises(UserError) as error:
    weights.import_state(family, arrays)
  message = str(error.value)
  assert '\n' not in message and message.startswith(f'{family}: ')
  return message


def test_errors_name_the_key_and_count_the_others():
  arrays, _ = golden('timm_vit')
  less = {k: x for k, x in arrays.items() if not k.startswith('blocks.0.')}
  line = 'blocks.0.norm1.weight is missing (13 more)'
  assert line in refused('timm_vit', less)
  odd = arrays | {'x.y': np.zeros(1), 'model': arrays}
  assert refused('timm_vit', odd).endswith('x.y is unexpected (1 more)')
  less = {k: x for k, x in arrays.items() if k != 'cls_token'}
  assert 'cls_token is missing' in refused('timm_vit', less)
  cut = arrays | {'pos_embed': arrays['pos_embed'][:, :-1]}
  assert 'pos_embed has 9 rows' in refused('timm_vit', cut)
  assert 'pos_embed is missing' in refused('timm_vit', {})
  assert 'model is unexpected' in refused('timm_vit', {'model': arrays})
  assert refused('timm_vit', arrays | {3: 4}).endswith('3 is unexpected')
  with pytest.raises(UserError, match=r"'vit': choose from timm_vit, mae"):
    weights.import_state('vit', arrays)


def test_another_family_is_recognised():
  arrays, _ = golden('hf_dinov2')
  message = refused('hf_vit', arrays)
  assert message.endswith('it looks like family hf_dinov2')
  assert message.startswith('hf_vit: encoder.layer.0.layernorm_before.weight')
  clip, _ = golden('hf_clip_text')
  assert refused('hf_bert', clip).endswith('looks like family hf_clip_text')
  own = {k: x for k, x in clip.items() if 'final' not in k}
  assert 'looks like' not in refused('hf_clip_text', own)


def test_exports_of_broken_parameters_are_refused():
  arrays, _ = golden('timm_vit')
  params = weights.import_state('timm_vit', arrays)
  params['norm']['bias'][0] = np.nan
  with pytest.raises(UserError, match='norm.bias has values that are not fin'):
    weights.export_state('timm_vit', params)
  del params['norm']['bias']
  with pytest.raises(UserError, match='norm.bias is missing: give norm/bias'):
    weights.export_state('timm_vit', params)
  params['norm']['bias'] = np.zeros(31, np.float32)
  with pytest.raises(UserError, match=r'norm.bias is of shape \(31,\)'):
    weights.export_state('timm_vit', params)
  params['norm']['bias'] = np.zeros(32, np.float32)
  layers = params['blocks']['layers']
  layers['norm1']['bias'] = layers['norm1']['bias'][:1]
  with pytest.raises(UserError, match='blocks.1.norm1.bias is missing'):
    weights.export_state('timm_vit', params)


def test_problems_tells_all_of_them():
  arrays, _ = golden('timm_vit')
  arrays['norm.weight'] = arrays['norm.weight'][:3]
  arrays['head.bias'] = np.full(5, np.inf, np.float32)
  assert weights.problems('timm_vit', arrays) == (
    'norm.weight is of shape (3,), wanted is (32,)',
    'head.bias has values that are not finite',
  )
