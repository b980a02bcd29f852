"""The mesh, and where each array of a run lies on it. Written once, here."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from m3i_jax.errors import UserError
from m3i_jax.models.layers import BATCH_AXES

SMALLEST = 2**16  # elements of a parameter that is worth splitting


def make_mesh(replica: int, fsdp: int) -> Mesh:
  """All devices as replica x fsdp; one of them may be -1, what is left.

  The batch is split over both axes, the parameters over `fsdp` alone.
  """
  devices = jax.devices()
  sizes = [replica, fsdp]
  if -1 in sizes:
    other = -replica * fsdp  # the axis that is given
    sizes[sizes.index(-1)] = len(devices) // other if other > 0 else 0
  if sizes[0] * sizes[1] != len(devices):
    raise UserError(
      f'config.mesh replica={replica}, fsdp={fsdp} does not make '
      f'{len(devices)} devices: their product must (-1 means the rest)'
    )
  return jax.make_mesh(
    tuple(sizes), BATCH_AXES, axis_types=(AxisType.Auto,) * 2
  )


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Arrays [B, ...]: rows over every device."""
  return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
  """The whole array on every device."""
  return NamedSharding(mesh, PartitionSpec())


def state_shardings(mesh: Mesh, abstract):
  """Fully sharded: each large leaf split along its largest axis that divides.

  Parameters, optimizer state and EMA follow the same rule, so they match.
  """
  size = mesh.shape['fsdp']

  def rule(leaf) -> NamedSharding:
    spec = [None] * len(leaf.shape)
    free = [n for n, d in enumerate(leaf.shape) if d % size == 0]
    if size > 1 and free and np.prod(leaf.shape) >= SMALLEST:
      spec[max(free, key=lambda n: leaf.shape[n])] = 'fsdp'
    return NamedSharding(mesh, PartitionSpec(*spec))

  return jax.tree.map(rule, abstract)


def local_rows(sharding: NamedSharding, batch_size: int) -> np.ndarray:
  """Which rows of the global batch this process feeds, ascending."""
  places = sharding.addressable_devices_indices_map((batch_size,))
  rows = np.arange(batch_size)
  return np.unique(np.concatenate([rows[place] for place in places.values()]))


def put(batch, sharding: NamedSharding, batch_size: int):
  """The global batch from every process's own rows."""
  return jax.tree.map(
    lambda x: jax.make_array_from_process_local_data(
      sharding, x, (batch_size, *x.shape[1:])
    ),
    batch,
  )
