"""How a run ends when it does not end well, and with which exit code."""

STOPPED = 75  # by a signal, and saved: run the same line again
STUCK = 74  # no progress, or a process lost: the same line goes on
DIVERGED = 70  # the guards gave up: do not run it again unchanged


class UserError(ValueError):
  """A mistake that the user can mend: one line saying what, where, what to do.

  `python -m m3i_jax.main` prints it without a traceback and exits with 2.
  """

  code = 2


class Stuck(RuntimeError):
  """Another process did not come; one line says which, where and how long."""

  code = STUCK


class Diverged(RuntimeError):
  """The guards gave up; one line says why, and where the report is."""

  code = DIVERGED
