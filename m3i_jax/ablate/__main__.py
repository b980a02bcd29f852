"""python -m m3i_jax.ablate"""

from absl import app, flags

from m3i_jax import ablate, main

__doc__ = ablate.__doc__
flags.adopt_module_key_flags(ablate)
app.run(ablate.run, flags_parser=main.parse)
