"""How fast a config's step is, and how much of it the method needs.

  python -m m3i_jax.bench step --config=configs/emoji.py

Times the jitted train step on a synthetic batch: no data, no checkpoints. The
last line is one JSON object.
"""

import json
import statistics
import sys
import time

import jax
import numpy as np
from absl import app, flags

from m3i_jax import build, config, flops, main, sharding, step
from m3i_jax.optim import momentum

_STEPS = flags.DEFINE_integer('steps', 20, 'timed steps, after three more')
CLASSES, VOCABULARY = 1000, 8000  # of the synthetic batch


def parse(argv: list[str]) -> list[str]:
  """Reads the flags; a mistake is one line and exit code 2."""
  if 'step' not in argv and '--help' not in argv:
    main.fail('say what to measure: python -m m3i_jax.bench step --config=FILE')
  rest = [arg for arg in argv if arg != 'step'] + ['--workdir=']
  return main.parse(rest)


def timed(compiled, *args) -> float:
  """Seconds of one call, to the end of its computation."""
  begun = time.perf_counter()
  jax.block_until_ready(compiled(*args))
  return time.perf_counter() - begun


def bench_step(c) -> dict:
  """Measures the train step of a config; prints a table, returns numbers."""
  config.check(c, jax.device_count())
  objective = build.build(c, CLASSES, VOCABULARY if c.data.text else 0)
  length = c.data.text_length if objective.reading('text') else 0
  batch = random_batch(objective, c, length)
  mesh = sharding.make_mesh(**c.mesh)
  optimizer = build.optimizer(c).build(c.total_steps)
  mu = momentum(**c.ema, total_steps=c.total_steps)
  with jax.set_mesh(mesh):
    init = lambda: step.init_state(objective, optimizer, c.seed, batch)
    places = sharding.state_shardings(mesh, jax.eval_shape(init))
    state = jax.jit(init, out_shardings=places)()
    batch = sharding.put(batch, sharding.batch_sharding(mesh), c.batch_size)
    train_step = step.make_train_step(objective, optimizer, mu, c.seed)
    begun = time.perf_counter()
    compiled = (
      jax.jit(train_step, donate_argnums=0,
              out_shardings=(places, sharding.replicated(mesh)))
      .lower(state, batch)
      .compile()
    )  # fmt: skip
    seconds = time.perf_counter() - begun
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
    'device': jax.devices()[0].device_kind,
    'devices': jax.device_count(),
    'jax': jax.__version__,
  }
  show(result, parts)
  return result


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
  if length:
    batch['text'] = rng.integers(
      1, VOCABULARY, batch['text'].shape, dtype=np.int32
    )
  return batch


def show(result: dict, parts: dict[str, int]) -> None:
  """The numbers for people, then one line of JSON."""
  total = sum(parts.values())
  print(f'{"part":24} {"GFLOP a step":>14} {"share":>7}')
  for name, count in parts.items():
    print(f'{name:24} {count / 1e9:14.3f} {100 * count / total:6.1f}%')
  for name, value in result.items():
    print(f'{name:24} {value:14.6g}' if not isinstance(value, str)
          else f'{name:24} {value:>14}')  # fmt: skip
  print(json.dumps(result))


def run(_) -> None:
  bench_step(flags.FLAGS.config)


if __name__ == '__main__':
  if '--help' in sys.argv:
    print(__doc__)
  app.run(run, flags_parser=parse)
