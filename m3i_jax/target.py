"""One row of the table: - log P( z_y | zhat_y ), the term of one target."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from m3i_jax import monitors
from m3i_jax.representations import Represented

Array = jax.Array


class Target(nn.Module):
  """One row of the table: what is predicted, for whom, and how it is scored.

  Attributes:
    of: y: the view 'a' or 'b', the 'label' or the 'text'. A target of the
      input's own view is intra-view, of the other view inter-view.
    representation: f_phi, a module of `representations`.
    decoder: name in `Objective.decoders`; targets may share one.
    distribution: P, a module of `distributions`.
    regularizer: see `regularizers`.
    components: which images of the input predict theirs: (0,), (1,), (0, 1).
    cells: dense targets: 'all' cells of the target view, or the 'hidden' ones
      that the predicting image does not own (for targets of the input view).
    predictor: a module between decoder and distribution, or None.
    weight: of the target's term.
    watched: measure how the targets spread (`monitors`).
  """

  of: str
  representation: nn.Module
  decoder: str
  distribution: nn.Module
  regularizer: object
  components: tuple[int, ...] = (0,)
  cells: str = 'all'
  predictor: nn.Module | None = None
  weight: float = 1.0
  watched: bool = True

  @property
  def group(self) -> str:
    """Its side of eq. 13: L_SSP predicts views, L_SP category and text."""
    return 'ssp' if self.of in ('a', 'b') else 'sp'

  def encode(self, y) -> Represented:
    """z_y = f_phi(y)."""
    return self.representation(y)

  def head(self, decoded: Array) -> Array:
    """zhat_y from the decoder's output."""
    return decoded if self.predictor is None else self.predictor(decoded)

  def logits(self, z: Represented, prediction: Array) -> Array:
    """Of a Boltzmann target, for every candidate: float32 [B, M]."""
    return self.distribution.logits(z, prediction)

  def spread(self, z: Represented) -> dict[str, Array]:
    """How the targets of the batch spread; of prototypes, their shares."""
    value = z.value if z.share is None else z.share
    if not self.watched or value is None:
      return {}
    return monitors.spread(value, z.valid)

  def __call__(self, z: Represented, prediction: Array):
    """- log P(z | prediction), mean over what is valid; and measurements."""
    agreed = {}
    if self.watched and z.value is not None:
      agreed['agreement'] = monitors.agreement(z.value, z.valid, prediction)
    z, penalty = self.regularizer(z, prediction, self.distribution)
    nll, measured = self.distribution(z, prediction)
    valid = z.valid.astype(jnp.float32)
    loss = (nll * valid).sum() / jnp.maximum(valid.sum(), 1.0)
    floor = jax.lax.stop_gradient(self.distribution.floor(z))
    measured |= {'loss': loss, 'floor': floor} | agreed
    if penalty is None:
      return loss, measured
    return loss + penalty, measured | {'penalty': penalty}
