"""sum_k - log P_k( z_y^k | f_psi_k( f_theta(X), t_x, t_y^k ) ): eq. 4 and 13.

`Objective` is the equation as modules: one input X, one backbone f_theta, and a
table of `Target`s. A pre-training method is nothing else than such a table.
`loss_and_gradient` is a step's mathematics as one pure function.
"""

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from m3i_jax import augment, balance, views
from m3i_jax.decoders import Frame
from m3i_jax.inputs import Input, Mixed, neighbour
from m3i_jax.representations import Represented

Array = jax.Array
Params = dict
GROUPS = ('ssp', 'sp')


class Target(nn.Module):
  """One row of the table: what is predicted, for whom, and how it is scored.

  Attributes:
    of: y: the view 'a' or 'b', the 'label' or the 'text'. A target of the
      input's own view is intra-view, of the other view inter-view.
    representation: f_phi, a module of `representations`.
    decoder: name in `Objective.decoders`; targets may share one.
    distribution: P, a module of `distributions`.
    regularizer: see `regularizers`.
    components: which images of the input predict theirs: (0,), (1,), (0, 1).
    cells: dense targets: 'all' cells of the target view, or the 'hidden' ones
      that the predicting image does not own (for targets of the input view).
    predictor: a module between decoder and distribution, or None.
    weight: of the target's term.
  """

  of: str
  representation: nn.Module
  decoder: str
  distribution: nn.Module
  regularizer: object
  components: tuple[int, ...] = (0,)
  cells: str = 'all'
  predictor: nn.Module | None = None
  weight: float = 1.0

  @property
  def group(self) -> str:
    """Its side of eq. 13: L_SSP predicts views, L_SP category and text."""
    return 'ssp' if self.of in ('a', 'b') else 'sp'

  def encode(self, y) -> Represented:
    """z_y = f_phi(y)."""
    return self.representation(y)

  def head(self, decoded: Array) -> Array:
    """zhat_y from the decoder's output."""
    return decoded if self.predictor is None else self.predictor(decoded)

  def logits(self, z: Represented, prediction: Array) -> Array:
    """Of a Boltzmann target, for every candidate: float32 [B, M]."""
    return self.distribution.logits(z, prediction)

  def __call__(self, z: Represented, prediction: Array):
    """- log P(z | prediction), mean over valid samples; and measurements."""
    z, penalty = self.regularizer(z, prediction)
    nll, measured = self.distribution(z, prediction)
    valid = z.valid.astype(jnp.float32)
    loss = (nll * valid).sum() / jnp.maximum(valid.sum(), 1.0)
    return loss + penalty, measured


@flax.struct.dataclass
class Sample:
  """One step's (s, t_x, t_y) on the device, colours and masks drawn.

  Attributes:
    views: the augmented views, images float32 in 0..1.
    mixed: X.
    y: what each representation reads: 'pixels' {view: [B, S, S, 3]}, 'features'
      {view: [B, L, D]}, 'label' [B], 'text' [B, T].
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
  """

  input: Input
  encoder: nn.Module
  decoders: dict[str, nn.Module]
  targets: dict[str, Target]
  colours: dict[str, augment.Colour]
  balance: balance.Fixed | balance.GradientNorm

  def encode(self, mixed: Mixed, train: bool = True) -> dict[str, Array]:
    """z_x = f_theta(X): the input features."""
    return self.encoder(mixed.image, mixed.cells, train=train)

  def encode_views(self, images: list[Array]) -> list[Array]:
    """Tokens [B, L, D] of clean, whole views, in one pass."""
    # The views of a picture side by side: no picture leaves its shard.
    both = jnp.stack(images, axis=1)
    tokens = self.encoder(both.reshape(-1, *both.shape[2:]))['tokens']
    tokens = tokens.reshape(*both.shape[:2], *tokens.shape[1:])
    return [tokens[:, n] for n in range(len(images))]

  def predict(self, z_x: dict[str, Array], sample: Sample, group: str) -> dict:
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
          tokens, frame = self._ask(z_x['tokens'], sample, target, c)
          answers[question] = self.decoders[target.decoder](tokens, frame)
        predictions[name][c] = target.head(answers[question])
    return predictions

  def represent(self, sample: Sample, group: str) -> dict[str, Represented]:
    """z_y of every target of a group, in the order of the pictures."""
    y = sample.y
    z = {}
    for name, target in self.targets.items():
      if target.group == group:
        reads = y[target.representation.reads]
        z[name] = target.encode(reads[target.of] if group == 'ssp' else reads)
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
    represented = self.represent(sample, group)
    total, metrics = jnp.float32(0.0), {}
    for name, by_component in predictions.items():
      terms, measured = [], []
      for c, prediction in by_component.items():
        z = self.asked(name, represented[name], sample, c)
        term, extra = self.targets[name](z, prediction)
        terms.append(term)
        measured.append(extra)
      term = sum(terms) / len(terms)
      total += self.targets[name].weight * term
      metrics[f'loss/{name}'] = term
      for key in measured[0]:
        metrics[f'{key}/{name}'] = sum(m[key] for m in measured) / len(measured)
    return total, metrics

  def __call__(self, sample: Sample):
    """L_SSP and L_SP; used to initialise the parameters."""
    z_x = self.encode(sample.mixed, train=False)
    return {g: self.group_loss(z_x, sample, g) for g in self.groups}

  def pooled(self, image: Array, target: str = '') -> Array:
    """Features of clean pictures for evaluation: float32 [B, D].

    Args:
      image: [B, S, S, 3], uint8 or float in 0..1.
      target: '' for the mean of the tokens; a decoder's name for its output; or
        a target's name for its prediction zhat_y (as in zero-shot use).
    """
    tokens = self.encoder(views.normalize(image))['tokens']
    if not target:
      return tokens.astype(jnp.float32).mean(1)
    if target in self.decoders:
      return self.decoders[target](tokens)
    row = self.targets[target]
    return row.head(self.decoders[row.decoder](tokens))

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

  @nn.nowrap
  def sample(self, batch: dict, features, key: Array) -> Sample:
    """Draw colours, mask and mix for a batch; a pure function of (batch, key).

    Args:
      batch: from the host, see data/pipeline.py.
      features: [images [B, S, S, 3] per view] -> [tokens per view], the target
        encoder on clean views, without gradient.
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
    letters = self.reading('features')
    tokens = features([images[n] for n in letters]) if letters else []
    tokens = dict(zip(letters, jax.lax.stop_gradient(tokens), strict=True))
    y = {'pixels': images, 'features': tokens}
    y |= {k: batch[k] for k in ('label', 'text') if k in batch}
    return Sample(seen, mixed, y)

  def _ask(self, tokens, sample: Sample, target: Target, component: int):
    """The component's own tokens, and t_x, t_y for a dense target."""
    count = sample.mixed.mask.shape[-1]
    if sample.mixed.cells is None:
      own, cells = tokens, None
    else:
      where = self.input.slice(component, count)
      own, cells = tokens[:, where], sample.mixed.cells[:, where]
    if target.group == 'sp':
      return own, None
    x, y = sample.views[self.input.view], sample.views[target.of]
    if component == 1:
      # The second image of input n is picture n XOR 1, with its own crops.
      x, y = jax.tree.map(neighbour, (x, y))
    queries = _queries(self.input, target, sample.mixed, component)
    return own, Frame.between(round(count**0.5), x, y, cells, queries)


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


