"""Weights of an encoder: in files, and under the names of other projects."""

from m3i_jax.weights.files import describe, load, read, save
from m3i_jax.weights.states import (
  FAMILIES,
  dropped,
  export_state,
  import_state,
  left_out,
  model_of,
  problems,
)  # fmt: skip

__all__ = [
  'FAMILIES', 'describe', 'dropped', 'export_state', 'import_state', 'left_out',
  'load', 'model_of', 'problems', 'read', 'save',
]  # fmt: skip
