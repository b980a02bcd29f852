"""What a step costs: operations, memory, and what should not happen, compiling.

mfu_percent, the model FLOP utilisation (Chowdhery et al., 2022), is

  100 * (FLOP that the method needs, by flops.py) / (step seconds * peak FLOP/s)

over all chips. The peak is the vendor's for bfloat16 (chips.py); of a device
that is not known, such as a CPU, what a large matrix product reaches here.
"""

import time

import jax
import jax.numpy as jnp

from m3i_jax import chips

GIB = 2**30
_compiled = [0]  # programs, by this process; JAX's listeners stay for good


def _listen(event: str, duration: float, **_) -> None:
  del duration
  _compiled[0] += event == '/jax/core/compile/backend_compile_duration'


jax.monitoring.register_event_duration_secs_listener(_listen)


class Meter:
  """Of one run: what each row of its log tells of the machine."""

  def __init__(self, flops: int, batch_size: int):
    """flops: of one step of the global batch. batch_size: B."""
    self.flops, self.batch_size = flops, batch_size
    device = jax.devices()[0]
    chip = chips.of(device.device_kind)
    if chip:
      self.chips = jax.device_count() / chip.cores
      self.peak = self.chips * chip.flops
    else:
      self.chips = jax.process_count()  # one processor each
      self.peak = self.chips * measured_peak()
    self.usual = None  # programs until the first row: those of a start

  def pause(self, work):
    """work(), which may compile."""
    before = _compiled[0]
    result = work()
    if self.usual is not None:
      self.usual += _compiled[0] - before
    return result

  def row(self, seconds: float) -> dict[str, float]:
    """For steps that took so long each."""
    speed = self.batch_size / seconds
    if self.usual is None:
      self.usual = _compiled[0]
    return {
      'step_ms': 1e3 * seconds,
      'images_per_s': speed,
      'images_per_s_per_chip': speed / self.chips,
      'mfu_percent': 100 * self.flops / (seconds * self.peak),
      'recompiles': _compiled[0] - self.usual,
    } | memory()


def memory() -> dict[str, float]:
  """GiB in use, and at most so far: of the fullest device, of this process."""
  row = {'host_memory_gib': resident() / GIB}
  stats = [d.memory_stats() or {} for d in jax.local_devices()]
  for name, key in (
    ('memory_gib', 'bytes_in_use'),
    ('memory_peak_gib', 'peak_bytes_in_use'),
  ):
    if all(key in own for own in stats):  # a CPU has none
      row[name] = max(own[key] for own in stats) / GIB
  return row


def resident() -> int:
  """Bytes of this process in memory; 0 where the system does not tell."""
  try:
    with open('/proc/self/status') as file:
      lines = dict(line.split(':', 1) for line in file)
    return 1024 * int(lines['VmRSS'].split()[0])
  except (OSError, KeyError):
    return 0


def measured_peak(side: int = 1024, times: int = 5) -> float:
  """FLOP/s of the best of a few large products: bfloat16 summed in float32."""
  x = jnp.ones((side, side), jnp.bfloat16)
  multiply = jax.jit(
    lambda x: jnp.matmul(x, x, preferred_element_type=jnp.float32)
  )
  multiply(x).block_until_ready()
  seconds = []
  for _ in range(times):
    begun = time.perf_counter()
    multiply(x).block_until_ready()
    seconds.append(time.perf_counter() - begun)
  return 2 * side**3 / min(seconds)
