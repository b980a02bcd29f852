"""sum_k - log P_k( z_y^k | f_psi_k( f_theta(X), t_x, t_y^k ) ): eq. 4.

`Objective` is the equation as modules: one input X, one backbone f_theta, and a
table of `Target`s. A pre-training method is nothing else than such a table.
"""

import functools

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from m3i_jax import augment, balance, views
from m3i_jax.decoders import Frame
from m3i_jax.inputs import Input, Mixed, neighbour
from m3i_jax.representations import ENCODERS, Represented
from m3i_jax.target import Target

Array = jax.Array
GROUPS = ('ssp', 'sp')


@flax.struct.dataclass
class Sample:
  """One step's (s, t_x, t_y) on the device, colours and masks drawn.

  Attributes:
    views: the augmented views, images float32 in 0..1.
    mixed: X.
    y: what each representation reads: 'pixels' {view: [B, S, S, 3]}, 'ema' and
      'frozen' {view: {'tokens' [B, L, D], 'projected' {decoder: of them}}},
      'shared' {view: [B, S, S, 3]}, 'label' [B], 'text' [B, T].
  """

  views: dict[str, views.View]
  mixed: Mixed
  y: dict


class Objective(nn.Module):
  """The table of targets over one backbone.

  Attributes:
    input: how X is made.
    encoder: f_theta.
    decoders: f_psi by name.
    targets: the rows by name.
    colours: colour augmentation of each view.
    balance: lambda between the groups.
    teacher: the frozen target encoder, None if no target reads it.
  """

  input: Input
  encoder: nn.Module
  decoders: dict[str, nn.Module]
  targets: dict[str, Target]
  colours: dict[str, augment.Colour]
  balance: balance.Fixed | balance.GradientNorm
  teacher: nn.Module | None = None

  def encode(self, sample: Sample, train: bool = True) -> dict:
    """z_x = f_theta(X): the input features {'tokens' [B, N, D], 'cls' [B, D]}.

    Beside them under 'shared' {view: features} of the views that f_theta itself
    encodes as targets.
    """
    z_x = features_of(
      self.encoder(sample.mixed.image, sample.mixed.cells, train=train)
    )
    if shared := sample.y.get('shared'):
      z_x['shared'] = self._encode_views(
        self.encoder, shared, train=train, last=self._last('shared')
      )
    return z_x

  def encode_views(self, images: dict[str, Array], reads: str = 'ema') -> dict:
    """What a target encoder without gradient says of clean, whole views.

    Args:
      images: [B, S, S, 3] by view.
      reads: 'ema' or 'frozen', whose parameters are bound.
    Returns:
      by view {'tokens' [B, L, D], 'projected': by decoder, as asked for}.
    """
    encoder = self.teacher if reads == 'frozen' else self.encoder
    features = self._encode_views(encoder, images, last=self._last(reads))
    for target in self.targets.values():
      z = target.representation
      if z.reads == reads and z.projected:
        seen = features[target.of]
        done = seen.setdefault('projected', {})
        if target.decoder not in done:
          done[target.decoder] = self.decoders[target.decoder].project(seen)
    return features

  def predict(self, z_x: dict, sample: Sample, group: str) -> dict:
    """zhat_y of every target of a group: {name: {component: zhat}}.

    Each image sees its own tokens only. Targets that ask the same decoder the
    same share its answer.
    """
    answers, predictions = {}, {}
    for name, target in self.targets.items():
      if target.group != group:
        continue
      predictions[name] = {}
      for c in target.components:
        question = (target.decoder, c, target.of if group == 'ssp' else '')
        question += (target.cells,)
        if question not in answers:
          own, frame = self._ask(z_x, sample, target, c)
          answers[question] = self.decoders[target.decoder](own, frame)
        predictions[name][c] = target.head(answers[question])
    return predictions

  def represent(self, z_x: dict, sample: Sample, group: str) -> dict:
    """z_y of every target of a group, in the order of the pictures."""
    z = {}
    for name, target in self.targets.items():
      if target.group == group:
        z[name] = target.encode(self._read(z_x, sample, target))
    return z

  def asked(
    self, name: str, z: Represented, sample: Sample, component: int
  ) -> Represented:
    """z_y as component `component` of each input is asked for it."""
    z = z.of(component)
    cells = self.hidden(name, sample, component)
    if cells is None:
      return z
    return z.replace(
      value=jnp.take_along_axis(z.value, cells[..., None], axis=1)
    )

  def hidden(self, name: str, sample: Sample, component: int) -> Array | None:
    """int32 [B, Q], the cells asked of a component; None for all."""
    return _queries(
      self.input, self.targets[name], sample.mixed, component
    )

  def group_loss(self, z_x: dict, sample: Sample, group: str):
    """The weighted sum of a group's terms, and {key: measurement}."""
    predictions = self.predict(z_x, sample, group)
    represented = self.represent(z_x, sample, group)
    total, metrics = jnp.float32(0.0), {}
    for name, by_component in predictions.items():
      terms, measured = [], []
      for c, prediction in by_component.items():
        z = self.asked(name, represented[name], sample, c)
        term, extra = self.targets[name](z, prediction)
        terms.append(term)
        measured.append(extra)
      target = self.targets[name]
      total += target.weight * sum(terms) / len(terms)
      for key in measured[0]:
        metrics[f'{key}/{name}'] = sum(m[key] for m in measured) / len(measured)
      for key, value in target.spread(represented[name]).items():
        metrics[f'{key}/{name}'] = value
    return total, metrics

  def __call__(self, batch: dict, key: Array):
    """L_SSP and L_SP, all encoders' parameters bound: used to make them."""
    features = {
      reads: functools.partial(self.encode_views, reads=reads)
      for reads in ('ema', 'frozen')
    }
    sample = self.sample(batch, features, key)
    z_x = self.encode(sample, train=False)
    return {g: self.group_loss(z_x, sample, g) for g in self.groups}

  def pooled(self, image: Array, target: str = '') -> Array:
    """Features of clean pictures for evaluation: float32 [B, D].

    Args:
      image: [B, S, S, 3], uint8 or float in 0..1.
      target: '' for the mean of the tokens; a decoder's name for its output; or
        a target's name for its prediction zhat_y (as in zero-shot use).
    """
    own = self.features(image)
    if not target:
      return own['tokens'].astype(jnp.float32).mean(1)
    if target in self.decoders:
      return self.decoders[target](own)
    row = self.targets[target]
    return row.head(self.decoders[row.decoder](own))

  def features(self, image: Array) -> dict[str, Array]:
    """f_theta of clean pictures: {'tokens' [B, L, D], 'cls' [B, D]}."""
    return self.encoder(views.normalize(image))

  def caption_logits(self, own: dict, text: Array, target: str) -> Array:
    """Of every next piece, for features `own` and texts [B, T]: [B, T-1, V]."""
    return self.decoders[self.targets[target].decoder](own, text)

  def embed(self, y: Array, target: str) -> Array:
    """z_y of texts alone, such as class names: float32 [B, D]."""
    return self.targets[target].encode(y).value

  def logits(self, z: Represented, prediction: Array, target: str) -> Array:
    """How a target scores predictions [B, D] against candidates: [B, M]."""
    return self.targets[target].logits(z, prediction)

  @property
  def groups(self) -> tuple[str, ...]:
    used = {t.group for t in self.targets.values()}
    return tuple(g for g in GROUPS if g in used)

  def reading(self, what: str) -> tuple[str, ...]:
    """Which views (or 'label', 'text') are read as `what` by some target."""
    return tuple(
      sorted(
        {t.of for t in self.targets.values() if t.representation.reads == what}
      )
    )

  @property
  def view_letters(self) -> tuple[str, ...]:
    """The views that the host must deliver."""
    of = {t.of for t in self.targets.values() if t.group == 'ssp'}
    return tuple(sorted(of | {self.input.view}))

  @property
  def made_by_encoders(self) -> tuple[str, ...]:
    """The targets that could collapse: those that an encoder makes."""
    return tuple(
      name
      for name, target in self.targets.items()
      if target.representation.reads in ENCODERS
    )

  @property
  def averaged(self) -> tuple[str, ...]:
    """The parameters that the EMA target encoder has, by their first names."""
    rows = [
      t for t in self.targets.values() if t.representation.reads == 'ema'
    ]
    projectors = {
      f'decoders_{t.decoder}' for t in rows if t.representation.projected
    }
    return ('encoder', *sorted(projectors)) if rows else ()

  @nn.nowrap
  def sample(self, batch: dict, features: dict, key: Array) -> Sample:
    """Draw colours, mask and mix for a batch; a pure function of (batch, key).

    Args:
      batch: from the host, see data/pipeline.py.
      features: by 'ema' and 'frozen', a function of images {view: [B, S, S,
        3]} as `encode_views`; of the target encoders that are read.
      key: of this step.
    """
    k_colour, k_mask = jax.random.split(key)
    seen = {
      name: augment.augment(
        view, self.colours[name], jax.random.fold_in(k_colour, ord(name))
      )
      for name, view in views.views_of(batch).items()
      if name in self.view_letters
    }
    images = {name: views.normalize(view.image) for name, view in seen.items()}
    mixed = self.input.sample(
      images[self.input.view], self.encoder.patch, k_mask
    )
    y = {'pixels': images}
    for reads in ENCODERS:
      if wanted := {name: images[name] for name in self.reading(reads)}:
        y[reads] = wanted
        if reads != 'shared':
          y[reads] = jax.lax.stop_gradient(features[reads](wanted))
    y |= {k: batch[k] for k in ('label', 'text') if k in batch}
    return Sample(seen, mixed, y)

  def _encode_views(self, encoder, images: dict, **how) -> dict:
    """{view: features} of whole views, in one pass."""
    # The views of a picture side by side: no picture leaves its shard.
    both = jnp.stack(list(images.values()), axis=1)
    features = features_of(encoder(both.reshape(-1, *both.shape[2:]), **how))
    features = jax.tree.map(
      lambda x: x.reshape(*both.shape[:2], *x.shape[1:]), features
    )
    return {
      name: jax.tree.map(lambda x, n=n: x[:, n], features)
      for n, name in enumerate(images)
    }

  def _last(self, reads: str) -> int:
    """Of how many blocks the target encoder's output is the mean."""
    rows = [t.representation for t in self.targets.values()]
    return max(z.last for z in rows if z.reads == reads)

  def _read(self, z_x: dict, sample: Sample, target: Target):
    """What a target's representation is made of."""
    z = target.representation
    if target.group == 'sp':
      return sample.y[z.reads]
    if z.reads == 'pixels':
      return sample.y['pixels'][target.of]
    if z.reads != 'shared':
      seen = sample.y[z.reads][target.of]
      if z.projected:
        return seen['projected'][target.decoder]
      return seen['tokens']
    seen = z_x['shared'][target.of]
    if z.projected:
      return self.decoders[target.decoder].project(seen)
    return seen['tokens']

  def _ask(self, z_x: dict, sample: Sample, target: Target, component: int):
    """What the component knows of itself, and t_y: where, or which text."""
    count = sample.mixed.mask.shape[-1]
    own = {k: v for k, v in z_x.items() if k != 'shared'}
    cells = sample.mixed.cells
    if cells is not None:
      where = self.input.slice(component, count)
      own['tokens'], cells = own['tokens'][:, where], cells[:, where]
    if self.input.images == 2:
      own.pop('cls', None)  # It has seen both images.
    swap = neighbour if component == 1 else lambda x: x
    if target.group == 'sp':
      # Only a caption's decoder is told of its target: of the earlier pieces.
      tells = target.of == 'text' and target.representation.tells
      return own, swap(sample.y['text']) if tells else None
    # The second image of input n is picture n XOR 1, with its own crops.
    x, y = sample.views[self.input.view], sample.views[target.of]
    x, y = jax.tree.map(swap, (x, y))
    queries = _queries(self.input, target, sample.mixed, component)
    return own, Frame.between(round(count**0.5), x, y, cells, queries)


def features_of(outputs: dict) -> dict:
  """z_x of all that an encoder gives: not its pyramid, nor its classifier."""
  return {k: v for k, v in outputs.items() if k in ('tokens', 'cls')}


def _queries(
  input_: Input, target: Target, mixed: Mixed, component: int
) -> Array | None:
  """The cells that the component does not own, in raster order."""
  cells = mixed.mask.shape[-1]
  if target.group == 'sp' or target.cells == 'all' or mixed.cells is None:
    return None
  visible = mixed.mask if component == 0 else ~mixed.mask
  order = jnp.argsort(visible, axis=-1, stable=True)
  return order[:, : cells - input_.owned(cells)].astype(jnp.int32)
