"""A trained objective on show: encoders for the evaluators, and the panel."""

import functools
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from m3i_jax import captions, sharding, views
from m3i_jax.data import pipeline, sources
from m3i_jax.data.vocabulary import Vocabulary
from m3i_jax.gradient import Teachers
from m3i_jax.objective import Objective, Sample
from m3i_jax.report.panel import Panel
from m3i_jax.representations import Represented
from m3i_jax.step import TrainState

CAPTIONS = 1000  # at most, that a picture of the panel can be taken for
SHOWN = 4  # likeliest names
SEARCHES = {
  'greedy': {},
  '4 beams': dict(beams=4),
  'sampled': dict(top_p=0.9),
}  # for captions


class Encoders:
  """Jitted once, for any parameters of one objective."""

  def __init__(
    self,
    config: ConfigDict,
    objective: Objective,
    tokenizer: Vocabulary | None,
    mesh: Mesh,
  ):
    self.config, self.objective = config, objective
    self.tokenizer = tokenizer
    words = [
      name
      for name, target in objective.targets.items()
      if hasattr(target.representation, 'pool') and target.predictor is None
    ]
    self.text = words[0] if words else ''
    feature = config.features
    whole = sharding.replicated(mesh)
    self._image = jax.jit(
      lambda params, image: objective.apply(
        {'params': params}, image, feature, method='pooled'
      ),
      out_shardings=whole,
    )
    self._text = jax.jit(
      lambda params, tokens, target: objective.apply(
        {'params': params}, tokens, target, method='embed'
      ),
      static_argnums=2,
      out_shardings=whole,
    )
    # Pictures and captions can be compared where the text target does it.
    self._same = bool(self.text) and (
      objective.targets[self.text].decoder == feature
    )

  def of(self, params) -> tuple[Callable, Callable | None]:
    """(pictures -> features, texts -> features), as `EncodedFeatures` asks."""
    image = lambda pictures: self._image(params, pictures)
    if not self._same:
      return image, None
    return image, lambda texts: self._text(
      params, self.tokens(texts), self.text
    )

  def tokens(self, texts: list[str]) -> np.ndarray:
    length = self.config.data.text_length
    return np.stack([self.tokenizer.encode(text, length) for text in texts])

  def panel(
    self, state: TrainState, source: sources.Source, recipe: pipeline.Recipe,
    classes: Sequence[str],
  ) -> Panel:  # fmt: skip
    """A few examples: the views, mask and mix, and each target's answer.

    classes: that the objective was trained on; the source may have others.
    """
    count = self.config.panel.examples
    count += count % 2  # neighbours are mixed
    rows = [
      pipeline.sample(source, self.config.seed, position, recipe)
      for position in range(count)
    ]
    batch = jax.tree.map(lambda *x: np.stack(x), *rows)
    records = [source[int(i)] for i in batch['record']]
    sample, answers = jax.device_get(
      jax.jit(self._answers)(
        state.params, Teachers(state.ema, state.frozen), state.running, batch
      )
    )
    told = [r['text'][0] if r['text'] else '' for r in records]
    labels = [_name(source.classes, r['label']) for r in records]
    truth = {'label': labels, 'text': told}
    choices = {
      'label': list(classes),
      'text': self._captions(source, told) if self.tokenizer else [],
    }
    targets = {}
    for name, target in self.objective.targets.items():
      for c in target.components:
        key = name if len(target.components) == 1 else f'{name} {c + 1}'
        z, prediction, cells = answers[name][c]
        if target.group == 'ssp':
          if z.value is not None and z.value.ndim == 3:
            targets[key] = self._dense(
              target, z, prediction, cells, c, sample
            )
        elif z.choices:
          targets[key] = dict(
            kind='caption',
            asked=_neighbours(told, c),
            predicted=self._said(state.params, name, sample, c),
            component=c,
          )
        else:
          probabilities = self._probabilities(
            state.params, name, z, prediction, choices[target.of]
          )
          targets[key] = dict(
            kind='category' if target.of == 'label' else 'text',
            asked=_neighbours(truth[target.of], c),
            predicted=[_best(choices[target.of], p) for p in probabilities],
            component=c,
          )
    return seen(self.objective, sample, targets)

  def _answers(self, params, teachers: Teachers, running, batch):
    """The sample, and {target: {component: (z, zhat, cells)}}."""
    objective = self.objective
    apply = objective.apply
    sample = objective.sample(
      batch, teachers.features(objective), jax.random.key(self.config.seed)
    )
    variables = {'params': params, 'running': running}
    z_x = apply(variables, sample, False, method='encode')
    answers = {}
    for group in objective.groups:
      predicted = apply(variables, z_x, sample, group, method='predict')
      z = apply(variables, z_x, sample, group, method='represent')
      for name, by_component in predicted.items():
        answers[name] = {
          c: (
            objective.asked(name, z[name], sample, c),
            prediction,
            objective.hidden(name, sample, c),
          )
          for c, prediction in by_component.items()
        }
    return sample, answers

  def _dense(self, target, z, prediction, cells, component, sample: Sample):
    count = sample.mixed.mask.shape[-1]
    if cells is None:
      cells = np.tile(np.arange(count), (len(prediction), 1))
    kind = 'pixels' if target.representation.reads == 'pixels' else 'dense'
    asked = z.value
    if kind == 'pixels':
      image = sample.views[target.of].image
      if component:
        image = _neighbours(image, 1)
      true = views.patches(image, self.objective.encoder.patch)
      true = np.take_along_axis(true, cells[..., None], axis=1)
      asked, prediction = true, self._drawn(prediction, true, target)
    return dict(
      kind=kind, asked=np.asarray(asked), predicted=np.asarray(prediction),
      cells=np.asarray(cells), component=component, of=target.of,
    )  # fmt: skip

  def _drawn(self, prediction, true, target) -> np.ndarray:
    """Predicted patches as colours: the true patch's statistics put back."""
    colours = prediction.reshape(*prediction.shape[:-1], -1, 3)
    if target.representation.normalize:
      scaled = views.normalize(true.reshape(colours.shape))
      flat = np.asarray(scaled).reshape(prediction.shape)
      mean, std = flat.mean(-1, keepdims=True), flat.std(-1, keepdims=True)
      colours = (prediction * std + mean).reshape(colours.shape)
    return np.asarray(views.denormalize(colours)).reshape(prediction.shape)

  def _probabilities(self, params, name, z, prediction, choices):
    if self.objective.targets[name].of == 'text':
      # The captions of the split instead of those of the batch.
      candidates = self._text(params, self.tokens(choices), name)
      z = Represented(None, z.valid, candidates)
    logits = self.objective.apply(
      {'params': params}, z, prediction, name, method='logits'
    )
    return np.asarray(jax.nn.softmax(logits))

  def _said(self, params, name: str, sample: Sample, component: int):
    """Captions of the clean view, as searched for in three ways."""
    view = sample.views[self.objective.input.view]
    image = _neighbours(view.image, component)
    length = self.config.data.text_length

    def say(params, image):
      apply = functools.partial(self.objective.apply, {'params': params})
      own = apply(image, method='features')
      score = lambda own, words: apply(
        own, words, name, method='caption_logits'
      )
      drawn = {'sampled': jax.random.key(self.config.seed)}
      ends = dict(cls=self.tokenizer.cls, eos=self.tokenizer.eos)
      return [
        captions.generate(
          score, own, length, key=drawn.get(way), **how, **ends
        )
        for way, how in SEARCHES.items()
      ]

    found = jax.device_get(jax.jit(say)(params, image))
    return [
      [
        (_printable(self.tokenizer.decode(text[n])), float(likelihood[n]), how)
        for how, (text, likelihood) in zip(SEARCHES, found, strict=True)
      ]
      for n in range(len(image))
    ]

  def _captions(self, source, needed: list[str]) -> list[str]:
    found = dict.fromkeys(needed)
    for index in range(min(len(source), CAPTIONS)):
      found |= dict.fromkeys(source[index]['text'][:1])
    return list(found)


