"""f_psi(z_x, t_x, t_y): from the input's tokens to a prediction of the target.

"We adopt Transformer layers to predict the dense representations for image
targets, and an attention pooling layer followed by a linear projection to
predict the category embedding or text embedding" (section 3.4).

A decoder is called with the features of the image asked, own = {'tokens',
'cls'}, and with t_y. A projected target encoder ends with its `project`.
"""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from m3i_jax import positions
from m3i_jax.captions import CaptionDecoder
from m3i_jax.models import layers, placement, transformer
from m3i_jax.models.pooling import AttentionPool
from m3i_jax.views import View

Array = jax.Array


@flax.struct.dataclass
class Frame:
  """t_x and t_y: which cells the tokens are, and which are asked for where.

  Attributes:
    grid: g.
    cells: int32 [B, K], the cells of the tokens in the input view; None: all.
    queries: int32 [B, Q], the cells of the target view asked for; None: all.
    input_box, input_flip, target_box, target_flip: of the views ([B, 4], [B]);
      see `positions.relative_sincos`.
  """

  grid: int = flax.struct.field(pytree_node=False)
  cells: Array | None
  queries: Array | None
  input_box: Array
  input_flip: Array
  target_box: Array
  target_flip: Array

  @classmethod
  def between(cls, grid, x: View, y: View, cells, queries) -> 'Frame':
    """The frame of target view y seen from input view x."""
    return cls(grid, cells, queries, x.box, x.flip, y.box, y.flip)


class DenseDecoder(nn.Module):
  """Mask queries among the input's tokens, through transformer layers.

  Each query is the mask token plus a learned map of its position in the input
  view's frame.

  Attributes:
    out: width of the prediction.
    width, depth, heads, hidden: of the layers; Table 7 has 768, 4, 16, 3072.
    projector: layers before the queries come in, which the target encoder may
      have, too (SiameseIM has 2, M3I none).
    norm: of all layers, a key of `layers.NORMS` (SiameseIM: 'batch').
    class_token: the encoder's class token is among the tokens (MAE,
      SiameseIM), unless the input is mixed.
    final_norm: LayerNorm before the last linear map (MAE).
  """

  out: int
  width: int = 768
  depth: int = 4
  heads: int = 16
  hidden: int = 3072
  projector: int = 0
  norm: str = 'layer'
  class_token: bool = False
  final_norm: bool = False
  unroll: int = 1
  remat: str = 'none'
  dtype: Any = jnp.float32

  def setup(self):
    self.embed = layers.Dense(self.width, self.dtype)
    blocks = lambda depth: transformer.Blocks(
      depth,
      self.heads,
      self.hidden,
      unroll=self.unroll,
      remat=self.remat,
      dtype=self.dtype,
      norm=self.norm,
    )
    if self.projector:
      self.projector_blocks = blocks(self.projector)
    self.blocks = blocks(self.depth)
    if self.final_norm:
      self.last_norm = layers.LayerNorm(dtype=self.dtype)
    self.head = layers.Dense(self.out, self.dtype)
    shape = (2 * self.width, self.width)
    init = nn.initializers.xavier_uniform()
    self.position_kernel = self.param('position_kernel', init, shape)
    self.position_bias = self.param(
      'position_bias', nn.initializers.zeros, (self.width,)
    )
    self.mask_token = self.param(
      'mask_token', nn.initializers.normal(0.02), (1, 1, self.width)
    )

  def __call__(self, own: dict, frame: Frame) -> Array:
    """own {'tokens' [B, K, D], 'cls' [B, D]} -> float32 [B, Q, out]."""
    dtype = layers.stream(self.dtype)
    x = self._projected(own)
    place = positions.grid_sincos(frame.grid, self.width).astype(dtype)
    place = place if frame.cells is None else place[frame.cells]
    # The class token is nowhere.
    extra = x.shape[1] - place.shape[-2]
    x = x + jnp.pad(place, [(0, 0)] * (place.ndim - 2) + [(extra, 0), (0, 0)])
    queries = self._queries(frame)
    x = self.blocks(jnp.concatenate([x, queries.astype(dtype)], axis=1))
    x = x[:, -queries.shape[1] :]
    if self.final_norm:
      x = self.last_norm(x)
    return self.head(x).astype(jnp.float32)

  def project(self, own: dict) -> Array:
    """The part that a projected target encoder has, too: [B, K, width]."""
    count = own['tokens'].shape[1]
    return self._projected(own)[:, -count:]

  def _projected(self, own: dict) -> Array:
    tokens = own['tokens']
    if self.class_token and 'cls' in own:
      tokens = jnp.concatenate([own['cls'][:, None], tokens], axis=1)
    x = self.embed(tokens)
    return self.projector_blocks(x) if self.projector else x

  def _queries(self, frame: Frame) -> Array:
    """[B, Q, width]: the mask token and Linear(position code)."""
    rows, columns, scale = positions.relative_sincos_parts(
      frame.input_box,
      frame.input_flip,
      frame.target_box,
      frame.target_flip,
      grid=frame.grid,
      width=self.width,
    )
    # The map of the code is the sum of the maps of its parts: g, not g * g.
    kernel = placement.gathered(self.position_kernel)
    half = self.width // 2
    code = (rows @ kernel[:half])[:, :, None]
    code = code + (columns @ kernel[half : 2 * half])[:, None]
    shift = scale @ kernel[2 * half :] + self.position_bias
    code = code + shift[:, None, None]
    code = code.reshape(code.shape[0], frame.grid**2, self.width)
    if frame.queries is not None:
      # One-hot product: its gradient is a product, too, not a scatter.
      pick = jax.nn.one_hot(frame.queries, frame.grid**2, dtype=code.dtype)
      code = jnp.einsum(
        'bql,bld->bqd', pick, code, precision=jax.lax.Precision.HIGHEST
      )
    return code + self.mask_token


class Mlp(nn.Module):
  """Linear layers on the pooled features, or on every token by itself.

  The projectors of BYOL, MoCo v3, Barlow Twins, DINO and MSN; with one layer on
  the tokens, the linear head of feature distillation.

  Attributes:
    out: width of the prediction.
    pool: 'mean' of the tokens, 'cls', or 'none': the tokens are the cells asked
      for, so there is neither mask nor mix, and the target is the input's view.
    hidden, norm, last_norm, bias, activation, cosine: see `layers.Projection`.
  """

  out: int
  pool: str = 'mean'
  hidden: tuple[int, ...] = ()
  norm: str = 'none'
  last_norm: bool = False
  activation: str = 'gelu'
  cosine: int = 0
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, own: dict, frame: Frame | None = None) -> Array:
    """own {'tokens' [B, K, D], 'cls' [B, D]} -> float32 [B, (K,) out]."""
    del frame
    x = own['cls'] if self.pool == 'cls' else own['tokens']
    if self.pool == 'mean':
      x = x.astype(jnp.float32).mean(1)
    return layers.Projection(
      self.out,
      self.hidden,
      self.norm,
      self.last_norm,
      self.activation,
      self.cosine,
      self.dtype,
      name='layers',
    )(x)

  def project(self, own: dict) -> Array:
    """All of it."""
    return self(own)


DECODERS = {
  'dense': DenseDecoder,
  'pool': AttentionPool,
  'mlp': Mlp,
  'caption': CaptionDecoder,
}
