"""The optimizer and the schedules of Table 7."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from m3i_jax.errors import UserError
from m3i_jax.layerwise import PLAIN, scale_by_layer, scale_by_trust_ratio

Schedule = Callable[[jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Optimizer:
  """AdamW or LARS with linear warm-up from 0 and decay to 0, per step.

  Attributes:
    learning_rate: the peak.
    warmup: share of all steps.
    b1, b2, eps: of AdamW.
    clip: largest global norm of the gradient; 0 for no limit.
    freeze: prefixes of parameter paths that are not trained, such as
      'encoder/patch_embed' (MoCo v3, SiameseIM).
    kind: 'adamw', or 'lars' (MoCo v3's and MAE's linear evaluation).
    decay: 'cosine' or 'linear', of the learning rate after the warm-up.
    momentum, trust: of LARS.
    layer_decay: the learning rate of a block over that of the next one; 1 for
      one rate.
  """

  learning_rate: float = 1e-3
  warmup: float = 0.025
  b1: float = 0.9
  b2: float = 0.95
  eps: float = 1e-8
  weight_decay: float = 0.1
  clip: float = 1.0
  freeze: tuple[str, ...] = ()
  kind: str = 'adamw'
  decay: str = 'cosine'
  momentum: float = 0.9
  trust: float = 1e-3
  layer_decay: float = 1.0

  def schedule(self, total_steps: int) -> Schedule:
    """Step -> learning rate."""
    warmup = round(self.warmup * total_steps)
    if self.decay == 'linear':
      rise = optax.linear_schedule(0.0, self.learning_rate, warmup)
      fall = optax.linear_schedule(
        self.learning_rate, 0.0, total_steps - warmup
      )
      return optax.join_schedules([rise, fall], [warmup])
    return optax.warmup_cosine_decay_schedule(
      0.0, self.learning_rate, warmup_steps=warmup, decay_steps=total_steps
    )

  def build(self, total_steps: int) -> optax.GradientTransformation:
    """The transformation of gradients into updates."""
    decay = optax.add_decayed_weights(self.weight_decay, decayed)
    if self.kind == 'lars':
      direction = [
        decay, scale_by_trust_ratio(self.trust), optax.trace(self.momentum)
      ]
    else:
      direction = [optax.scale_by_adam(self.b1, self.b2, self.eps), decay]
    rate = optax.scale_by_learning_rate(self.schedule(total_steps))
    if self.layer_decay != 1:
      rate = optax.chain(scale_by_layer(self.layer_decay), rate)
    return optax.chain(
      _freeze(self.freeze),
      optax.clip_by_global_norm(self.clip) if self.clip else optax.identity(),
      *direction,
      rate,
      _freeze(self.freeze),
    )


def decayed(params) -> dict:
  """Which parameters decay: all but biases, norms, scales and scalars.

  By name, since stacked layers add an axis to every parameter.
  """

  def rule(path, _):
    return path[-1].key not in PLAIN

  return jax.tree_util.tree_map_with_path(rule, params)


def momentum(start: float, end: float, total_steps: int) -> Schedule:
  """Cosine schedule of the EMA's momentum, from `start` to `end` (Table 7)."""

  def mu(step):
    progress = jnp.clip(step / total_steps, 0.0, 1.0)
    return end - (end - start) * (1 + jnp.cos(np.pi * progress)) / 2

  return mu


def _freeze(prefixes: tuple[str, ...]) -> optax.GradientTransformation:
  if not prefixes:
    return optax.identity()

  def frozen(tree):
    names = jax.tree_util.tree_map_with_path(
      lambda path, _: '/'.join(str(k.key) for k in path), tree
    )
    for prefix in prefixes:
      if not any(x.startswith(prefix) for x in jax.tree.leaves(names)):
        raise UserError(
          f'config.optimizer.freeze: no parameter begins with {prefix!r}; '
          f'they begin with {", ".join(tree)}'
        )
    return jax.tree.map(lambda name: name.startswith(prefixes), names)

  return optax.masked(optax.set_to_zero(), frozen)