def seen(objective: Objective, sample: Sample, targets: dict) -> Panel:
  """The panel of a sample: its views, mask and mix as the encoder has them."""
  x = sample.mixed
  grid = round(x.mask.shape[-1] ** 0.5)
  mixed = np.asarray(views.denormalize(x.image))
  if objective.input.mask and objective.input.images == 1:
    patch = objective.encoder.patch
    shown = views.patches(mixed, patch)
    shown = np.where(x.mask[..., None], shown, 0.86)
    mixed = views.unpatches(shown, patch)
  masked = bool(objective.input.mask)
  return Panel(
    views={name: np.asarray(v.image) for name, v in sample.views.items()},
    mixed=mixed if masked else None,
    mask=x.mask.reshape(-1, grid, grid) if masked else None,
    targets=targets,
  )


def _neighbours(values, component: int):
  """values of the first image, or of its neighbour n XOR 1."""
  order = [n ^ component for n in range(len(values))]
  if isinstance(values, list):
    return [values[n] for n in order]
  return values[np.array(order)]


def _name(classes, label: int) -> str:
  return classes[label] if 0 <= label < len(classes) else '-'


def _printable(text: str) -> str:
  """An untrained decoder says bytes that are no letters."""
  return ''.join(x if x.isprintable() else '?' for x in text)


def _best(names: list[str], probabilities: np.ndarray):
  best = np.argsort(-probabilities)[:SHOWN]
  return [(names[i], float(probabilities[i])) for i in best]
