"""How fast a config's step is, and how much of it the method needs.

  python -m m3i_jax.bench step --config=configs/emoji.py
  python -m m3i_jax.bench monitors --config=configs/emoji.py
  python -m m3i_jax.bench checkpoint --config=configs/vitb.py --steps=5
  python -m m3i_jax.bench dcnv3 --batch=4 --offset_std=0.5
  python -m m3i_jax.bench input --pictures=64 --rounds=5 --records=1000000

`step` times the jitted train step on a synthetic batch, without data or
checkpoints. `monitors` times it with and without the measurements of how
targets spread, in turns, and tells their share. `checkpoint` times what a loop
waits for its checkpoints. `dcnv3` times InternImage's operator, stage by stage,
beside PyTorch where that is installed. `input` times how JPEGs become crops,
beside Pillow alone and tf.data (of the Python that --tensorflow names), and the
start of a large data set. The last line is JSON.
"""

import json
import os
import statistics
import sys
import time

import jax
import numpy as np
from absl import flags

from m3i_jax import build, config, flops, main, sharding, step
from m3i_jax.bench import checkpoint, dcnv3
from m3i_jax.bench import input as inputs
from m3i_jax.errors import UserError
from m3i_jax.program import Program

TENSORFLOW = '.venv/tensorflow/bin/python'
_STEPS = flags.DEFINE_integer('steps', 20, 'timed steps, after three more')
_BATCH = flags.DEFINE_integer('batch', 4, 'pictures; of dcnv3 alone')
_SPREAD = flags.DEFINE_float('offset_std', 0.5, 'cells; of dcnv3 alone')
_PICTURES = flags.DEFINE_integer('pictures', 64, 'of input: JPEGs', 1)
_ROUNDS = flags.DEFINE_integer('rounds', 5, 'of input: turns of each loader', 1)
_RECORDS = flags.DEFINE_integer(
  'records', 0, 'of input: in a data set whose start is timed; 0 for none', 0
)
_TENSORFLOW = flags.DEFINE_string(
  'tensorflow', TENSORFLOW, "of input: a Python that has it; '' for none"
)
CLASSES, VOCABULARY = 1000, 8000  # of the synthetic batch


def parse(argv: list[str]) -> list[str]:
  """Reads the flags; a mistake is one line and exit code 2."""
  if not set(VERBS) & set(argv) and '--help' not in argv:
    main.fail(
      f'say what to measure, {" or ".join(VERBS)}: '
      'python -m m3i_jax.bench step --config=FILE'
    )
  rest = [arg for arg in argv if arg not in VERBS]
  if not {'dcnv3', 'input'} & set(argv):  # they need no config
    return main.parse([*rest, '--workdir='])
  try:
    return flags.FLAGS(rest)
  except flags.Error as error:
    main.fail(error)


def timed(compiled, *args) -> float:
  """Seconds of one call, to the end of its computation."""
  begun = time.perf_counter()
  jax.block_until_ready(compiled(*args))
  return time.perf_counter() - begun


def prepared(c, objective, length: int):
  """(compiled step, state, batch, compile seconds) of an objective."""
  program = Program(c, objective, sharding.make_mesh(**c.mesh))
  state, batch = program.make(), random_batch(objective, c, length)
  begun = time.perf_counter()
  compiled = program.lower().compile()
  return compiled, state, program.put(batch), time.perf_counter() - begun


def bench_step(c) -> dict:
  """Measures the train step of a config; prints a table, returns numbers."""
  objective, length = built(c)
  with jax.set_mesh(sharding.make_mesh(**c.mesh)):
    compiled, state, batch, seconds = prepared(c, objective, length)
    times = []
    for number in range(3 + _STEPS.value):
      begun = time.perf_counter()
      state, measured = compiled(state, batch)
      jax.block_until_ready(measured)
      times += [time.perf_counter() - begun] * (number >= 3)
    share = augmentation_share(objective, batch, statistics.median(times))
  parts = flops.analytic(objective, c.image_size, c.batch_size, length)
  reported = compiled.cost_analysis()['flops'] * jax.device_count()
  median = statistics.median(times)
  memory = compiled.memory_analysis()
  result = {
    'step_ms': 1e3 * median,
    'step_ms_min': 1e3 * min(times),
    'step_ms_max': 1e3 * max(times),
    'images_per_s': c.batch_size / median,
    'analytic_flops': sum(parts.values()),
    'compiled_flops': reported,
    'compiled_over_analytic': reported / sum(parts.values()),
    'augmentation_percent': 100 * share,
    'compile_s': seconds,
    'peak_bytes': memory.temp_size_in_bytes + memory.argument_size_in_bytes,
    **device(),
  }
  show(result, parts)
  return result


