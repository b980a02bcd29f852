"""Every family against arrays that its own project wrote.

Round trips are bitwise; golden outputs say that nothing is permuted.
"""

import jax
import numpy as np
import pytest

from m3i_jax import weights
from m3i_jax.errors import UserError
from m3i_jax.models import convnext, text, vit
from tests.weights.official import FOLDER, LISTED, drawn, golden

MODULES = {
  'vit': vit.ViT,
  'text': text.TextTower,
  'convnext': convnext.ConvNeXt,
}
PARITY = sorted(path.stem for path in FOLDER.glob('*.npz'))
# timm's names of a ViT -> MMSegmentation's
MMSEG = {
  'blocks.': 'layers.',
  'norm1': 'ln1',
  'norm2': 'ln2',
  'mlp.fc1': 'ffn.layers.0.0',
  'mlp.fc2': 'ffn.layers.1',
  'patch_embed.proj.': 'patch_embed.projection.',
  'ls1.gamma': 'gamma_1',
  'ls2.gamma': 'gamma_2',
}
HEADS = ('norm.', 'head.')


def assert_bitwise(found, wanted):
  assert set(found) == set(wanted)
  for name, x in wanted.items():
    y = found[name]
    assert isinstance(y, np.ndarray) and y.flags.c_contiguous, name
    assert (y.dtype, y.shape) == (x.dtype, x.shape), name
    assert y.tobytes() == x.tobytes(), name


def round_trip(family, arrays, left=(), rename=lambda name: name):
  assert sorted(weights.left_out(family, arrays)) == sorted(left)
  params = weights.import_state(family, arrays)
  for leaf in jax.tree.leaves(params):
    assert leaf.dtype == np.float32 and leaf.flags.c_contiguous
  found = weights.export_state(family, params)
  kept = {rename(k): x for k, x in arrays.items() if k not in left}
  assert_bitwise(found, kept)
  again = weights.import_state(family, found)
  jax.tree.map(np.testing.assert_array_equal, again, params)


def timm_arrays():
  return golden('timm_vit')[0]


def mae_arrays():
  """As MAE's pre-training saves them: timm's names and a decoder."""
  encoder = {
    k: x
    for k, x in timm_arrays().items()
    if not k.startswith('head') and '.ls' not in k
  }
  decoder = {
    'mask_token': (1, 1, 16),
    'decoder_embed.weight': (16, 32),
    'decoder_blocks.0.norm1.weight': (16,),
    'decoder_pred.bias': (192,),
  }
  return encoder | drawn(decoder)


def headless():
  return {k: x for k, x in timm_arrays().items() if not k.startswith(HEADS)}


def vitdet_arrays():
  """Detectron2's ViTDet, of a net with class token: its row, not the token."""
  return {
    f'backbone.net.{k}': x
    for k, x in headless().items()
    if k != 'cls_token' and '.ls' not in k
  }


def mmseg_arrays():
  found = {}
  for key, x in headless().items():
    for old, new in MMSEG.items():
      key = key.replace(old, new)
    found[key] = x
  return found


@pytest.mark.parametrize('family', PARITY)
def test_round_trips_of_golden_networks_are_bitwise(family):
  arrays, _ = golden(family)
  prefix = 'vision_model.' if family == 'hf_siglip' else ''
  round_trip(family, arrays, rename=lambda name: prefix + name)


@pytest.mark.parametrize('name', LISTED)
def test_round_trips_of_all_names_are_bitwise(name):
  family, shapes = LISTED[name]
  # What is no part of the encoder, and what the export calls otherwise.
  left, prefix = {
    'hf_vitmae': (('decoder.',), ''),
    'hf_dinov2_classifier': (('classifier.',), 'dinov2.'),
    'hf_siglip_both': (('text_model.', 'logit_'), ''),
    'hf_bert_pretraining': (('cls.',), 'bert.'),
    'hf_clip_both': (('vision_model.', 'visual_projection.', 'logit_'), ''),
  }.get(name, (('none',), ''))
  arrays = drawn(shapes)
  left = [key for key in arrays if key.startswith(left)]
  round_trip(family, arrays, left, lambda key: key.removeprefix(prefix))


@pytest.mark.parametrize(
  'family, arrays, left',
  [
    ('mae', mae_arrays, ('mask_token', 'decoder_')),
    ('detectron2', vitdet_arrays, ('none',)),
    ('mmseg', mmseg_arrays, ('none',)),
  ],
)
def test_round_trips_of_names_written_by_hand_are_bitwise(family, arrays, left):
  arrays = arrays()
  round_trip(family, arrays, [key for key in arrays if key.startswith(left)])


