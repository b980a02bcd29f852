"""z_y = f_phi(y): what is predicted.

`reads` says what of the sample a representation is given: the 'pixels' of the
target view, the 'label', the 'text', or the features of the view by a target
encoder: 'ema', the moving average of f_theta; 'shared', f_theta itself, which
the target's gradient then reaches; or 'frozen', a pre-trained teacher. Where
`projected` is true the target encoder ends with the decoder's `project`, as
the online branch does (BYOL's projector).
"""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from m3i_jax import views
from m3i_jax.inputs import neighbour
from m3i_jax.models import layers, placement, text

Array = jax.Array
ENCODERS = ('ema', 'shared', 'frozen')


@flax.struct.dataclass
class Represented:
  """z_y of a batch, and what it could be mistaken for.

  Attributes:
    value: float32 [B, L, D] (dense) or [B, D]; None if `candidates` hold it.
    valid: bool [B], False where the sample has no such target; [B, T] for text.
    candidates: float32 [M, D], the z'_y of the Boltzmann form; None: the values
      of the batch are each other's candidates.
    index: int32 [B], each sample's own candidate; [B, T] for text.
    bias: float32 [M], added to the candidates' logits.
    share: float32 [B, M], instead of `index`: how much each candidate is the
      sample's own.
    choices: M where there are neither values nor candidates.
  """

  value: Array | None
  valid: Array
  candidates: Array | None = None
  index: Array | None = None
  bias: Array | None = None
  share: Array | None = None
  choices: int = flax.struct.field(pytree_node=False, default=0)

  def of(self, component: int) -> 'Represented':
    """Seen from input n: of picture n, or of the second one mixed into it."""
    if component == 0:
      return self
    swap = lambda x: None if x is None else neighbour(x)
    return self.replace(
      value=swap(self.value),
      valid=swap(self.valid),
      index=swap(self.index),
      share=swap(self.share),
    )


class Pixels(nn.Module):
  """The target view's patches, each standardised by itself.

  By the unbiased variance, eps 1e-6 (MAE, He et al. 2022, and its code).
  """

  patch: int
  normalize: bool = True
  reads = 'pixels'
  projected = False

  @property
  def width(self) -> int:
    return self.patch**2 * 3

  def __call__(self, image: Array) -> Represented:
    """image float32 [B, S, S, 3], normalised."""
    z = views.patches(image, self.patch)
    if self.normalize:
      z = z - z.mean(-1, keepdims=True)
      z = z * jax.lax.rsqrt(z.var(-1, keepdims=True, ddof=1) + 1e-6)
    return Represented(z, jnp.ones(len(z), bool))


class DenseFeature(nn.Module):
  """Patch tokens of the target encoder on the clean target view.

  Attributes:
    width: D.
    encoder: one of ENCODERS.
    projected: after the decoder's projector (SiameseIM, DenseCL).
    last: the mean over the encoder's last so many blocks (data2vec).
    normalize: LayerNorm over the channels without affine, eps 1e-5 (SiameseIM).
  """

  width: int
  encoder: str = 'ema'
  projected: bool = False
  last: int = 1
  normalize: bool = True

  @property
  def reads(self) -> str:
    return self.encoder

  def __call__(self, features: Array) -> Represented:
    """features [B, L, D]."""
    z = features.astype(jnp.float32)
    z = layers.layer_norm(z, 1e-5) if self.normalize else z
    return Represented(z, jnp.ones(len(z), bool))


class GlobalFeature(nn.Module):
  """One vector per view: the target encoder's, after the decoder's projector.

  A frozen teacher has no projector: then the mean of its tokens.

  Attributes:
    width, encoder: as of `DenseFeature`.
    normalize: LayerNorm over the channels without affine, eps 1e-5.
  """

  width: int
  encoder: str = 'ema'
  normalize: bool = False
  last = 1

  @property
  def reads(self) -> str:
    return self.encoder

  @property
  def projected(self) -> bool:
    return self.encoder != 'frozen'

  def __call__(self, features: Array) -> Represented:
    """features [B, D], or [B, L, D] of a frozen teacher."""
    z = features.astype(jnp.float32)
    z = z.mean(1) if z.ndim == 3 else z
    z = layers.layer_norm(z, 1e-5) if self.normalize else z
    return Represented(z, jnp.ones(len(z), bool))


