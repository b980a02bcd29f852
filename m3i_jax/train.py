"""A run: data, state, loop, evaluations, checkpoints, report."""

import contextlib
import sys
import time
from pathlib import Path

import jax
from ml_collections import ConfigDict

from m3i_jax import (
  build,
  dataset,
  flops,
  guard,
  init_from,
  metrics,
  processes,
  sharding,
  step,
  weights,
)
from m3i_jax import config as schema
from m3i_jax.alarm import CollapseAlarm
from m3i_jax.checkpoint import Checkpoints
from m3i_jax.data import texts
from m3i_jax.data.mixture import order_of
from m3i_jax.errors import Diverged, UserError
from m3i_jax.incidents import Incidents, Rollback
from m3i_jax.meter import Meter
from m3i_jax.program import Program, places_of
from m3i_jax.scoring import Scoring
from m3i_jax.steplog import StepLog
from m3i_jax.watchdog import Watchdog
from m3i_jax.workdir import claim, same_data


def train(
  config: ConfigDict,
  workdir: str,
  profile: tuple[int, int] | None = None,
  accept: bool = False,
) -> bool:
  """Trains, or goes on, to the last step; True when the run is complete.

  Args:
    profile: (start, stop), steps of which WORKDIR/profile gets a trace.
    accept: a run that goes on may have another config than it began with.
  Raises:
    UserError: anything that the user can mend, before the first step.
    Diverged: too many steps were not finite.
  """
  if '://' in str(workdir):
    raise UserError(
      f'--workdir={workdir} is no path: mount the bucket, and name the '
      'directory in it'
    )
  workdir = Path(workdir)
  fresh = not any((workdir / 'checkpoints').glob('[0-9]*'))
  teacher, evaluators = parts(config, jax.device_count(), fresh)
  mesh = sharding.make_mesh(**config.mesh)
  dataset.check_splits(config, evaluators)
  accepted = processes.first('claim', lambda: claim(config, workdir, accept))
  for change in accepted or []:
    _say(f'accepted: {change}')
  data = dataset.Data.open(config, workdir)
  processes.first('data', lambda: same_data(
    workdir, order_of(data.source, config.seed).lengths, data.source.classes,
    accept,
  ))  # fmt: skip
  objective = build.build(
    config,
    len(data.source.classes),
    data.tokenizer.vocab_size if data.tokenizer else 0,
    teacher,
  )
  data.recipe = dataset.recipe(config, objective, data)
  if data.recipe.text:
    words = data.recipe.text
    told = texts.truncation(texts.lengths(data.source, words), words)
    if told:
      _say(f'warning: {told}')
  program = Program(config, objective, mesh)
  watched = Watchdog(config.watchdog, processes.who())
  with jax.set_mesh(mesh), _memory_told(), watched as dog:
    scoring = Scoring(program, workdir, data, evaluators, dog.beat)
    return _Run(program, workdir, data, scoring, dog, profile).go()


def parts(config: ConfigDict, devices: int, fresh: bool = True):
  """(the teacher's model, evaluators); UserError for a mistake.

  fresh: config.init_from, which a run that goes on does not read, counts.
  """
  schema.check(config, devices)
  teacher = weights.describe(config.teacher) if config.teacher else None
  # Whether there are labels and texts is known, not yet how many.
  label, text = bool(config.data.label), bool(config.data.text)
  objective = build.build(config, int(label), int(text), teacher)
  if fresh:
    init_from.check(config.init_from, objective)
  build.optimizer(config)
  return teacher, build.evaluators(config)


