"""A config's state and step on a mesh: what main runs, bench times, plan fits.

Nothing here touches data or devices: the mesh may be of devices that are
elsewhere, and shapes stand for arrays.
"""

import dataclasses
import functools

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from m3i_jax import build, sharding, step
from m3i_jax.objective import Objective
from m3i_jax.optim import momentum


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
  """One train step, sharded.

  Attributes:
    config: of the run; only its numbers are read here.
    objective: what `build.build` made of it.
    mesh: of `sharding.make_mesh`.
  """

  config: ConfigDict
  objective: Objective
  mesh: Mesh

  def init(self) -> step.TrainState:
    """The state of step 0, a pure function of the config."""
    c = self.config
    batch = step.zero_batch(
      2, c.image_size, self.objective.view_letters, self._length()
    )
    return step.init_state(
      self.objective, self._optimizer(), c.seed, batch, c.guard.spike > 0
    )

  @functools.cache  # noqa: B019, of one program for as long as it lives
  def state(self) -> step.TrainState:
    """The state as jax.ShapeDtypeStruct leaves, with shardings."""
    with jax.set_mesh(self.mesh):
      abstract = jax.eval_shape(self.init)
    places = sharding.state_shardings(self.mesh, abstract)
    return jax.tree.map(_placed, abstract, places)

  def make(self) -> step.TrainState:
    """A fresh state, made where it will lie: no device ever holds all of it."""
    with jax.set_mesh(self.mesh):
      return jax.jit(self.init, out_shardings=places_of(self.state()))()

  def params(self) -> dict:
    """The parameters of step 0 alone, where those of a state lie."""
    places = places_of(self.state().params)
    with jax.set_mesh(self.mesh):
      return jax.jit(lambda: self.init().params, out_shardings=places)()

  def batch(self) -> dict:
    """The global batch as jax.ShapeDtypeStruct leaves, with shardings."""
    c, reads = self.config, self.objective.reading
    example = step.zero_batch(
      1, c.image_size, self.objective.view_letters, self._length()
    )
    if not reads('label'):
      del example['label']
    rows = sharding.batch_sharding(self.mesh)
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(
        (c.batch_size, *x.shape[1:]), x.dtype, sharding=rows
      ),
      example,
    )

  def lower(self) -> jax.stages.Lowered:
    """(state, batch) -> (state, metrics), to be compiled; donates the state."""
    c = self.config
    train_step = step.make_train_step(
      self.objective,
      self._optimizer(),
      momentum(**c.ema, total_steps=c.total_steps),
      c.seed,
      spike=c.guard.spike,
      parts=c.accumulate,
      rate=build.optimizer(c).schedule(c.total_steps),
    )
    state = self.state()
    whole = sharding.replicated(self.mesh)
    with jax.set_mesh(self.mesh):
      return jax.jit(
        train_step,
        donate_argnums=0,
        out_shardings=(places_of(state), whole),
      ).lower(state, self.batch())

  def put(self, batch: dict) -> dict:
    """The global batch on the devices, from every process's own rows."""
    rows = sharding.batch_sharding(self.mesh)
    return sharding.put(batch, rows, self.config.batch_size)

  def rows(self) -> np.ndarray:
    """Which rows of the global batch this process feeds, ascending."""
    return sharding.local_rows(
      sharding.batch_sharding(self.mesh), self.config.batch_size
    )

  def _optimizer(self):
    return build.optimizer(self.config).build(self.config.total_steps)

  def _length(self) -> int:
    """T; 0 without a target that reads texts."""
    texts = self.objective.reading('text')
    return self.config.data.text_length if texts else 0


def places_of(tree):
  """The sharding of each leaf."""
  return jax.tree.map(lambda x: x.sharding, tree)


def _placed(x, sharding) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