def bench_monitors(c) -> dict:
  """The time of a step with the targets watched over that without."""
  objective, length = built(c)
  blind = objective.clone(
    targets={k: t.clone(watched=False) for k, t in objective.targets.items()}
  )
  times = [], []
  with jax.set_mesh(sharding.make_mesh(**c.mesh)):
    runs = [list(prepared(c, o, length)) for o in (objective, blind)]
    for number in range(3 + _STEPS.value):
      # In turns, each first every other time: a busy machine hits both alike.
      for which in ((0, 1), (1, 0))[number % 2]:
        compiled, state, batch, _ = runs[which]
        begun = time.perf_counter()
        runs[which][1], measured = compiled(state, batch)
        jax.block_until_ready(measured)
        times[which].extend([time.perf_counter() - begun] * (number >= 3))
  watched, unwatched = (statistics.median(t) for t in times)
  ratios = [x / y for x, y in zip(*times, strict=True)]
  result = {
    'step_ms': 1e3 * watched,
    'unwatched_step_ms': 1e3 * unwatched,
    'monitors_percent': 100 * (statistics.median(ratios) - 1),
    **device(),
  }
  show(result, {})
  return result


def bench_saves(c) -> dict:
  """What the loop of a config waits for its checkpoints."""
  objective, length = built(c)
  with jax.set_mesh(sharding.make_mesh(**c.mesh)):
    train_step, state, batch, _ = prepared(c, objective, length)
    result = checkpoint.bench(train_step, state, batch, _STEPS.value)
  result |= device()
  show(result, {})
  return result


def built(c):
  """(the objective of a config, T)."""
  config.check(c, jax.device_count())
  objective = build.build(c, CLASSES, VOCABULARY if c.data.text else 0)
  return objective, c.data.text_length if objective.reading('text') else 0


def device() -> dict:
  return {
    'device': jax.devices()[0].device_kind,
    'devices': jax.device_count(),
    'jax': jax.__version__,
  }


def augmentation_share(objective, batch, whole: float) -> float:
  """Time of colours, masks and mixing over the time of a step."""
  nothing = {'ema': lambda images: images, 'frozen': lambda images: images}
  draw = jax.jit(lambda b: objective.sample(b, nothing, jax.random.key(0)))
  timed(draw, batch)
  return statistics.median(timed(draw, batch) for _ in range(5)) / whole


def random_batch(objective, c, length: int) -> dict:
  """A batch of noise with boxes, labels and texts."""
  rng = np.random.default_rng(0)
  batch = step.zero_batch(
    c.batch_size, c.image_size, objective.view_letters, length
  )
  for letter in objective.view_letters:
    image = batch[letter]['image']
    batch[letter]['image'] = rng.integers(0, 256, image.shape, np.uint8)
  batch['label'] = rng.integers(0, CLASSES, c.batch_size).astype(np.int32)
  if not objective.reading('label'):
    del batch['label']
  if length:
    batch['text'] = rng.integers(
      1, VOCABULARY, batch['text'].shape, dtype=np.int32
    )
  return batch


def show(result: dict, parts: dict[str, int]) -> None:
  """The numbers for people, then one line of JSON."""
  total = sum(parts.values())
  if parts:
    print(f'{"part":24} {"GFLOP a step":>14} {"share":>7}')
  for name, count in parts.items():
    print(f'{name:24} {count / 1e9:14.3f} {100 * count / total:6.1f}%')
  for name, value in result.items():
    print(f'{name:24} {value:14.6g}' if not isinstance(value, str)
          else f'{name:24} {value:>14}')  # fmt: skip
  print(json.dumps(result))


def bench_operator(c) -> None:
  """Measures DCNv3, which no config changes."""
  del c
  dcnv3.bench(_BATCH.value, _STEPS.value, _SPREAD.value)


def bench_input(c) -> None:
  """Measures how pictures become crops, which no config changes."""
  del c
  python = _TENSORFLOW.value
  if python == TENSORFLOW and not os.path.exists(python):
    python = ''
  inputs.bench(_PICTURES.value, _ROUNDS.value, python, _RECORDS.value)


VERBS = {
  'step': bench_step,
  'monitors': bench_monitors,
  'checkpoint': bench_saves,
  'dcnv3': bench_operator,
  'input': bench_input,
}


def run(argv) -> None:
  del argv
  verb = next(arg for arg in sys.argv if arg in VERBS)
  try:
    VERBS[verb](flags.FLAGS.config)
  except UserError as error:
    main.fail(error)