class Prototypes(nn.Module):
  """Which rows of a learned table a view belongs to (MSN, Assran et al. 2022).

  The target's cosine to the prototypes, through a sharp softmax, without
  gradient; the table learns from the prediction's side.

  Attributes:
    width: D. encoder: as of `DenseFeature`.
    count: M rows.
    temperature: of the targets: MSN's tau * T = .1 * .25.
  """

  width: int
  encoder: str = 'ema'
  count: int = 1024
  temperature: float = 0.025
  projected = True
  last = 1

  @property
  def reads(self) -> str:
    return self.encoder

  @nn.compact
  def __call__(self, features: Array) -> Represented:
    """features [B, D]."""
    bound = self.width**-0.5
    init = lambda key, shape: jax.random.uniform(
      key, shape, minval=-bound, maxval=bound
    )
    table = self.param('table', init, (self.count, self.width))
    table = placement.gathered(table)
    cosine = jnp.einsum(
      'bd,md->bm',
      layers.unit(features),
      layers.unit(table),
      precision=jax.lax.Precision.HIGHEST,
    )
    share = jax.lax.stop_gradient(jax.nn.softmax(cosine / self.temperature))
    valid = jnp.ones(len(share), bool)
    return Represented(None, valid, table, share=share)


class Category(nn.Module):
  """The class table: "linear classifier weight as category embedding"."""

  classes: int
  width: int
  reads = 'label'
  projected = False

  @nn.compact
  def __call__(self, label: Array) -> Represented:
    """label int32 [B], -1 for none."""
    shape = (self.classes, self.width)
    table = self.param('table', nn.initializers.normal(0.02), shape)
    table = placement.gathered(table)
    bias = self.param('bias', nn.initializers.zeros, (self.classes,))
    index = jnp.maximum(label, 0)
    return Represented(None, label >= 0, table, index, bias)


class TextEmbedding(nn.Module):
  """The text tower's vector; the other texts of the batch are negatives."""

  vocabulary: int
  width: int = 768
  depth: int = 12
  heads: int = 12
  hidden: int = 3072
  positions: int = 512
  pool: str = 'cls'
  unroll: int = 1
  remat: str = 'none'
  dtype: Any = jnp.float32
  reads = 'text'
  projected = False
  tells = False

  @nn.compact
  def __call__(self, tokens: Array) -> Represented:
    """tokens int32 [B, T], 0 for padding; all 0 for none."""
    tower = text.TextTower(
      self.vocabulary,
      self.width,
      self.depth,
      self.heads,
      self.hidden,
      self.positions,
      self.pool,
      self.unroll,
      self.remat,
      self.dtype,
      name='tower',
    )
    return Represented(tower(tokens), (tokens > 0).any(-1))


class TextTokens(nn.Module):
  """The pieces of a text, each predicted from the picture and earlier ones.

  The first piece only starts the text; padding is not asked for.
  """

  vocabulary: int
  reads = 'text'
  projected = False
  tells = True  # the decoder sees the earlier pieces

  @property
  def width(self) -> int:
    return self.vocabulary

  def __call__(self, tokens: Array) -> Represented:
    """tokens int32 [B, T] -> T - 1 pieces."""
    index = tokens[:, 1:]
    return Represented(None, index > 0, index=index, choices=self.vocabulary)


REPRESENTATIONS = {
  'pixels': Pixels,
  'dense': DenseFeature,
  'global': GlobalFeature,
  'prototypes': Prototypes,
  'category': Category,
  'text': TextEmbedding,
  'tokens': TextTokens,
}
