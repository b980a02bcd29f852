"""X and t_x: a view as it is, masked, or two pictures mixed patch by patch.

Section 3.4: I_mix = m * x_i + (1 - m) * x_j with m constant on p x p pixels.
Here every cell of the patch grid has one owner, or is hidden. The encoder sees
the cells in the order of their owners, so un-mixing is a slice: no gather has a
gradient.
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from m3i_jax import views
from m3i_jax.errors import UserError
from m3i_jax.models import placement

PATTERNS = ('block', 'random')


@flax.struct.dataclass
class Mixed:
  """What the encoder is given, and who owns which token.

  Attributes:
    image: float32 [B, S, S, 3], normalised; hidden cells hold what they held.
    cells: int32 [B, L], cells by owner: first image's, second's, hidden; None
      if there is neither mask nor mix (then tokens are cells).
    mask: bool [B, L], True where the first image is visible.
  """

  image: jax.Array
  cells: jax.Array | None
  mask: jax.Array


@dataclasses.dataclass(frozen=True)
class Input:
  """How X is made from view `view` of the batch.

  Attributes:
    view: the letter of the view; its frame is the origin of all positions.
    images: 1, or 2: picture n is mixed with its neighbour n XOR 1, so that the
      pair never leaves its shard. Both roles are used: picture n is the first
      image of input n and the second image of input n XOR 1.
    mask: share of each image's cells that it does not own, exact; 0.5 if
      two images are mixed (what one loses the other owns).
    pattern: 'block' (BEiT's generator, Bao et al. 2022) or 'random'.
    hidden: 'drop' the cells that nobody owns, or 'fill' them with the mean
      colour for encoders that need the whole grid.
  """

  view: str = 'a'
  images: int = 1
  mask: float = 0.0
  pattern: str = 'block'
  hidden: str = 'drop'

  def __post_init__(self):
    if self.images == 2 and self.mask != 0.5:
      raise UserError(
        f'config.input.mask={self.mask}: two mixed images own half the cells '
        'each; set config.input.mask=0.5 or config.input.images=1'
      )
    if self.images not in (1, 2) or not 0 <= self.mask < 1:
      raise UserError(
        f'config.input: images={self.images}, mask={self.mask}; images must be '
        '1 or 2, and mask at least 0 and less than 1'
      )
    if self.pattern not in PATTERNS or self.hidden not in ('drop', 'fill'):
      raise UserError(
        f'config.input: pattern={self.pattern!r}, hidden={self.hidden!r}; '
        "choose pattern 'block' or 'random', hidden 'drop' or 'fill'"
      )

  def owned(self, cells: int) -> int:
    """K: how many of L cells each image owns."""
    if self.images == 2 and cells % 2:
      raise UserError(
        f'config.input.images=2 needs an even number of patches, not {cells}; '
        'choose another image size or patch size'
      )
    owned = cells - round(self.mask * cells)
    if not owned:
      raise UserError(
        f'config.input.mask={self.mask} hides all of {cells} patches: lower it'
      )
    if self.mask and owned == cells:
      raise UserError(
        f'config.input.mask={self.mask} hides none of {cells} patches: raise '
        'it, or set it to 0'
      )
    return owned

  def slice(self, component: int, cells: int) -> slice:
    """The tokens of image 0 or 1 in the encoder's output."""
    owned = self.owned(cells)
    return slice(component * owned, (component + 1) * owned)

  def sample(self, image: jax.Array, patch: int, key: jax.Array) -> Mixed:
    """Draw masks and make X.

    Args:
      image: float32 [B, S, S, 3] normalised, B even if two are mixed.
      patch: p, side of a cell in pixels.
      key: of this step; sample n uses fold_in(key, n).
    """
    b, side, _, _ = image.shape
    grid = side // patch
    if not self.mask:
      return Mixed(image, None, jnp.ones((b, grid**2), bool))
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, np.arange(b))
    # Else all devices would agree on the end of each loop of the masks.
    masks = placement.on_own_rows(jax.vmap(lambda k: self._mask(k, grid)), b)
    mask = masks(keys)
    # Stable, so that cells stay in raster order within an owner.
    order = jnp.argsort(~mask, axis=-1, stable=True).astype(jnp.int32)
    spread = views.unpatches(
      jnp.repeat(mask[..., None], patch**2, axis=-1), patch
    )
    if self.images == 2:
      image = jnp.where(spread, image, neighbour(image))
    elif self.hidden == 'fill':
      image = jnp.where(spread, image, 0.0)
    else:
      order = order[:, : self.owned(grid**2)]
    return Mixed(image, order, mask)

  def _mask(self, key: jax.Array, grid: int) -> jax.Array:
    """bool [L], True where the (first) image is visible."""
    k_mask, k_swap = jax.random.split(key)
    hidden = grid**2 - self.owned(grid**2)
    if self.pattern == 'block':
      mask = block_mask(k_mask, grid, hidden)
    else:
      mask = random_mask(k_mask, grid, hidden)
    if self.images == 1:
      return ~mask
    # Blocks gather in the centre: without the swap one role would always own
    # the object and the other the border.
    return mask ^ jax.random.bernoulli(k_swap)