def test_former_names_and_prefixes_are_read():
  arrays, _ = golden('hf_bert')
  params = weights.import_state('hf_bert', arrays)
  renamed = {
    'bert.'
    + k.replace('LayerNorm.weight', 'LayerNorm.gamma').replace(
      'LayerNorm.bias', 'LayerNorm.beta'
    ): x
    for k, x in arrays.items()
  }
  renamed['bert.embeddings.position_ids'] = np.arange(9)[None]
  found = weights.import_state('hf_bert', renamed)
  jax.tree.map(np.testing.assert_array_equal, found, params)
  assert weights.left_out('hf_bert', renamed) == (
    'bert.embeddings.position_ids',
  )


def outputs(family, arrays, entered):
  given = {'heads': 2} if family != 'timm_convnext' else {}
  fields = weights.model_of(family, arrays, given)
  fields.pop('variant', None)
  model = MODULES[fields.pop('name')](**fields)
  params = weights.import_state(family, arrays)
  params.pop('mask_token', None)  # no module reads it
  shapes = jax.eval_shape(model.init, jax.random.key(0), entered)['params']
  same = lambda x, y: x.shape == y.shape
  assert jax.tree.all(jax.tree.map(same, dict(shapes), params))
  with jax.default_matmul_precision('highest'):
    found = jax.jit(model.apply)({'params': params}, entered)
  return found if isinstance(found, dict) else {'pooled': found}


@pytest.mark.parametrize('family', PARITY)
def test_outputs_are_those_of_the_official_network(family):
  """Float32 against float64: < 1e-5, of outputs around 1."""
  arrays, wanted = golden(family)
  found = outputs(family, arrays, wanted.pop('input'))
  if 'cls' in found:
    cls = np.asarray(found['cls'])[:, None]
    found['tokens'] = np.concatenate([cls, found['tokens']], axis=1)
    found.setdefault('pooled', cls[:, 0])
  assert len(wanted) >= 1
  for name, x in wanted.items():
    assert np.abs(x).max() > 0.1, name
    np.testing.assert_allclose(found[name], x, atol=1e-5, rtol=0)


def test_models_are_read_off_the_shapes():
  arrays, _ = golden('timm_vit')
  assert weights.model_of('timm_vit', arrays, {'heads': 4}) == dict(
    name='vit', variant='', width=32, depth=2, heads=4, hidden=48, patch=8,
    class_token=True, positions='learned', final_norm=True, layer_scale=1e-5,
    eps=1e-6, activation='gelu', pooling='cls', num_classes=5,
  )  # fmt: skip
  found = weights.model_of('detectron2', vitdet_arrays(), {'heads': 2})
  assert not found['class_token'] and not found['final_norm']
  params = weights.import_state('detectron2', vitdet_arrays())
  assert params['pos_embed'].shape == (1, 9, 32)
  for name, pooling in (('timm_vit_avg', 'mean'), ('timm_vit_siglip', 'map')):
    found = weights.model_of('timm_vit', drawn(LISTED[name][1]), {'heads': 2})
    assert found['pooling'] == pooling and not found['class_token']
    assert found['final_norm'] == (pooling == 'map')


def test_the_number_of_heads_is_never_guessed_wrongly():
  arrays, _ = golden('timm_vit')
  with pytest.raises(UserError, match='give heads'):
    weights.model_of('timm_vit', arrays)
  with pytest.raises(UserError, match='give heads'):
    weights.model_of('timm_vit', arrays, {'heads': 5})


def test_a_net_without_class_token_gets_one_of_zeros_for_mmseg():
  arrays = drawn(LISTED['timm_vit_avg'][1])
  params = weights.import_state('timm_vit', arrays)
  found = weights.export_state('mmseg', params)
  assert not found['cls_token'].any() and not found['pos_embed'][:, :1].any()
  np.testing.assert_array_equal(found['pos_embed'][:, 1:], arrays['pos_embed'])
  assert weights.dropped('mmseg', params) == (
    'fc_norm/scale', 'fc_norm/bias', 'head/kernel', 'head/bias',
  )  # fmt: skip


def test_vitdet_drops_what_it_does_without():
  params = weights.import_state('mae', mae_arrays())
  assert weights.dropped('detectron2', params) == (
    'cls_token', 'norm/scale', 'norm/bias',
  )  # fmt: skip
  assert_bitwise(weights.export_state('detectron2', params), vitdet_arrays())
