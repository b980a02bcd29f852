"""Every test runs on CPU, which is split into eight virtual devices."""

import os

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['XLA_FLAGS'] = (
  os.environ.get('XLA_FLAGS', '')
  + ' --xla_force_host_platform_device_count=8'
  # Compiling is most of the time of a test; its results hold at any level.
  + ' --xla_backend_optimization_level=0'
)
