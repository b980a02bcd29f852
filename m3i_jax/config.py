"""The schema of a config file.

`default()` is every key that exists, with its default. A config file changes
some and returns `variant(config, arg)`; build.py makes the objects from it.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from m3i_jax import models, sharding, specs
from m3i_jax.augment import Colour
from m3i_jax.data.crops import Crop
from m3i_jax.errors import UserError
from m3i_jax.inputs import Input
from m3i_jax.optim import Optimizer

# What may change when a run goes on: nothing that changes a result, but for
# the draws of stochastic depth with `accumulate`.
FREE = (
  'mesh', 'log_every', 'eval_every', 'checkpoint_every', 'keep', 'panel',
  'watchdog', 'guard.patience', 'guard.rollbacks', 'data.threads',
  'data.workers', 'data.max_bad', 'accumulate', 'model.remat', 'model.unroll',
)  # fmt: skip


def default() -> ConfigDict:
  """Every key with its default; keys that are not here cannot be set.

  `targets`, `decoders`, `evals` and `balance` take further entries, which are
  checked when the objects are built.
  """
  view = dataclasses.asdict(Crop(size=0)) | dataclasses.asdict(Colour())
  del view['size']
  config = ConfigDict(
    dict(
      seed=0,
      batch_size=4096,  # pictures a step, over all devices
      total_steps=0,
      log_every=50,  # steps
      eval_every=0,  # steps; 0: only at the end
      checkpoint_every=1000,  # steps
      keep=2,  # checkpoints
      mesh=dict(replica=1, fsdp=-1, tensor=1),  # -1: the devices that are left
      accumulate=1,  # parts of the batch that the encoder sees in turn
      guard=dict(
        patience=3,  # steps left out in a row before a rollback
        rollbacks=1,  # in the whole run, before it ends
        spike=0.0,  # leave out gradients so many times the usual; 0: none
      ),
      watchdog=1800,  # seconds without progress before the end; 0: none
      data=dict(
        source='',  # a prepared directory, 'tfds:NAME', 'emoji', 'synthetic'
        sources={},  # or a mixture: {name: dict(source=..., weight=...)}
        together=1,  # positions in a row from one source of a mixture
        split='train',
        image='image',  # the field of each part
        label='',
        text='',
        tags='',
        id='',
        tags_probability=0.0,  # of 'caption: tag, tag' instead of 'caption'
        max_tags=3,
        text_length=64,  # tokens
        tokenizer='',  # a SentencePiece model; '': train one on the captions
        vocabulary=8000,  # of a tokenizer trained here
        threads=0,  # that make batches, in each process; 0: as it fits
        workers=0,  # further processes, for hosts with many cores
        max_bad=0.05,  # share of pictures that cannot be read, to end the run
      ),
      image_size=224,
      views=dict(a=dict(view), b=dict(view)),
      input=dataclasses.asdict(Input()),
      model=backbone('vit', 'B'),
      teacher='',  # weights of the 'frozen' target encoder: a file, or a run
      init_from='',  # weights to start from: files or runs, with commas between
      decoders={},
      targets={},
      balance=dict(kind='gradient_norm'),
      optimizer=dataclasses.asdict(Optimizer()),
      ema=dict(start=0.995, end=1.0),
      evals={},
      features='',  # evaluated: a decoder's output, '': the mean token
      panel=dict(split='', examples=6),  # of the report; 0: none
    )
  )
  config.lock()
  for free in ('targets', 'decoders', 'evals', 'balance'):
    config[free].unlock()
  config.data.sources.unlock()
  return config


def backbone(name: str, variant: str = '', **fields: Any) -> dict[str, Any]:
  """config.model of a backbone: all its fields, those given changed.

  What a variant says holds for every field that is at its default here.
  """
  headless = dict(num_classes=0, dtype='bfloat16')
  return dict(
    dict(name=name, variant=variant) | models.default(name) | headless, **fields
  )


def variant(config: ConfigDict, arg: str, **variants) -> ConfigDict:
  """The config as FILE:ARG names it.

  Args:
    arg: '' for the config itself, 'debug', or a key of `variants`.
    variants: functions that change the config in place, by name.
  """
  known = {'debug': debug} | variants
  if arg:
    if arg not in known:
      raise UserError(
        f'no variant {arg!r} of this config: choose from {", ".join(known)}'
      )
    known[arg](config)
  return config


def debug(config: ConfigDict) -> None:
  """Five steps of a tiny model on drawn shapes: anywhere, in a minute."""
  data = config.data
  data.update(
    source='' if data.sources else 'synthetic:64', split='train', label='label',
    text='caption' if data.text else '', tags='', id='', text_length=16,
    tokenizer='', vocabulary=400,
  )  # fmt: skip
  for name, one in data.sources.items():
    # What a source does not have, its stand-in has not either.
    absent = {k: one[k] for k in one if one[k] == '' or k == 'weight'}
    data.sources[name] = absent | dict(source='synthetic:64')
  config.update(
    batch_size=16, total_steps=5, log_every=1, eval_every=0, image_size=32,
    accumulate=1, mesh=dict(replica=1, fsdp=-1, tensor=1),
  )  # fmt: skip
  model = config.model
  small = models.settled(model.name, model.variant, models.TINY[model.name])
  model.update(small, variant='', dtype='float32')
  _shrink_parts(
    config,
    models.TINY['vit'],
    dict(width=32, depth=1, heads=2, hidden=64),
  )
  labelled = (k for k, v in data.sources.items() if v.get('label') != '')
  of = next((f'{name}/' for name in labelled), '')
  config.panel.split = f'{of}test'
  config.evals = ConfigDict(dict(knn=dict(
    kind='knn', train=f'{of}train', test=f'{of}test', label='label', k=5
  )))  # fmt: skip


def shrink(config: ConfigDict, model: dict, decoder: dict) -> None:
  """Makes the encoder, and every part beside it, small; a method stays itself.

  Args:
    model: width, depth, heads, hidden of the encoder, which the vectors of
      whole pictures, the text tower and the projectors are at most as wide as.
    decoder: the same of the dense and the caption decoder, at most.
  """
  config.model.update(model, variant='')
  _shrink_parts(config, model, decoder)


def _shrink_parts(config: ConfigDict, model: dict, decoder: dict) -> None:
  vector = dict(model, out=model['width'], cosine=model['width'] // 2)
  vector |= dict(count=64, last=model['depth'], variant='')
  inner = dict(decoder, projector=1, depth_uni=1, depth_multi=1)
  sizes = ('width', 'heads', 'hidden')
  given = {
    'dense': (*sizes, 'depth'),
    'caption': (*sizes, 'depth_uni', 'depth_multi'),
    'text': (*sizes, 'depth'),
    'pool': ('heads',),
  }

  def small(spec, caps, kinds=given):
    spec = dict(kind=spec) if isinstance(spec, str) else dict(spec)
    for key in kinds.get(spec['kind'], ()):
      spec.setdefault(key, caps[key])
    return {k: _at_most(v, caps[k]) if k in caps else v
            for k, v in spec.items()}  # fmt: skip

  with config.ignore_type():
    for name, spec in config.decoders.items():
      kind = spec if isinstance(spec, str) else spec.kind
      caps = inner if kind in ('dense', 'caption') else vector
      config.decoders[name] = small(spec, caps)
    for row in config.targets.values():
      kinds = {'text': given['text']}
      row.representation = small(row.representation, vector, kinds)
      if row.get('predictor'):
        row.predictor = small(row.predictor, vector, {})


def _at_most(value, cap):
  if isinstance(value, tuple):
    return tuple(min(v, cap) for v in value)
  return min(value, cap)


def check(config: ConfigDict, devices: int) -> None:
  """Raises UserError for what can be told from the config alone."""
  for key in ('batch_size', 'total_steps', 'image_size', 'checkpoint_every',
              'log_every', 'keep', 'accumulate'):  # fmt: skip
    if config[key] <= 0:
      raise UserError(f'config.{key}={config[key]}: it must be positive')
  if config.panel.examples < 0 or config.eval_every < 0:
    raise UserError(
      f'config.panel.examples={config.panel.examples}, config.eval_every='
      f'{config.eval_every}: neither may be negative'
    )
  specs.bounded(config.ema, 'config.ema')
  specs.bounded(config.data, 'config.data')
  if not config.data.source and not config.data.sources:
    raise UserError(
      'no data: --config.data=DIR names a directory that m3i_jax.prepare has '
      "written, 'tfds:NAME', 'emoji' or 'synthetic'"
    )
  if not config.targets:
    raise UserError('config.targets is empty: a method needs a target')
  guard = config.guard
  if guard.patience < 1 or min(guard.rollbacks, config.watchdog) < 0 or (
    guard.spike and guard.spike <= 1
  ):
    raise UserError(
      f'config.guard={dict(guard)}, config.watchdog={config.watchdog}: '
      'patience must be at least 1, spike above 1 or 0 for none, the others '
      'not negative'
    )
  _check_batch(config, devices)


def _check_batch(config: ConfigDict, devices: int) -> None:
  replica, fsdp, _ = sharding.sizes(**config.mesh, devices=devices)
  size = config.batch_size
  unit = replica * fsdp * config.input.images * config.accumulate
  if size % unit:
    pair = ' pairs of mixed pictures' if config.input.images == 2 else ''
    parts = f' in {config.accumulate} parts' * (config.accumulate > 1)
    near = [n for n in (size // unit * unit, -(-size // unit) * unit) if n]
    raise UserError(
      f'config.batch_size={size} cannot be split over{pair} on '
      f'{replica * fsdp} devices{parts}: choose a multiple of {unit}, '
      f'such as {" or ".join(map(str, near))}, or another config.mesh'
    )


def differences(old: Mapping, new: Mapping) -> list[str]:
  """'key: old -> new' for each value that may not change in a run.

  A key that an older run did not have was at its default.
  """

  def flat(tree, prefix=''):
    for key, value in tree.items():
      if isinstance(value, Mapping):
        yield from flat(value, f'{prefix}{key}.')
      else:
        yield f'{prefix}{key}', value

  start = {k: v for k, v in flat(as_json(default())) if '.' not in k or (
    k.split('.')[0] in ('mesh', 'guard', 'data', 'panel', 'optimizer')
  )}  # fmt: skip
  old, new = start | dict(flat(old)), start | dict(flat(new))
  return [
    f'config.{key}: {old.get(key, "absent")} -> {new.get(key, "absent")}'
    for key in sorted(old | new)
    if old.get(key) != new.get(key)
    and not {key, key.split('.')[0]} & set(FREE)
  ]


def as_json(config: ConfigDict) -> dict[str, Any]:
  """Plain JSON values (tuples become lists)."""
  return json.loads(json.dumps(config.to_dict()))
