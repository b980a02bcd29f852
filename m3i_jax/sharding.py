"""The mesh of a run, and how arrays of the host come to lie on it."""

import itertools
import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from m3i_jax.errors import UserError
from m3i_jax.models import placement
from m3i_jax.models.placement import AXES, BATCH_AXES


def make_mesh(
  replica: int = 1,
  fsdp: int = -1,
  tensor: int = 1,
  devices: Sequence[jax.Device] | None = None,
) -> Mesh:
  """The devices, all of JAX's if None, as replica x fsdp x tensor.

  One axis may be -1, what is left. The batch is split over the first two, the
  parameters over the last two. Of several TPU slices `replica` takes the
  slices apart, so that only gradients cross the slower network; of several
  hosts with GPUs it does where it can.

  Raises:
    UserError: the axes do not make up the devices; names the nearest that do.
  """
  devices = list(jax.devices() if devices is None else devices)
  shape = sizes(replica, fsdp, tensor, len(devices))
  return Mesh(
    arranged(shape, devices), AXES, axis_types=(AxisType.Auto,) * 3
  )


def arranged(
  shape: tuple[int, int, int], devices: Sequence[jax.Device]
) -> np.ndarray:
  """The devices as such an array; see `make_mesh`."""
  slices = {getattr(d, 'slice_index', 0) or 0 for d in devices}
  # An axis may be part of a side of the slice, such as 2 of 4 x 4 x 4.
  how = dict(devices=devices, allow_split_physical_axes=True)
  replica, *inner = shape
  if replica % len(slices):
    if devices[0].platform != 'tpu':  # of GPUs a slice is a host
      return mesh_utils.create_device_mesh(shape, **how)
    raise UserError(
      f'config.mesh.replica={replica} does not divide into {len(slices)} '
      f'slices: set config.mesh.replica={len(slices)} or a multiple'
    )
  if len(slices) == 1:
    return mesh_utils.create_device_mesh(shape, **how)
  return mesh_utils.create_hybrid_device_mesh(
    (replica // len(slices), *inner), (len(slices), 1, 1), **how
  )


def sizes(
  replica: int, fsdp: int, tensor: int, devices: int
) -> tuple[int, int, int]:
  """The axes of a mesh of so many devices, -1 filled in; see `make_mesh`."""
  asked, count = (replica, fsdp, tensor), devices
  found, known = list(asked), math.prod(n for n in asked if n != -1)
  if asked.count(-1) == 1 and known > 0:
    found[asked.index(-1)] = count // known
  if math.prod(found) == count and min(found) > 0:
    return tuple(found)
  told = ', '.join(f'{a}={n}' for a, n in zip(AXES, asked, strict=True))
  raise UserError(
    f'config.mesh {told} does not make {count} devices: their product must, '
    f'-1 once means the rest; the nearest are {_nearest(asked, count)}'
  )


def _nearest(asked: tuple[int, ...], count: int, most: int = 3) -> str:
  """The meshes of so many devices that differ least in what was asked."""
  divisors = [n for n in range(1, count + 1) if count % n == 0]
  meshes = [
    (a, count // (a * b), b)
    for a, b in itertools.product(divisors, divisors)
    if count % (a * b) == 0
  ]
  distance = lambda mesh: sum(
    abs(math.log(n / max(wanted, 1)))
    for n, wanted in zip(mesh, asked, strict=True)
    if wanted != -1
  )
  meshes = sorted(meshes, key=lambda mesh: (distance(mesh), mesh))[:most]
  return ', '.join(' x '.join(map(str, mesh)) for mesh in meshes)


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Arrays [B, ...]: rows over the batch axes."""
  return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
  """The whole array on every device."""
  return NamedSharding(mesh, PartitionSpec())


def state_shardings(mesh: Mesh, abstract):
  """Fully sharded; parameters, optimizer state and EMA lie alike."""

  def rule(path, leaf) -> NamedSharding:
    names = [str(getattr(k, 'key', getattr(k, 'name', k))) for k in path]
    spec = placement.stored_leaf(names, leaf.shape, mesh.shape)
    return NamedSharding(mesh, spec)

  return jax.tree_util.tree_map_with_path(rule, abstract)


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