class _Run:
  """One process's part of a run; `go` reads from top to bottom."""

  def __init__(
    self, program: Program, workdir: Path, data: dataset.Data,
    scoring: Scoring, dog: Watchdog, profile: tuple[int, int] | None,
  ):  # fmt: skip
    self.program, self.config = program, program.config
    self.workdir, self.data, self.scoring = workdir, data, scoring
    self.dog, self.profile = dog, _Profile(workdir, profile)
    self.train_step = None

  def go(self) -> bool:
    """From the first state to the report; False if a signal stopped it."""
    config = self.config
    with self.dog.phase('open the checkpoints'):
      self.checkpoints = Checkpoints(
        self.workdir, config.checkpoint_every, config.keep
      )
    with contextlib.closing(self.checkpoints):
      start, state = self.first_state()
      self.scored = {  # read by every process, before one writes
        row['step']
        for row in metrics.read(self.workdir)
        if any(key.startswith('eval/') for key in row)
      }
      self.writer = metrics.Writer(self.workdir)
      if start < config.total_steps and self.train_step is None:
        self.compile(state)
      # From here on the clock of the progress bar runs.
      self.bar = metrics.Progress(config.total_steps, start)
      self.log = self.new_log(state.params)
      rollback = True
      while rollback:
        try:
          rollback, (start, state) = None, self.steps(start, state)
        except Rollback as error:
          # Its frames hold the state: two of them may not fit.
          rollback, state = error.with_traceback(None), None
        finally:
          self.profile.stop()
        if rollback:
          start, state = self.roll_back(rollback)
      if start < config.total_steps:
        self.bar.print(f'stopped by a signal; step {start} is saved')
        return False
      with self.dog.phase('save'):
        self.save(config.total_steps, state, force=True)
        self.checkpoints.wait()
      self.bar.close()
      self.writer.close()
      with self.dog.phase('report'):
        self.scoring.finish(state)
    return True

  def steps(self, start: int, state: step.TrainState):
    """(steps done, state) after the last step, or where a signal came."""
    config, log, dog = self.config, self.log, self.dog
    self.writer.truncate(start)
    self.scored = {done for done in self.scored if done <= start}
    if start:
      self.score(start, state)  # if the run was stopped before it could
    batches = self.data.batches(
      config, start, self.program.rows(), int(state.guard['passed'])
    )
    for number in range(start, config.total_steps):
      done = number + 1
      self.profile.before(number)
      with dog.phase('wait for data'):
        batch = self.program.put(log.waiting(lambda: next(batches)))
      with jax.transfer_guard('disallow'):
        state, measured = self.train_step(state, batch)
      log.step(done, measured)
      dog.beat(done)
      if done % config.checkpoint_every == 0:
        log.flush()  # so that a state on the brink is never saved
      with dog.phase('save'):
        if log.good:
          self.save(done, state)
        stop = self.checkpoints.reached_preemption(done)
        if stop:
          self.save(done, state, force=True)  # if it is not yet
      if stop and done < config.total_steps:
        with contextlib.suppress(Rollback):  # the next run will see
          log.flush()
        return done, state
      self.score(done, state)
    return config.total_steps, state

  def save(self, done: int, state, force: bool = False) -> None:
    self.checkpoints.save(done, state, schema.as_json(self.config), force)

  def score(self, done: int, state: step.TrainState) -> None:
    """Adds to the row of a step what the evaluators say, where it is due."""
    every = self.config.eval_every
    if done < self.config.total_steps and not (every and done % every == 0):
      return
    if done in self.scored:
      return
    self.log.flush()
    with self.dog.phase('evaluate'):
      scores = self.log.pause(
        lambda: self.scoring.on_the_way(state.params, done, self.bar.print)
      )
    self.writer.amend(done, scores)
    self.scored.add(done)

  def first_state(self) -> tuple[int, step.TrainState]:
    """(steps done, state): the newest checkpoint's, or a fresh one."""
    with self.dog.phase('restore'):
      if self.checkpoints.latest_step() is None:
        return 0, self.fresh_state()
      return self.checkpoints.restore(self.program.state())

  def fresh_state(self) -> step.TrainState:
    """Of step 0, what files have of it read from them."""
    config = self.config
    state = init_from.start(
      config.init_from, self.program.make(), self.program.objective,
      self.workdir / 'tokenizer.model',
    )  # fmt: skip
    if not state.frozen:
      return state
    loaded = weights.load(config.teacher, state.frozen['teacher'])
    places = places_of(state.frozen)
    return state.replace(frozen=jax.device_put({'teacher': loaded}, places))

  def roll_back(self, rollback: Rollback) -> tuple[int, step.TrainState]:
    """The last good checkpoint's state; Diverged after too many of them."""
    most, done = self.config.guard.rollbacks, rollback.step
    if rollback.guard['rollbacks'] >= most:
      raise Diverged(
        f'step {done}: {self.config.guard.patience} steps in a row were left '
        f'out, after {rollback.guard["rollbacks"]} rollbacks; '
        f'{self.workdir / "incidents.jsonl"} names losses, parameters and '
        'pictures: lower config.optimizer.learning_rate, or set '
        'config.optimizer.clip'
      )
    self.checkpoints.wait()
    start, state = self.first_state()
    new = guard.rolled_back(
      rollback.guard, done, jax.device_get(state.guard), start
    )
    state = state.replace(guard=jax.device_put(new, places_of(state.guard)))
    self.bar.print(
      f'gone back to step {start}; batches up to step {done} are passed over'
    )
    self.log = self.new_log(state.params)
    self.log.incidents.write(dict(step=done, event='rollback', to=start))
    return start, state

  def compile(self, state: step.TrainState) -> None:
    """Makes the train step."""
    begun = time.monotonic()
    with self.dog.phase('compile'):
      self.train_step = self.program.lower().compile()
    size = sum(x.size for x in jax.tree.leaves(state.params))
    _say(
      f'{size / 1e6:.2f} M parameters, {jax.device_count()} '
      f'{jax.devices()[0].device_kind} device(s), step compiled in '
      f'{time.monotonic() - begun:.0f} s'
    )

  def new_log(self, params) -> StepLog:
    """What listens to the steps, without a memory of earlier ones."""
    config, objective = self.config, self.program.objective
    length = config.data.text_length if self.data.recipe.text else 0
    needed = flops.analytic(
      objective, config.image_size, config.batch_size, length
    )
    incidents = Incidents(
      self.workdir,
      _names(params),
      lambda position, rows: self.data.pictures(config, position, rows),
      config.guard.patience,
      objective.input.images,
      self.bar.print,
    )
    return StepLog(
      self.writer,
      self.bar,
      config.log_every,
      Meter(sum(needed.values()), config.batch_size),
      CollapseAlarm(objective.made_by_encoders),
      incidents,
      lambda done, replaced: self.data.quarantine.check(
        replaced, done * config.batch_size, config.data.max_bad
      ),
    )


