"""Where arrays lie on the mesh. Written once, for networks and for the run.

The mesh has three axes: 'replica' holds copies of the parameters, 'fsdp' parts
of them, and both split the batch; 'tensor' splits the width of layers. Outside
a mesh (a notebook, one device) everything here does nothing.

A parameter is stored in parts and gathered where it is used, in the dtype of
the product, once in each direction; its gradient is scattered as it is made
(ZeRO-3, Rajbhandari et al., 2020). With 'tensor', a layer whose name is in
SPLIT keeps its part of the columns or of the rows (Shoeybi et al., 2019).
"""

import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
from jax.sharding import AxisType, PartitionSpec

Array = jax.Array
AXES = ('replica', 'fsdp', 'tensor')
BATCH_AXES = AXES[:2]
SMALLEST = 2**14  # elements of a parameter that is worth splitting
STACKS = ('layers', 'blocks')  # scanned: their first axis is the depth
# Which axis of a kernel 'tensor' splits: columns feed rows, heads stay whole.
COLUMNS, ROWS = -1, -2
SPLIT = {
  'fc1': COLUMNS, 'q': COLUMNS, 'k': COLUMNS, 'v': COLUMNS,
  'input_proj': COLUMNS, 'offset': COLUMNS, 'mask': COLUMNS,
  'fc2': ROWS, 'proj': ROWS, 'output_proj': ROWS,
}  # fmt: skip


def sizes() -> dict[str, int]:
  """Devices along each axis of the mesh that is set; {} without one."""
  mesh = jax.sharding.get_abstract_mesh()
  if not set(AXES) <= set(mesh.axis_names):
    return {}
  if any(kind != AxisType.Auto for kind in mesh.axis_types):
    return {}  # inside a shard_map
  return {axis: mesh.shape[axis] for axis in AXES}


def platform() -> str:
  """That the program is traced for: of the mesh, else JAX's default."""
  device = jax.sharding.get_abstract_mesh().abstract_device
  return getattr(device, 'platform', None) or jax.default_backend()


def batch_sharded(x: Array, axis: int = 0) -> Array:
  """Pin the batch axis of an activation, the first, to the mesh's.

  Left alone, the compiler may shard activations like the parameters.
  """
  return _pinned(x, PartitionSpec(*[None] * axis, BATCH_AXES))


def replicated(x: Array) -> Array:
  """Gather an array onto every device, once."""
  return _pinned(x, PartitionSpec())


def _pinned(x: Array, spec: PartitionSpec) -> Array:
  return jax.lax.with_sharding_constraint(x, spec) if sizes() else x


def stored(
  shape: Sequence[int], split: int | None, mesh: Mapping[str, int]
) -> PartitionSpec:
  """How a parameter of this shape lies: one layer's, if layers are stacked.

  Args:
    split: the axis for 'tensor', None for whichever fits.
    mesh: devices along each axis.
  """
  fsdp, tensor = mesh['fsdp'], mesh['tensor']
  spec: list = [None] * len(shape)
  if np.prod(shape) < SMALLEST:
    return PartitionSpec(*spec)
  axes = sorted(range(len(shape)), key=lambda n: (-shape[n], -n))
  splits = lambda n, parts: parts > 1 and shape[n] % parts == 0
  if split is not None and splits(split, tensor):
    spec[split] = 'tensor'
  for n in axes:
    if spec[n] is None and splits(n, fsdp):
      spec[n] = 'fsdp'
      break
  if 'tensor' not in spec:
    for n in axes:
      own = () if spec[n] is None else (spec[n],)
      if splits(n, tensor * (fsdp if own else 1)) and tensor > 1:
        spec[n] = (*own, 'tensor')
        break
  return PartitionSpec(*spec)


def stored_leaf(names: Sequence[str], shape, mesh) -> PartitionSpec:
  """How the leaf of a state lies; names are its path, the last one its own."""
  stack = any(name in STACKS for name in names)
  split = SPLIT.get(names[-2]) if names[-1:] == ['kernel'] else None
  inner = stored(shape[stack:], split, mesh)
  return PartitionSpec(*[None] * stack, *inner)


def gather(kernel: Array, split: int | None = None) -> Array:
  """A parameter as it is used: whole, but for the part that 'tensor' keeps."""
  mesh = sizes()
  if not mesh or mesh['fsdp'] * mesh['tensor'] == 1:
    return kernel
  spec = [None] * kernel.ndim
  if split is not None and kernel.shape[split] % mesh['tensor'] == 0:
    spec[split] = 'tensor'
  return _pinned(kernel, PartitionSpec(*spec))


def scatter(gradient: Array, split: int | None = None) -> Array:
  """The gradient of what was gathered, as the parameter is stored."""
  mesh = sizes()
  if not mesh or mesh['fsdp'] * mesh['tensor'] == 1:
    return gradient
  return _pinned(gradient, stored(gradient.shape, split, mesh))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def gathered(kernel: Array, split: int | None = None) -> Array:
  """`gather`, whose gradient is scattered."""
  return gather(kernel, split)


gathered.defvjp(
  lambda kernel, split: (gather(kernel, split), None),
  lambda split, _, gradient: (scatter(gradient, split),),
)


@jax.custom_vjp
def gathered_rows(x: Array) -> Array:
  """All rows of a batch on every device; each gets its own gradient back."""
  return replicated(x)


def _scatter_rows(_, gradient):
  mesh = sizes()
  if mesh and len(gradient) % (mesh['replica'] * mesh['fsdp']) == 0:
    return (batch_sharded(gradient),)
  return (replicated(gradient),)


gathered_rows.defvjp(lambda x: (replicated(x), None), _scatter_rows)


def on_own_rows(
  function: Callable, rows: int, groups: tuple[int, int] | None = None
) -> Callable:
  """The function as each device runs it on its part of the batch.

  For what the compiler would not split: it gathers the table of a gather, and
  lets devices agree on the end of a loop.

  Args:
    function: of arrays [B, ...], to arrays [B, ...], row by row.
    rows: B; where it cannot be split, the function is left as it is.
    groups: (axis, size) of what 'tensor' may split, too; it must be an axis of
      all arguments and results.
  """
  mesh = sizes()
  if not mesh or rows % (mesh['replica'] * mesh['fsdp']):
    return function
  spec = [BATCH_AXES]
  if groups and groups[1] % mesh['tensor'] == 0:
    spec += [None] * (groups[0] - 1) + ['tensor']
  spec = PartitionSpec(*spec)
  return jax.shard_map(
    function, in_specs=spec, out_specs=spec, check_vma=False
  )
