"""python -m m3i_jax.bench"""

import sys

from absl import app

from m3i_jax import bench

if '--help' in sys.argv:
  print(bench.__doc__)
app.run(bench.run, flags_parser=bench.parse)