class _Profile:
  """A trace of some steps, for TensorBoard's profiler or Perfetto."""

  def __init__(self, workdir: Path, steps: tuple[int, int] | None):
    self.directory, self.steps = str(workdir / 'profile'), steps
    self.running = False

  def before(self, number: int) -> None:
    """To be called before step `number`, counted from 0."""
    if self.steps and number == self.steps[0] and not self.running:
      jax.profiler.start_trace(self.directory)
      self.running = True
    elif self.steps and number == self.steps[1]:
      self.stop()

  def stop(self) -> None:
    if self.running:
      jax.profiler.stop_trace()
      self.running = False
      _say(f'trace: {self.directory}')


@contextlib.contextmanager
def _memory_told():
  """Says in one line that a device's memory is too small, and what helps."""
  try:
    yield
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    raise UserError(
      f'out of device memory ({str(error).splitlines()[0]}): set '
      "config.model.remat='full', raise config.accumulate or config.mesh.fsdp, "
      'or lower config.batch_size; python -m m3i_jax.plan tells what fits'
    ) from error


def _names(tree) -> list[str]:
  return [
    jax.tree_util.keystr(path, simple=True, separator='/')
    for path, _ in jax.tree.leaves_with_path(tree)
  ]


def _say(line: str) -> None:
  """A line of the run, once."""
  if jax.process_index() == 0:
    print(line, file=sys.stderr)
