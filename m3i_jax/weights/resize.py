"""Learned position tables for pictures of another size."""

import jax
import jax.numpy as jnp
import numpy as np

from m3i_jax.errors import UserError


def grid(table: np.ndarray, prefix: int, where: str = 'pos_embed') -> int:
  """g of a table [1, prefix + g * g, D].

  Raises:
    UserError: the table is of no square grid.
  """
  side = round(max(table.shape[1] - prefix, 0) ** 0.5)
  if not side or side**2 + prefix != table.shape[1]:
    raise UserError(
      f'{where} has {table.shape[1]} rows: {prefix} for the class token and a '
      'square number are wanted'
    )
  return side


def positions(table: np.ndarray, prefix: int, side: int) -> np.ndarray:
  """A table [1, prefix + g * g, D] for a grid of `side`, float32.

  Bicubic, averaging where it shrinks, as timm's `resample_abs_pos_embed`. Rows
  of the class token (the first `prefix`) stay what they are.
  """
  own = grid(table, prefix)
  table = np.asarray(table, np.float32)
  if own == side:
    return table
  width = table.shape[-1]
  cells = jnp.asarray(table[:, prefix:]).reshape(1, own, own, width)
  with jax.default_matmul_precision('highest'):
    cells = jax.image.resize(
      cells, (1, side, side, width), 'cubic', antialias=True
    )
  cells = np.asarray(cells).reshape(1, side * side, width)
  return np.concatenate([table[:, :prefix], cells], axis=1)