def loss_and_gradient(
  objective: Objective,
  params: Params,
  ema: Params,
  state: balance.State,
  batch: dict,
  key: Array,
):
  """L = L_SSP + lambda L_SP and its gradient with one pass back (eq. 13).

  The gradient that each group sends to z_x is both what lambda is made of and
  what is pulled back through the encoder, once: c_u + lambda c_m.

  Args:
    params: {'encoder', 'decoders_*', 'targets_*'}.
    ema: {'encoder'}, the target encoder's parameters; {} if no target reads
      features.
    state: of the balance.
    batch: see data/pipeline.py.
    key: of this step.
  Returns:
    loss, gradient like `params`, the balance's new state, metrics.
  """
  k_sample, k_drop = jax.random.split(key)
  apply = objective.apply
  features = lambda images: apply(
    {'params': ema}, images, method='encode_views'
  )
  sample = objective.sample(batch, features, k_sample)

  z_x, pull_back = jax.vjp(
    lambda theta: apply(
      {'params': {'encoder': theta}},
      sample.mixed,
      rngs={'drop_path': k_drop},
      method='encode',
    ),
    params['encoder'],
  )
  heads = {k: v for k, v in params.items() if k != 'encoder'}
  losses, cotangents, head_gradients, metrics = {}, {}, {}, {}
  for group in objective.groups:

    def group_loss(z_x, heads, group=group):
      return apply({'params': heads}, z_x, sample, group, method='group_loss')

    (losses[group], measured), (cotangents[group], head_gradients[group]) = (
      jax.value_and_grad(group_loss, (0, 1), has_aux=True)(z_x, heads)
    )
    metrics |= measured
  weights = {group: 1.0 for group in objective.groups}
  if len(weights) == 2:
    g_u, g_m = norm(cotangents['ssp']), norm(cotangents['sp'])
    weights['sp'], state = objective.balance(state, g_u, g_m)
    metrics |= {'lambda': weights['sp'], 'g_u': g_u, 'g_m': g_m}

  combine = lambda trees: jax.tree.map(
    lambda *x: sum(w * y for w, y in zip(weights.values(), x, strict=True)),
    *trees.values(),
  )
  (theta_gradient,) = pull_back(
    jax.tree.map(lambda c, z: c.astype(z.dtype), combine(cotangents), z_x)
  )
  gradient = {'encoder': theta_gradient} | combine(head_gradients)
  loss = combine(losses)
  return loss, gradient, state, metrics | {'loss': loss}


def norm(tree) -> Array:
  """Global Frobenius norm of a pytree, in float32."""
  squares = [
    jnp.square(x.astype(jnp.float32)).sum() for x in jax.tree.leaves(tree)
  ]
  return jnp.sqrt(sum(squares))


def zero_batch(
  size: int, side: int, letters: tuple[str, ...], text_length: int = 0
) -> dict:
  """A batch of the pipeline's shapes and dtypes, all zeros but the boxes."""
  view = lambda: {
    'image': np.zeros((size, side, side, 3), np.uint8),
    'box': np.tile(np.array([0, 0, 1, 1], np.float32), (size, 1)),
    'flip': np.zeros(size, bool),
  }
  batch = {letter: view() for letter in letters}
  batch['label'] = np.zeros(size, np.int32)
  if text_length:
    batch['text'] = np.ones((size, text_length), np.int32)
  return batch
