"""Processes that write parts; one that dies is noticed, and named."""

import collections
import contextlib
import dataclasses
import multiprocessing
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection

from m3i_jax.errors import UserError
from m3i_jax.prepare import writer
from m3i_jax.prepare.writer import Job, Task

Told = Callable[[Task, int, int, str, bool], None]


class Lost(RuntimeError):
  """A part could not be written: one line says which, and why."""


@dataclasses.dataclass
class _Worker:
  process: multiprocessing.Process
  pipe: connection.Connection
  task: Task | None = None
  records: int = 0  # of the task, at its last word


def write_all(
  job: Job, tasks: Sequence[Task], workers: int, told: Told
) -> None:
  """Writes every task's shard in `workers` processes, in order of start.

  Args:
    told: is told of a task how many records were read, how many of them were
      bad, why the last of these was, and whether the task is done.
  Raises:
    UserError: a mistake in the source, found by a worker.
    Lost: a worker was killed, or failed.
  """
  waiting = collections.deque(tasks)
  with _crew(job, min(workers, len(tasks))) as crew:
    for worker in crew:
      _next(worker, waiting)
    while busy := [worker for worker in crew if worker.task]:
      # A pipe is ready, too, when the process at its other end is gone.
      for pipe in connection.wait([worker.pipe for worker in busy]):
        worker = next(worker for worker in busy if worker.pipe is pipe)
        if _heard(worker, told):
          _next(worker, waiting)


def _next(worker: _Worker, waiting: collections.deque[Task]) -> None:
  worker.task = waiting.popleft() if waiting else None
  worker.records = 0
  if worker.task:
    with contextlib.suppress(BrokenPipeError):  # told by reading
      worker.pipe.send(worker.task)


def _heard(worker: _Worker, told: Told) -> bool:
  """Takes one message; whether the worker's task is done."""
  name = f'part {worker.task.part.key!r} of split {worker.task.split!r}'
  try:
    kind, *content = worker.pipe.recv()
  except (EOFError, ConnectionResetError):
    worker.process.join(10)
    code = worker.process.exitcode
    how = f'was killed by signal {-code}' if code and code < 0 else 'ended'
    advice = '; is there too little memory? --workers=N takes less'
    first, last = worker.records + 1, worker.records + writer.TELL
    raise Lost(
      f'the process that wrote {name} {how} at one of its records {first} to '
      f'{last}{advice if code == -9 else ""}: what is finished is kept, the '
      'same command goes on'
    ) from None
  if kind == 'mistake':
    raise UserError(*content)
  if kind == 'failed':
    raise Lost(f'{name} cannot be written: {content[0]}')
  worker.records = content[0]
  told(worker.task, *content)
  return content[-1]


@contextlib.contextmanager
def _crew(job: Job, workers: int) -> Iterator[list[_Worker]]:
  """Processes that live as long as the block, however it is left."""
  spawned = multiprocessing.get_context('spawn')
  crew = []
  try:
    for _ in range(workers):
      ours, theirs = spawned.Pipe()
      process = spawned.Process(target=_serve, args=(job, theirs), daemon=True)
      process.start()
      theirs.close()  # so that its end is heard when the process ends
      crew.append(_Worker(process, ours))
    yield crew
  finally:
    for worker in crew:
      worker.process.terminate()
      worker.pipe.close()
    for worker in crew:
      worker.process.join(10)
      worker.process.kill()


def _serve(job: Job, pipe: connection.Connection) -> None:
  """Writes what it is sent, until the other end is gone."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command ends its workers
  warnings.simplefilter('ignore')  # Pillow's, of pictures that are then bad
  with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
    while True:
      pipe.send(_answer(job, pipe.recv(), pipe))


def _answer(job: Job, task: Task, pipe: connection.Connection) -> tuple:
  """Writes a task's shard, and says how that went."""
  told = lambda records, bad: pipe.send(('told', *_bad(records, bad), False))
  try:
    shard = writer.write_part(job, task, told)
  except UserError as error:
    return 'mistake', str(error)
  except Exception as error:  # also a lost pipe: then there is nobody to tell
    line = ' '.join(f'{type(error).__name__}: {error}'.split())
    return 'failed', line
  return 'told', *_bad(shard.records + len(shard.bad), shard.bad), True


def _bad(records: int, bad: Sequence[Sequence[str]]) -> tuple[int, int, str]:
  return records, len(bad), bad[-1][1] if bad else ''
