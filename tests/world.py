"""An objective with parameters and a batch, for the tests of the objective."""

import flax.linen as nn
import jax
import numpy as np

from m3i_jax.gradient import Teachers
from m3i_jax.optim import Optimizer
from m3i_jax.step import init_state
from tests import small

KEY = jax.random.key(3)
PARTNER = np.arange(8) ^ 1
# Both views by both images, beside the four targets of the paper.
BOTH = {
  name: row | dict(components=(0, 1)) for name, row in small.M3I.items()
}
ONE = {name: row | dict(components=(0,)) for name, row in small.M3I.items()}
PIXELS = dict(representation='pixels', decoder='dense', distribution='gaussian')
TABLES = {
  'm3i': (small.M3I, {}),
  'both': (BOTH, dict(pattern='random')),
  'no_mix': (ONE, dict(images=1)),
  'pixels': (
    dict(inter=PIXELS | dict(of='b'), intra=PIXELS | dict(of='a')),
    dict(images=1, mask=0.75),
  ),
}


class World:
  """One objective with parameters and a batch, everything jitted once."""

  def __init__(self, table: str, encoder: nn.Module | None = None):
    targets, input_ = TABLES[table]
    self.config = small.small_config(targets, **input_)
    self.objective = small.small_objective(self.config)
    if encoder:
      self.objective = self.objective.clone(encoder=encoder)
    self.batch = small.draw_batch()
    init = lambda: init_state(
      self.objective, Optimizer().build(10), 0, self.batch
    )
    state = jax.jit(init)()
    self.params = small.perturbed(state.params)
    self.ema = small.perturbed(state.ema, seed=1)
    self.apply = self.objective.apply
    self.sample = jax.jit(self._sample)
    self.losses = jax.jit(self._losses)
    self.predict = jax.jit(self._predict)

  def _sample(self, batch, ema):
    """As `loss_and_gradient` draws it from KEY."""
    features = Teachers(ema, {}).features(self.objective)
    return self.objective.sample(batch, features, jax.random.split(KEY)[0])

  def _losses(self, params, sample):
    variables = {'params': params}
    z_x = self.apply(variables, sample, False, method='encode')
    return {
      group: self.apply(variables, z_x, sample, group, method='group_loss')
      for group in self.objective.groups
    }

  def _predict(self, params, sample):
    variables = {'params': params}
    z_x = self.apply(variables, sample, False, method='encode')
    predictions = {}
    for group in self.objective.groups:
      predictions |= self.apply(
        variables, z_x, sample, group, method='predict'
      )
    return predictions


def with_other(batch, letter, key, picture):
  """The batch with one field of one picture's view replaced."""
  view = dict(batch[letter])
  value = np.array(view[key])
  value[picture] = {
    'image': lambda x: 255 - x,
    'box': lambda x: x * np.float32([1, 1, 0.5, 0.5]),
    'flip': lambda x: ~x,
  }[key](value[picture])
  return batch | {letter: view | {key: value}}


def changes(world, batch):
  """{target: {component: bool [B]}}, which predictions another batch moves."""
  old, new = (
    world.predict(world.params, world.sample(b, world.ema))
    for b in (world.batch, batch)
  )
  differ = lambda x, y: np.array(
    [np.abs(x[n] - y[n]).max() > 1e-4 for n in range(len(x))]
  )
  return jax.tree.map(differ, old, new)
