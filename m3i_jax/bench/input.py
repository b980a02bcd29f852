"""How fast pictures become crops, beside other loaders, and how well.

Two random resized crops of 224 pixels of each of some JPEGs of 500 x 375. Every
loader takes its turn in every round, so that a busy machine hits all alike.
"""

import concurrent.futures
import contextlib
import dataclasses
import io
import json
import multiprocessing
import os
import pathlib
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image
from tqdm import tqdm

from m3i_jax.bench import input_records, photos
from m3i_jax.data import crops, pictures, pipeline
from m3i_jax.errors import UserError

BATCH, TURN, SIZE = 32, 384, 224
SHORT_SIDE = 256  # of pictures that were shrunk before
CROPS = {name: crops.Crop(SIZE, flip=0) for name in 'ab'}
OURS = 'this project, 1 thread'
_CHILD = pathlib.Path(__file__).with_name('input_tensorflow.py')


@dataclasses.dataclass
class Row:
  """A loader.

  Attributes:
    turn: makes so many pictures' views; returns the seconds and the CPU
      seconds (0: not known) that it took.
    views: uint8 [P, 2, S, S, 3], or nothing where another row's are the same.
    rates, per_cpu: pictures a second, of each turn.
  """

  turn: Callable[[int], tuple[float, float]]
  views: np.ndarray | None = None
  rates: list[float] = dataclasses.field(default_factory=list)
  per_cpu: list[float] = dataclasses.field(default_factory=list)

  def run(self, count: int) -> None:
    seconds, cpu = self.turn(count)
    self.rates.append(count / seconds)
    self.per_cpu.append(count / cpu if cpu else 0.0)


class Photos:
  """A source as long as ImageNet, of some files in memory."""

  classes, names = (), {}

  def __init__(self, files: list[bytes]):
    self.files = files

  def __len__(self) -> int:
    return 1_281_167

  def __getitem__(self, i: int) -> dict:
    return {'image': self.files[i % len(self.files)], 'id': str(i)}


def bench(count: int, rounds: int, tensorflow: str, records: int) -> dict:
  """Prints a table; returns its numbers.

  Args:
    count: different pictures.
    rounds: turns of each loader, of TURN pictures.
    tensorflow: a Python that has TensorFlow; '' leaves it out.
    records: of a data set whose start is timed; 0 leaves it out.
  """
  files = [photos.photo(seed) for seed in range(count)]
  boxes = np.stack([_boxes(number) for number in range(count)])
  wanted = np.stack([
    [photos.exact(pictures.decode(data), box, SIZE) for box in two]
    for data, two in zip(files, boxes, strict=True)
  ])
  with contextlib.ExitStack() as stack:
    rows = _rows(files, boxes)
    if tensorflow:
      rows |= stack.enter_context(_tensorflow(tensorflow, files, boxes))
    for number in tqdm(range(rounds), 'rounds'):
      names = list(rows)
      for name in names[number % len(names) :] + names[: number % len(names)]:
        rows[name].run(TURN)
  apart = _apart(files, boxes)
  for row in tqdm(apart.values(), 'processes'):
    row.run(4 * TURN)
  result = {'loaders': _summary(rows | apart, wanted)}
  result |= {
    'pictures': count,
    'bytes_of_a_picture': sum(map(len, files)) // count,
    'cores': os.cpu_count(),
    'load': os.getloadavg()[0],
  }
  _show(result['loaders'])
  if records:
    result['records'] = input_records.bench(records)
    print(*(f'{k}: {v:.4g}' for k, v in result['records'].items()), sep='\n')
  print(json.dumps(result))
  return result


def _rng(number: int) -> Callable[[str], np.random.Generator]:
  return lambda name: np.random.default_rng((0, number, ord(name)))


def _boxes(number: int) -> np.ndarray:
  """[2, 4]: those that `cut_all` draws of a picture."""
  size = photos.HEIGHT, photos.WIDTH
  return np.array([
    crops.sample_box(_rng(number)(name), *size, crop)[0]
    for name, crop in CROPS.items()
  ])


def _rows(files: list[bytes], boxes: np.ndarray) -> dict[str, Row]:
  """The loaders that run in this process."""
  made = [crops.cut_all(f, CROPS, _rng(i)) for i, f in enumerate(files)]
  views = np.stack([[view['image'] for view in m.values()] for m in made])
  small = Photos([photos.shrunk(data, SHORT_SIDE) for data in files])
  source = Photos(files)
  counts = sorted({1, 2, os.cpu_count() or 1})
  rows = {
    f'this project, {threads} thread{"s" * (threads > 1)}': Row(
      lambda count, threads=threads: _load(source, count, threads), views
    )
    for threads in counts
  }
  rows[f'{OURS}, short side {SHORT_SIDE} before'] = Row(
    lambda count: _load(small, count, 1)
  )
  whole = range(len(files))
  rows['Pillow in a loop'] = Row(
    lambda count: _timed(
      lambda: [
        _plain(files, boxes, [i % len(files) for i in range(at, at + BATCH)])
        for at in range(0, count, BATCH)
      ]
    ),
    _plain(files, boxes, whole),
  )
  return rows


def _timed(work: Callable[[], object]) -> tuple[float, float]:
  begun = time.perf_counter(), time.process_time()
  work()
  return time.perf_counter() - begun[0], time.process_time() - begun[1]


