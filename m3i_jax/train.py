"""A run: data, state, loop, evaluations, checkpoints, report."""

import json
import sys
import time
from pathlib import Path

import jax
from ml_collections import ConfigDict

from m3i_jax import (
  build,
  dataset,
  evals,
  files,
  init_from,
  metrics,
  report,
  sharding,
  showcase,
  step,
  weights,
)
from m3i_jax import config as schema
from m3i_jax.alarm import CollapseAlarm
from m3i_jax.checkpoint import Checkpoints
from m3i_jax.data import texts
from m3i_jax.errors import UserError
from m3i_jax.objective import Objective
from m3i_jax.optim import momentum


def train(config: ConfigDict, workdir: str) -> bool:
  """Trains, or goes on, to the last step; True when the run is complete.

  Raises:
    UserError: anything that the user can mend, before the first step.
  """
  workdir = Path(workdir)
  teacher, *run = parts(config, jax.device_count(), not _begun(workdir))
  mesh = sharding.make_mesh(**config.mesh)
  dataset.check_splits(config, run[0])
  claim(config, workdir)
  data = dataset.Data.open(config, workdir)
  objective = build.build(
    config,
    len(data.source.classes),
    data.tokenizer.vocab_size if data.tokenizer else 0,
    teacher,
  )
  data.recipe = dataset.recipe(config, objective, data)
  if data.recipe.text and jax.process_index() == 0:
    told = texts.truncation(data.source, data.recipe.text)
    if told:
      print(f'warning: {told}', file=sys.stderr)
  with jax.set_mesh(mesh):
    return _Run(config, workdir, mesh, data, objective, *run).go()


def parts(config: ConfigDict, devices: int, fresh: bool = True):
  """(the teacher's model, evaluators, optimizer); UserError for a mistake.

  fresh: config.init_from, which a run that goes on does not read, counts.
  """
  schema.check(config, devices)
  teacher = weights.describe(config.teacher) if config.teacher else None
  # Whether there are labels and texts is known, not yet how many.
  label, text = bool(config.data.label), bool(config.data.text)
  objective = build.build(config, int(label), int(text), teacher)
  if fresh:
    init_from.check(config.init_from, objective)
  return teacher, build.evaluators(config), build.optimizer(config)


