"""z_y = f_phi(y): what is predicted.

`reads` says what of the sample a representation is given: the 'pixels' of the
target view, its 'features' (tokens of the EMA encoder), the 'label' or 'text'.
"""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from m3i_jax import views
from m3i_jax.inputs import neighbour
from m3i_jax.models import layers, text

Array = jax.Array


@flax.struct.dataclass
class Represented:
  """z_y of a batch, and what it could be mistaken for.

  Attributes:
    value: float32 [B, L, D] (dense) or [B, D]; None if `candidates` hold it.
    valid: bool [B], False where the sample has no such target.
    candidates: float32 [M, D], the z'_y of the Boltzmann form; None: the values
      of the batch are each other's candidates.
    index: int32 [B], each sample's own candidate.
    bias: float32 [M], added to the candidates' logits.
  """

  value: Array | None
  valid: Array
  candidates: Array | None = None
  index: Array | None = None
  bias: Array | None = None

  def of(self, component: int) -> 'Represented':
    """Seen from input n: of picture n, or of the second one mixed into it."""
    if component == 0:
      return self
    swap = lambda x: None if x is None else neighbour(x)
    return self.replace(
      value=swap(self.value), valid=swap(self.valid), index=swap(self.index)
    )


class Pixels(nn.Module):
  """The target view's patches, each standardised by itself (MAE, eps 1e-6)."""

  patch: int
  normalize: bool = True
  reads = 'pixels'

  @property
  def width(self) -> int:
    return self.patch**2 * 3

  def __call__(self, image: Array) -> Represented:
    """image float32 [B, S, S, 3], normalised."""
    z = views.patches(image, self.patch)
    z = layers.layer_norm(z, 1e-6) if self.normalize else z
    return Represented(z, jnp.ones(len(z), bool))


class DenseFeature(nn.Module):
  """Patch tokens of the EMA encoder on the clean target view.

  LayerNorm over the channels without affine, eps 1e-5 (SiameseIM).
  """

  width: int
  normalize: bool = True
  reads = 'features'

  def __call__(self, tokens: Array) -> Represented:
    """tokens [B, L, D]."""
    z = tokens.astype(jnp.float32)
    z = layers.layer_norm(z, 1e-5) if self.normalize else z
    return Represented(z, jnp.ones(len(z), bool))


class Category(nn.Module):
  """The class table: "linear classifier weight as category embedding"."""

  classes: int
  width: int
  reads = 'label'

  @nn.compact
  def __call__(self, label: Array) -> Represented:
    """label int32 [B], -1 for none."""
    shape = (self.classes, self.width)
    table = self.param('table', nn.initializers.normal(0.02), shape)
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


REPRESENTATIONS = {
  'pixels': Pixels,
  'dense': DenseFeature,
  'category': Category,
  'text': TextEmbedding,
}