def _batches(source: Photos, steps: int, **how) -> Iterator[dict]:
  return pipeline.loader(
    source, pipeline.Recipe(CROPS), seed=0, batch_size=BATCH, start_step=0,
    stop_step=steps, **how,
  )  # fmt: skip


def _load(source: Photos, count: int, threads: int) -> tuple[float, float]:
  def work():
    for _ in _batches(source, count // BATCH, threads=threads):
      pass

  return _timed(work)


def _plain(files, boxes, numbers) -> np.ndarray:
  """As torchvision's RandomResizedCrop with its usual loader of pictures."""
  views = []
  for number in numbers:
    image = Image.open(io.BytesIO(files[number])).convert('RGB')
    for top, left, height, width in boxes[number].tolist():
      crop = image.crop((left, top, left + width, top + height))
      view = crop.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
      views.append(np.asarray(view))
  return np.stack(views).reshape(-1, 2, SIZE, SIZE, 3)


def _apart(files: list[bytes], boxes: np.ndarray) -> dict[str, Row]:
  """Loaders in processes of their own, timed once all of them have begun."""
  rows = {}
  for workers in (1, 2):
    of = f'{workers} process{"es" * (workers > 1)}'

    def ours(count, workers=workers):
      made = _batches(Photos(files), count // BATCH, threads=1, workers=workers)
      return _second_half(made, count)

    def plain(count, workers=workers):
      with concurrent.futures.ProcessPoolExecutor(
        workers, multiprocessing.get_context('spawn'), _give, (files, boxes)
      ) as pool:
        return _second_half(pool.map(_take, range(0, count, BATCH)), count)

    rows[f'this project, {of}'] = Row(ours)
    rows[f'Pillow, {of}'] = Row(plain)
  return rows


def _second_half(made: Iterator, count: int) -> tuple[float, float]:
  """Seconds that all batches would take at the speed of the later ones."""
  steps = count // BATCH
  for _ in range(steps // 2):
    next(made)
  begun = time.perf_counter()
  rest = sum(1 for _ in made)
  return (time.perf_counter() - begun) * steps / rest, 0.0


_given = []  # of a process that loads


def _give(files: list[bytes], boxes: np.ndarray) -> None:
  _given[:] = files, boxes


def _take(start: int) -> np.ndarray:
  files, boxes = _given
  return _plain(
    files, boxes, [i % len(files) for i in range(start, start + BATCH)]
  )


@contextlib.contextmanager
def _tensorflow(
  python: str, files: list[bytes], boxes: np.ndarray
) -> Iterator[dict[str, Row]]:
  """tf.data in a process of another Python, which waits between its turns."""
  with tempfile.TemporaryDirectory() as folder:
    data = np.frombuffer(b''.join(files), np.uint8)
    ends = np.cumsum([len(file) for file in files])
    np.savez(f'{folder}/pictures.npz', data=data, ends=ends, boxes=boxes)
    pipe = subprocess.PIPE
    if not shutil.which(python):
      raise UserError(f'--tensorflow: there is no {python!r} to run')
    with subprocess.Popen(
      [python, _CHILD, folder], stdin=pipe, stdout=pipe, text=True
    ) as process:
      if process.stdout.readline() != 'ready\n':
        raise UserError(f'{python} cannot run tf.data: see its message above')

      def turn(mode: str, threads: int, count: int) -> tuple[float, float]:
        print(mode, threads, count, file=process.stdin, flush=True)
        seconds, cpu = map(float, process.stdout.readline().split())
        return seconds, cpu

      yield {
        f'tf.data, {mode}, {threads} thread{"s" * (threads > 1)}': Row(
          lambda count, m=mode, t=threads: turn(m, t, count),
          np.load(f'{folder}/{mode}.npy', allow_pickle=False),
        )
        for mode in ('equal', 'fastest')
        for threads in (1, 2)
      }
      process.stdin.close()


def _summary(rows: dict[str, Row], wanted: np.ndarray) -> dict[str, dict]:
  ours = rows[OURS].per_cpu
  summary = {}
  for name, row in rows.items():
    numbers = {'images_per_s': statistics.median(row.rates)}
    if all(row.per_cpu):
      numbers['images_per_cpu_s'] = statistics.median(row.per_cpu)
      ratios = [x / y for x, y in zip(ours, row.per_cpu, strict=True)]
      numbers['ours_over_it'] = statistics.median(ratios)
    if row.views is not None:
      numbers['psnr_db'] = photos.psnr(row.views, wanted)
    summary[name] = numbers
  return summary


def _show(summary: dict[str, dict]) -> None:
  """The table: blank where a number is not known."""
  columns = {
    'images_per_s': ('images/s', '.0f'),
    'images_per_cpu_s': ('images/CPU-s', '.0f'),
    'ours_over_it': ('ours / it', '.2f'),
    'psnr_db': ('PSNR dB', '.1f'),
  }
  print(f'{"":46}' + ''.join(f'{head:>14}' for head, _ in columns.values()))
  for name, numbers in summary.items():
    cells = [
      format(numbers[key], form) if key in numbers else ''
      for key, (_, form) in columns.items()
    ]
    print(f'{name:46}' + ''.join(f'{cell:>14}' for cell in cells))
