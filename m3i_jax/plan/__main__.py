"""python -m m3i_jax.plan"""

import sys

from absl import app

from m3i_jax import plan

if '--help' in sys.argv:
  print(plan.__doc__)
app.run(plan.run, flags_parser=plan.parse)
