"""What a step must cost at least, and a schedule at a stated efficiency.

Arithmetic alone: three floors of the step's time, each of them what a chip
would take if it did nothing else and reached its published peak.

- compute: the operations of flops.py over the bf16 peak; nothing twice.
- memory: bytes that HBM must move, `least_bytes`, over its bandwidth.
- interconnect: what the compiled collectives send along rings, over all links
  of a chip at once; over the network where they leave a slice or a host.
"""

import dataclasses

import numpy as np

from m3i_jax.chips import Chip
from m3i_jax.models import layers
from m3i_jax.objective import Objective
from m3i_jax.plan.hlo import Collective


@dataclasses.dataclass(frozen=True)
class Floors:
  """Seconds of a step."""

  compute: float
  memory: float
  interconnect: float

  def seconds(self, mfu: float) -> float:
    """Of a step at this share of the peak; no floor is passed."""
    return max(self.compute / mfu, self.memory, self.interconnect)


def floors(
  flops: float,
  moved: float,
  collectives: list[Collective],
  devices: int,
  chip: Chip,
  per_host: int,
) -> Floors:
  """The floors of a step on a number of devices.

  Args:
    flops: of the whole step.
    moved: bytes of HBM that a device moves, at least.
    per_host: devices that share fast links; larger groups of devices use the
      network, all of a host's share of it together.
  """
  links = network = 0.0
  for one in collectives:
    if one.network:
      network += one.sent
    elif one.group > per_host:
      network += one.sent / per_host
    else:
      links += one.sent
  return Floors(
    compute=flops / (devices * chip.peak),
    memory=moved * chip.cores / chip.bandwidth,
    interconnect=chip.cores * max(links / chip.links, network / chip.network),
  )


def least_bytes(
  objective: Objective,
  image_size: int,
  rows: float,
  state: float,
  weights: float,
  batch: float,
) -> float:
  """Bytes of HBM that a step must read and write on a device, at least.

  The state once in and once out, every weight where it is used, the batch, and
  what each layer of the encoder leaves for the way back. Whatever else a layer
  writes is left out, as if it were fused or computed again.

  Args:
    rows: pictures of the batch that this device has, a fraction with 'tensor'.
    state: bytes of parameters, optimizer and averages on the device.
    weights: bytes of all gathered weights in the dtype of the products, each
      as often as the step reads it.
    batch: bytes of its share of the batch.
  """
  dtype = np.dtype(layers.stream(objective.encoder.dtype))
  kept = dtype.itemsize * rows * saved(objective, image_size)
  return 2 * state + weights + batch + 2 * kept


def saved(objective: Objective, image_size: int) -> int:
  """Elements that the encoder's layers leave behind for one picture."""
  theta, input_ = objective.encoder, objective.input
  if theta.whole:
    sides = [image_size >> n + 2 for n in range(len(theta.depths))]
    width = getattr(theta, 'channels', 0) or theta.dims[0]
    return sum(
      depth * side**2 * (width << n)
      for n, (depth, side) in enumerate(zip(theta.depths, sides, strict=True))
    )
  cells = (image_size // theta.patch) ** 2
  seen = cells
  if input_.mask and input_.hidden == 'drop':
    seen = input_.owned(cells) * input_.images
  return theta.depth * (seen + theta.class_token) * theta.width


def schedule(
  seconds: float, batch: int, steps: int, chips: int
) -> dict[str, float]:
  """What so many steps of `seconds` cost on a number of chips."""
  hours = steps * seconds / 3600
  return {
    'step_ms': 1e3 * seconds,
    'images_per_s': batch / seconds,
    'images_per_s_per_chip': batch / seconds / chips,
    'days': hours / 24,
    'chip_hours': hours * chips,
  }