class _Run:
  """One process's part of a run; `go` reads from top to bottom."""

  def __init__(
    self, config, workdir, mesh, data, objective: Objective, evaluators,
    optimizer,
  ):  # fmt: skip
    self.config, self.workdir, self.mesh = config, workdir, mesh
    self.data, self.objective, self.evaluators = data, objective, evaluators
    self.optimizer = optimizer.build(config.total_steps)
    self.rate = optimizer.schedule(config.total_steps)
    self.batch_sharding = sharding.batch_sharding(mesh)
    self.seen = showcase.Encoders(config, objective, data.tokenizer, mesh)
    self.features = None
    # Made where it will lie: no device ever holds all of it.
    places = sharding.state_shardings(mesh, jax.eval_shape(self.init))
    self.make = jax.jit(self.init, out_shardings=places)
    self.last = {}  # {steps done: scores}, the newest

  def go(self) -> bool:
    """From the first state to the report; False if a signal stopped it."""
    config = self.config
    checkpoints = Checkpoints(
      self.workdir, config.checkpoint_every, config.keep
    )
    start, state = self.first_state(checkpoints)
    writer = metrics.Writer(self.workdir)
    writer.truncate(start)
    rows = sharding.local_rows(self.batch_sharding, config.batch_size)
    batches = self.data.batches(config, start, rows)
    if start < config.total_steps:
      first = next(batches)
      train_step = self.compile(state, first)
    # From here on the clock of the progress bar runs.
    bar = metrics.Progress(config.total_steps, start)
    log = metrics.StepLog(
      writer,
      bar,
      self.rate,
      config.batch_size,
      config.log_every,
      CollapseAlarm(self.objective.made_by_encoders),
    )
    for number in range(start, config.total_steps):
      batch = first if number == start else log.waiting(lambda: next(batches))
      log.replaced(batch['replaced'].sum())
      if 'truncated' in batch:
        log.truncated(batch['truncated'].sum())
      batch = self.put(batch)
      with jax.transfer_guard('disallow'):
        state, measured = train_step(state, batch)
      done = number + 1
      log.step(done, measured)
      if done % config.checkpoint_every == 0:
        log.flush()  # so that what is not finite is never saved
      checkpoints.save(done, state, schema.as_json(config))
      if checkpoints.reached_preemption(done):
        log.flush()
        bar.print(f'stopped by a signal; step {done} is saved')
        checkpoints.close()
        return False
      if done == config.total_steps or (
        config.eval_every and done % config.eval_every == 0
      ):
        log.flush(self.evaluate(state, done, log, bar))
    checkpoints.save(
      config.total_steps, state, schema.as_json(config), force=True
    )
    checkpoints.wait()
    bar.close()
    writer.close()
    self.finish(state)
    checkpoints.close()
    return True

  def first_state(self, checkpoints: Checkpoints):
    """(steps done, state): the newest checkpoint's, or a fresh one."""
    if checkpoints.latest_step() is None:
      return 0, self.fresh_state()
    abstract = jax.eval_shape(self.init)
    return checkpoints.restore(
      jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        abstract,
        sharding.state_shardings(self.mesh, abstract),
      )
    )

  def fresh_state(self) -> step.TrainState:
    """Of step 0, what files have of it read from them."""
    tokenizer = self.workdir / 'tokenizer.model'
    state = init_from.start(
      self.config.init_from, self.make(), self.objective, tokenizer
    )
    if not state.frozen:
      return state
    loaded = weights.load(self.config.teacher, state.frozen['teacher'])
    places = jax.tree.map(lambda x: x.sharding, state.frozen)
    return state.replace(frozen=jax.device_put({'teacher': loaded}, places))

  def init(self) -> step.TrainState:
    """The state of step 0, a pure function of the config."""
    length = self.config.data.text_length if self.data.tokenizer else 0
    shapes = step.zero_batch(
      2, self.config.image_size, self.objective.view_letters, length
    )
    return step.init_state(
      self.objective, self.optimizer, self.config.seed, shapes
    )

  def put(self, batch: dict) -> dict:
    """What the step reads of a batch, on the devices."""
    batch = {k: v for k, v in batch.items() if k not in dataset.HOST_ONLY}
    return sharding.put(batch, self.batch_sharding, self.config.batch_size)

  def compile(self, state, batch: dict):
    """The train step, compiled for this state and these batches."""
    batch = self.put(batch)
    begun = time.monotonic()
    mu = momentum(**self.config.ema, total_steps=self.config.total_steps)
    train_step = step.make_train_step(
      self.objective, self.optimizer, mu, self.config.seed
    )
    shardings = jax.tree.map(lambda x: x.sharding, state)
    compiled = (
      jax.jit(
        train_step,
        donate_argnums=0,
        out_shardings=(shardings, sharding.replicated(self.mesh)),
      )
      .lower(state, batch)
      .compile()
    )
    seconds = time.monotonic() - begun
    size = sum(x.size for x in jax.tree.leaves(state.params))
    if jax.process_index() == 0:
      print(
        f'{size / 1e6:.2f} M parameters, {jax.device_count()} '
        f'{jax.devices()[0].device_kind} device(s), step compiled in '
        f'{seconds:.0f} s',
        file=sys.stderr,
      )
    return compiled

  def evaluate(self, state, done: int, log, bar) -> dict[str, float]:
    """Shows what the evaluators say of the online encoder."""
    scores = log.pause(lambda: self.scores(state.params))
    self.last = {done: scores}
    if scores and done < self.config.total_steps:
      told = (
        f'{k.replace("/top1", "").replace("_", " ")} {v:.1f}'
        for k, v in scores.items()
        if k.endswith('top1')
      )
      bar.print(f'step {done}: {", ".join(told)}')
    return {f'eval/{k}': v for k, v in scores.items()}

  def scores(self, params) -> dict[str, float]:
    """The evaluators' metrics in percent for these parameters."""
    if not self.evaluators:
      return {}
    encode = self.seen.of(params)
    if self.features is None:
      self.features = evals.EncodedFeatures(
        *encode, lambda split: dataset.open_split(self.config, split),
        self.config.image_size, min(256, self.config.batch_size),
      )  # fmt: skip
    return evals.evaluate(
      self.evaluators, self.features.with_encoders(*encode)
    )

  def finish(self, state) -> None:
    """The final table and the report, on process 0."""
    config = self.config
    rows = {}
    if self.evaluators:
      rows['raw pixels'] = evals.evaluate(
        self.evaluators,
        evals.PixelFeatures(lambda split: dataset.open_split(config, split)),
      )
      rows['untrained'] = self.scores(self.make().params)
      done = self.last.get(config.total_steps)
      rows['trained'] = done or self.scores(state.params)
      if state.ema:
        rows['EMA'] = self.scores(state.params | state.ema)
    panel = None
    if config.panel.examples:
      panel = self.seen.panel(
        state,
        dataset.open_split(config, config.panel.split or config.data.split),
        self.data.recipe,
      )
    if jax.process_index():
      return
    if rows:
      print(evals.table(rows))
      for name, line in evals.explain(self.evaluators).items():
        print(f'  {name.replace("_", " ")}: {line}')
    path = report.write_report(
      self.workdir,
      metrics.read(self.workdir),
      rows,
      panel,
      json.dumps(schema.as_json(config), indent=2),
      f'm3i_jax: {self.workdir.name}',
      evals.explain(self.evaluators),
    )
    print(f'report: {path}')


def claim(config: ConfigDict, workdir: Path) -> Path:
  """Makes the run's directory, or checks that it is this run's.

  Raises:
    UserError: it cannot be written, or holds a run of another config.
  """
  path = workdir / 'config.json'
  new = schema.as_json(config)
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    if path.exists():
      changed = schema.differences(json.loads(path.read_text()), new)
      if changed and not _begun(workdir):
        # A mistake ended it before its first step; this is its correction.
        (workdir / 'tokenizer.model').unlink(missing_ok=True)
      elif changed:
        raise UserError(
          f'{workdir} holds a run of another config ({"; ".join(changed)}): '
          'name another --workdir, or go on with the config of that run'
        )
    files.write(path, json.dumps(new, indent=2))
  except OSError as error:
    raise UserError(
      f'cannot write to --workdir {workdir} ({error.strerror}): name a '
      'directory that can be written'
    ) from error
  return workdir


def _begun(workdir: Path) -> bool:
  """Whether a run has left anything that a new one would overwrite."""
  logged = workdir / metrics.NAME
  return any((workdir / 'checkpoints').glob('*')) or (
    logged.exists() and logged.stat().st_size > 0
  )
