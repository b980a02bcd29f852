"""The bar of a command of which some sizes are not known before."""

from m3i_jax.prepare import writer
from m3i_jax.prepare.progress import Progress
from tests.prepare import parts


def test_the_bar_takes_unknown_parts_as_average():
  sizes = (30, 0, 0, 10)
  tasks = [
    writer.Task('train', i, 4, parts.Drawn(str(i), size))
    for i, size in enumerate(sizes)
  ]
  totals = []
  with Progress(tasks, 0.05) as progress:
    for task, records in zip(tasks, (30, 50, 60, 10), strict=True):
      progress.told(task, records, 0, '', True)
      totals.append(progress.total)
  assert totals == [30 + 2 * 30 + 10, 80 + 40 + 10, 140 + 10, 150]