def neighbour(x: jax.Array) -> jax.Array:
  """Row n XOR 1 of an array [B, ...], B even: the other image of a mix."""
  pairs = x.reshape(x.shape[0] // 2, 2, *x.shape[1:])
  return pairs[:, ::-1].reshape(x.shape)


def random_mask(key: jax.Array, grid: int, count: int) -> jax.Array:
  """bool [L] with exactly `count` True cells, uniformly (MAE)."""
  return _top(jax.random.uniform(key, (grid**2,)), count)


def block_mask(key: jax.Array, grid: int, count: int) -> jax.Array:
  """bool [L] with exactly `count` True cells in blocks: BEiT's generator.

  Rectangles of area uniform in [min block, cells still to cover] and
  log-uniform aspect 0.3..1/0.3 are laid at random; one that covers no new cell
  or too many is drawn again, up to ten times in a row. What is then missing is
  filled with random cells, as in SiameseIM. The smallest block is BEiT's 16 of
  196 cells, scaled to the grid.
  """
  smallest = max(1, round(16 * grid**2 / 196))
  index = np.arange(grid)

  def draw(state):
    mask, failures, key = state
    key, k_area, k_aspect, k_top, k_left = jax.random.split(key, 5)
    missing = count - mask.sum()
    area = smallest + jax.random.uniform(k_area) * (missing - smallest)
    span = np.log(1 / 0.3)
    aspect = jnp.exp(jax.random.uniform(k_aspect, minval=-span, maxval=span))
    height = jnp.round(jnp.sqrt(area * aspect)).astype(int)
    width = jnp.round(jnp.sqrt(area / aspect)).astype(int)
    fits = (height < grid) & (width < grid)
    top = jax.random.randint(k_top, (), 0, jnp.maximum(grid - height, 0) + 1)
    left = jax.random.randint(k_left, (), 0, jnp.maximum(grid - width, 0) + 1)
    rows = (index >= top) & (index < top + height)
    columns = (index >= left) & (index < left + width)
    block = rows[:, None] & columns
    new = (block & ~mask).sum()
    accept = fits & (new > 0) & (new <= missing)
    mask = jnp.where(accept, mask | block, mask)
    return mask, jnp.where(accept, 0, failures + 1), key

  def unfinished(state):
    mask, failures, _ = state
    return (mask.sum() < count) & (failures < 10)

  k_draw, k_fill = jax.random.split(key)
  start = (jnp.zeros((grid, grid), bool), jnp.zeros((), int), k_draw)
  mask, _, _ = jax.lax.while_loop(unfinished, draw, start)
  noise = jax.random.uniform(k_fill, (grid**2,))
  return _top(mask.reshape(-1) + noise, count)


def _top(score: jax.Array, count: int) -> jax.Array:
  """True at the `count` largest scores."""
  rank = jnp.argsort(jnp.argsort(-score))
  return rank < count
