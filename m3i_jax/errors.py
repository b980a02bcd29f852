"""The one exception that a user's mistake raises."""


class UserError(ValueError):
  """A mistake that the user can mend: one line saying what, where, what to do.

  `python -m m3i_jax.main` prints it without a traceback and exits with 2.
  """
