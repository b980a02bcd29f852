"""A masked auto-encoder as a config is that of transformers, weight by weight.

The golden arrays are float64, the package's float32: see VALUE and LARGEST.
"""

import functools
import pathlib

import jax
import numpy as np
import pytest

from m3i_jax import build, config
from m3i_jax.inputs import Mixed
from m3i_jax.objective import Sample
from m3i_jax.views import View

VALUE = 1e-6  # of the loss, relative
LARGEST = 3e-6  # of an array's largest entry: predictions, gradients
GRID, PATCH, WIDTH, DECODER = 5, 4, 24, 32
# MAE's position codes have the columns first, the package's the rows. So the
# halves of the decoder's channels change places, in all that writes or reads
# them.
EVERY = np.arange(WIDTH)
SWAPPED = np.roll(np.arange(DECODER), DECODER // 2)


@pytest.fixture(scope='module')
def golden():
  with np.load(pathlib.Path(__file__).parent / 'golden/mae.npz') as file:
    return dict(file)


@pytest.fixture(scope='module')
def objective():
  c = config.default()
  c.image_size = GRID * PATCH
  c.input.update(mask=0.75, pattern='random')
  c.model.update(
    variant='', width=WIDTH, depth=2, heads=3, hidden=40, patch=PATCH,
    positions='learned', final_norm=True, dtype='float32',
  )  # fmt: skip
  c.decoders.dense = dict(
    kind='dense', width=DECODER, depth=2, heads=4, hidden=56,
    class_token=True, final_norm=True,
  )  # fmt: skip
  c.targets.mae = dict(
    of='a', cells='hidden', representation='pixels', decoder='dense',
    distribution='gaussian',
  )  # fmt: skip
  return build.build(c)


@pytest.fixture(scope='module')
def sample(golden):
  """The whole picture is the view; its cells in the order of the noise."""
  batch = len(golden['input'])
  box = np.tile(np.float32([0, 0, 1, 1]), (batch, 1))
  view = View(golden['input'], box, np.zeros(batch, bool))
  mixed = Mixed(golden['input'], golden['ids_keep'], ~golden['mask'])
  return Sample({'a': view}, mixed, {'pixels': {'a': golden['input']}})


def linear(file, name, reads=slice(None), writes=slice(None)):
  kernel = file[f'weights/{name}.weight'].T
  bias = file[f'weights/{name}.bias']
  return {'kernel': kernel[reads][:, writes], 'bias': bias[writes]}


def norm(file, name, order):
  names = {'scale': 'weight', 'bias': 'bias'}
  return {k: file[f'weights/{name}.{v}'][order] for k, v in names.items()}


def blocks(file, name, order):
  """Two layers whose stream has its channels in this order, stacked."""
  found = []
  for n in (0, 1):
    part = lambda end, n=n: f'{name}.{n}.{end}'
    q, k, v = (
      linear(file, part(f'attention.{letter}_proj'), order) for letter in 'qkv'
    )
    join = lambda *x: np.concatenate(x, axis=-1)
    attn = {
      'qkv': jax.tree.map(join, q, k, v),
      'proj': linear(file, part('attention.o_proj'), writes=order),
    }
    mlp = {
      'fc1': linear(file, part('mlp.fc1'), order),
      'fc2': linear(file, part('mlp.fc2'), writes=order),
    }
    norm1 = norm(file, part('layernorm_before'), order)
    norm2 = norm(file, part('layernorm_after'), order)
    found.append(dict(norm1=norm1, attn=attn, norm2=norm2, mlp=mlp))
  return {'layers': jax.tree.map(lambda *x: np.stack(x), *found)}


@pytest.fixture(scope='module')
def params(golden):
  """Names and layouts of transformers -> the objective's tree."""
  get = lambda name: golden[f'weights/{name}']
  patch = 'vit.embeddings.patch_embeddings.projection'
  convolution = {
    'kernel': get(f'{patch}.weight').transpose(2, 3, 1, 0),
    'bias': get(f'{patch}.bias'),
  }
  encoder = {
    'patch_embed': {'proj': convolution},
    'pos_embed': get('vit.embeddings.position_embeddings'),
    'cls_token': get('vit.embeddings.cls_token'),
    'blocks': blocks(golden, 'vit.layers', EVERY),
    'norm': norm(golden, 'vit.layernorm', EVERY),
  }
  decoder = {
    'embed': linear(golden, 'decoder.decoder_embed', writes=SWAPPED),
    'mask_token': get('decoder.mask_token')[..., SWAPPED],
    # No offset and no zoom: the code of a query is the static table's row, and
    # the sines and cosines of the zoom.
    'position_kernel': np.eye(2 * DECODER, DECODER, dtype=np.float32),
    'position_bias': np.zeros(DECODER, np.float32),
    'blocks': blocks(golden, 'decoder.decoder_layers', SWAPPED),
    'last_norm': norm(golden, 'decoder.decoder_norm', SWAPPED),
    'head': linear(golden, 'decoder.decoder_pred', SWAPPED),
  }
  return {'encoder': encoder, 'decoders_dense': decoder}


@pytest.fixture(scope='module')
def found(objective, params, sample):
  """((loss, reconstruction), gradient)."""

  def loss(params):
    apply = functools.partial(objective.apply, {'params': params})
    z_x = apply(sample, False, method='encode')
    predictions = apply(z_x, sample, 'ssp', method='predict')
    value, _ = apply(z_x, sample, 'ssp', method='group_loss')
    return value, predictions['mae'][0]

  return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)


def same(got, wanted):
  assert np.shape(got) == np.shape(wanted)
  atol = LARGEST * np.abs(wanted).max()
  np.testing.assert_allclose(got, wanted, rtol=0, atol=atol)


def test_loss_and_reconstruction(golden, found):
  (loss, reconstruction), _ = found
  np.testing.assert_allclose(loss, golden['loss'], rtol=VALUE)
  for n, hidden in enumerate(golden['mask']):
    same(reconstruction[n], golden['logits'][n][hidden])


def test_gradients(golden, found):
  """To early and late weights of the encoder and the decoder."""
  get = lambda name: golden[f'gradients/{name}.weight']
  _, gradient = found
  encoder, decoder = gradient['encoder'], gradient['decoders_dense']
  same(
    encoder['patch_embed']['proj']['kernel'],
    get('vit.embeddings.patch_embeddings.projection').transpose(2, 3, 1, 0),
  )
  qkv = encoder['blocks']['layers']['attn']['qkv']['kernel'][0]
  same(qkv[:, WIDTH : 2 * WIDTH], get('vit.layers.0.attention.k_proj').T)
  same(decoder['embed']['kernel'], get('decoder.decoder_embed').T[:, SWAPPED])
  fc1 = decoder['blocks']['layers']['mlp']['fc1']['kernel'][1]
  same(fc1, get('decoder.decoder_layers.1.mlp.fc1').T[SWAPPED])
