"""What an accelerator can do at best, as its vendor publishes it.

Sources: docs.cloud.google.com/tpu/docs/{v3,v4,v5e,v5p,v6e,tpu7x}; for the
links of TPU v3 Norrie et al., IEEE Micro 41(2), 2021, of v4 Jouppi et al.,
arXiv:2304.01433; NVIDIA's data sheets of A100, L4, L40S, H100, H200 and B200,
halved where they count on sparsity, and of the DGX systems for the network.
For the network of TPU v3 and v4 nothing is published: a guess.
"""

import dataclasses

G, GIB, T = 10**9, 2**30, 10**12


@dataclasses.dataclass(frozen=True)
class Chip:
  """One accelerator; rates are peaks, of a whole chip.

  Attributes:
    name: as `plan --topology` calls it.
    kinds: what `jax.Device.device_kind` says of it.
    flops: bf16 operations/s with float32 sums, without sparsity.
    memory: bytes of HBM; of a TPU what libtpu leaves to programs (0.0.42, when
      it refuses one that is too large), else what is published.
    bandwidth: bytes/s between HBM and chip.
    links: bytes/s that it sends to its neighbours (ICI, NVLink) over all
      links at once; what it receives at the same time is not counted.
    network: bytes/s that it sends to other slices or hosts, its share.
    cores: JAX devices that it is made of.
  """

  name: str
  kinds: tuple[str, ...]
  flops: float
  memory: float
  bandwidth: float
  links: float
  network: float
  cores: int = 1

  @property
  def peak(self) -> float:
    """bf16 operations/s of one JAX device, what MFU is measured by."""
    return self.flops / self.cores


CHIPS = (
  Chip('v3', ('TPU v3',), 123 * T, 30.96 * GIB, 900 * G, 328 * G, 3 * G, 2),
  # One device (megacore), as Cloud TPU gives it.
  Chip('v4', ('TPU v4',), 275 * T, 30.75 * GIB, 1200 * G, 300 * G, 6 * G),
  Chip('v5e', ('TPU v5 lite', 'TPU v5e'), 197 * T, 15.75 * GIB, 819 * G,
       200 * G, 3.1 * G),
  Chip('v5p', ('TPU v5', 'TPU v5p'), 459 * T, 95.74 * GIB, 2765 * G,
       600 * G, 6.2 * G),
  Chip('v6e', ('TPU v6 lite', 'TPU v6e'), 918 * T, 31.25 * GIB, 1638 * G,
       400 * G, 12.5 * G),
  Chip('tpu7x', ('TPU7x',), 2307 * T, 189.5 * GIB, 7380 * G,
       600 * G, 12.5 * G, 2),
  Chip('a100-40gb', ('NVIDIA A100-SXM4-40GB',), 312 * T, 40 * GIB, 1555 * G,
       300 * G, 25 * G),
  Chip('a100', ('NVIDIA A100-SXM4-80GB',), 312 * T, 80 * GIB, 2039 * G,
       300 * G, 25 * G),
  Chip('a100-pcie', ('NVIDIA A100 80GB PCIe',), 312 * T, 80 * GIB, 1935 * G,
       32 * G, 25 * G),
  Chip('l4', ('NVIDIA L4',), 121 * T, 24 * GIB, 300 * G, 32 * G, 12.5 * G),
  Chip('l40s', ('NVIDIA L40S',), 362 * T, 48 * GIB, 864 * G, 32 * G, 25 * G),
  Chip('h100', ('NVIDIA H100 80GB HBM3',), 989 * T, 80 * GIB, 3350 * G,
       450 * G, 50 * G),
  Chip('h100-pcie', ('NVIDIA H100 PCIe',), 756 * T, 80 * GIB, 2000 * G,
       64 * G, 50 * G),
  Chip('h200', ('NVIDIA H200',), 989 * T, 141 * G, 4800 * G, 450 * G, 50 * G),
  Chip('b200', ('NVIDIA B200',), 2250 * T, 180 * G, 8000 * G, 900 * G, 50 * G),
)  # fmt: skip


def of(device_kind: str) -> Chip | None:
  """The chip of a `jax.Device.device_kind`; None if it is not in the table."""
  return next((chip for chip in CHIPS if device_kind in chip.kinds), None)


def named(name: str) -> Chip | None:
  """The chip of a topology's name, 'v5e' of 'v5e:4x4'; None without one."""
  return next((chip for chip in CHIPS if chip.name == name), None)
