"""What does not combine in a row of the table is told, and what would."""

import jax
import jax.numpy as jnp
import pytest

from m3i_jax import build
from m3i_jax.errors import UserError
from m3i_jax.rows import COMBINES
from tests import small
from tests.test_config import put, told
from tests.test_teachers import TEACHER

CAPTION = dict(kind='caption', width=20, depth_uni=1, depth_multi=1, heads=2)
PROTOTYPES = dict(
  of='b',
  representation=dict(kind='prototypes', count=5),
  decoder='project',
  distribution='boltzmann',
  regularizer='mean_entropy',
)
VECTOR = dict(
  of='b',
  representation='global',
  decoder='project',
  distribution='gaussian',
  regularizer='stop_gradient',
)
TOKENS = dict(
  of='text',
  representation='tokens',
  decoder='caption',
  distribution='categorical',
)


def table(**targets):
  """A masked view with decoders of every kind."""
  c = small.small_config(targets, images=1, mask=0.5)
  kinds = dict(
    dense=dict(kind='dense', width=24, depth=1, heads=2, hidden=40),
    pool=dict(kind='pool', heads=4),
    project=dict(kind='mlp'),
    linear=dict(kind='mlp', pool='none'),
    cls=dict(kind='mlp', pool='cls'),
    caption=CAPTION,
  )
  used = {row['decoder'] for row in targets.values()}
  c.decoders = {k: v for k, v in kinds.items() if k in used}
  return c


@pytest.mark.parametrize(
  'row, distribution, regularizer',
  [
    (small.FEATURE | dict(of='b'), 'boltzmann', 'stop_gradient'),
    (small.FEATURE | dict(of='b'), 'gaussian', 'centering'),
    (small.FEATURE | dict(of='b'), 'correlation', 'decorrelation'),
    (VECTOR, 'gaussian', 'mean_entropy'),
    (VECTOR, 'categorical', 'stop_gradient'),
    (PROTOTYPES, 'gaussian', 'none'),
    (TOKENS, 'boltzmann', 'negatives'),
    (small.CATEGORY, 'boltzmann', 'none'),
    (small.TEXT, 'gaussian', 'stop_gradient'),
  ],
)
def test_a_combination_that_is_none_lists_what_combines(
  row, distribution, regularizer
):
  row = row | dict(distribution=distribution, regularizer=regularizer)
  kind = row['representation']
  kind = kind if isinstance(kind, str) else kind['kind']
  words = [
    'config.targets.row', repr(kind), repr(distribution), repr(regularizer),
  ]  # fmt: skip
  for name, kinds in COMBINES[kind].items():
    words.append(f'{name} with {" or ".join(kinds)}')
  told(table(row=row), *words)


def test_what_is_listed_combines():
  """Every combination builds, with a decoder that answers it."""
  rows = dict(
    pixels=dict(of='b', decoder='dense'),
    dense=dict(of='b', decoder='dense'),
    prototypes=PROTOTYPES,
    category=small.CATEGORY,
    text=small.TEXT,
    tokens=TOKENS,
  )
  rows['global'] = VECTOR
  for kind, distributions in COMBINES.items():
    row = {'representation': kind} | rows[kind]
    for distribution, regularizers in distributions.items():
      for regularizer in regularizers:
        row |= dict(distribution=distribution, regularizer=regularizer)
        c = table(row=dict(row))
        built = build.build(c, small.CLASSES, small.VOCABULARY)
        assert set(built.targets) == {'row'}


@pytest.mark.parametrize(
  'row, decoder, asks',
  [
    (small.FEATURE | dict(of='b'), 'pool', 'a dense decoder'),
    (small.FEATURE | dict(of='b'), 'project', "mlp of pool='none'"),
    (small.FEATURE | dict(of='b'), 'caption', 'a dense decoder'),
    (VECTOR, 'dense', 'an mlp that pools'),
    (VECTOR, 'linear', 'an mlp that pools'),
    (small.CATEGORY, 'dense', 'a pool'),
    (small.TEXT, 'linear', 'a pool'),
    (TOKENS, 'pool', 'a caption decoder'),
    (small.TEXT, 'caption', 'a pool'),
  ],
)
def test_a_decoder_of_another_kind_is_told(row, decoder, asks):
  c = table(row=row | dict(decoder=decoder))
  told(c, f"config.targets.row.decoder='{decoder}'", asks)


@pytest.mark.parametrize('mask, of', [(0.5, 'a'), (0.0, 'b')])
def test_an_answer_for_the_seen_cells_needs_them_all(mask, of):
  row = small.FEATURE | dict(of=of, decoder='linear')
  c = table(row=row)
  c.input.mask = mask
  told(c, "config.targets.row.decoder='linear'", 'a whole input', 'its view')


def test_the_class_token_must_be_there_and_see_one_image():
  c = table(row=VECTOR | dict(decoder='cls'))
  assert build.build(c)
  c.model.class_token = False
  told(c, "pool='cls'", 'config.model.class_token')
  c = table(row=VECTOR | dict(decoder='cls'))
  c.input.images = 2
  told(c, "pool='cls'", 'one image')


def test_a_frozen_encoder_needs_its_weights_and_has_no_projector():
  frozen = dict(kind='dense', encoder='frozen')
  row = small.FEATURE | dict(of='b', representation=frozen)
  told(
    table(row=row),
    "config.targets.row.representation.encoder='frozen'", 'config.teacher',
  )  # fmt: skip
  c = table(row=row)
  built = build.build(c, teacher_model=TEACHER)
  # The decoder predicts what is as wide as the teacher.
  assert built.decoders['dense'].out == built.teacher.width == 48
  with pytest.raises(UserError, match='config.teacher has patches of 4'):
    build.build(c, teacher_model=TEACHER | dict(patch=4))
  put(c, 'targets.row.representation', frozen | dict(projected=True))
  with pytest.raises(UserError, match="'frozen' encoder has no projector"):
    build.build(c, teacher_model=TEACHER)
  prototypes = dict(kind='prototypes', encoder='frozen')
  c = table(row=PROTOTYPES | dict(representation=prototypes))
  with pytest.raises(UserError, match="'frozen' encoder has no projector"):
    build.build(c, teacher_model=TEACHER)


def test_an_unknown_encoder_lists_those_that_exist():
  row = small.FEATURE | dict(
    of='b', representation=dict(kind='dense', encoder='emma')
  )
  told(
    table(row=row), 'targets.row.representation.encoder', "'emma'",
    'ema, shared, frozen',
  )  # fmt: skip


@pytest.mark.parametrize('last', [0, 3])
def test_the_last_layers_are_some_of_them(last):
  row = small.FEATURE | dict(
    of='b', representation=dict(kind='dense', last=last)
  )
  told(table(row=row), f'representation.last=[{last}]', 'from 1 to 2')
  row['representation'] = dict(kind='dense', last=2)
  other = small.FEATURE | dict(of='a')
  told(table(row=row, other=other), 'last=[1, 2]', "'ema'", 'the same')


def test_a_centre_is_of_one_component():
  row = VECTOR | dict(
    distribution='categorical', regularizer='centering', components=(0, 1)
  )
  c = table(row=row)
  c.input.images = 2
  told(c, "config.targets.row.regularizer='centering'", '(0, 1)')


@pytest.mark.parametrize('row', [PROTOTYPES, small.CATEGORY])
def test_a_table_has_no_other_direction(row):
  row = row | dict(distribution=dict(kind='boltzmann', symmetric=True))
  told(table(row=row), 'row.distribution.symmetric', 'a table', "'text'")


def test_pairs_have_no_smoothing():
  row = small.TEXT | dict(distribution=dict(kind='sigmoid', smoothing=0.1))
  told(table(row=row), 'row.distribution.smoothing', "'sigmoid'")


def test_prototypes_have_no_smoothing():
  row = PROTOTYPES | dict(distribution=dict(kind='boltzmann', smoothing=0.1))
  told(table(row=row), 'row.distribution.smoothing', 'prototypes')


def test_a_caption_needs_positions():
  c = table(row=TOKENS)
  c.decoders.caption = CAPTION | dict(positions=c.data.text_length - 2)
  told(c, 'config.targets.row', 'positions', 'config.data.text_length')


def test_a_teacher_that_nobody_reads_is_told():
  c = table(row=VECTOR)
  with pytest.raises(UserError, match='config.teacher is given, but no target'):
    build.build(c, teacher_model=TEACHER)


def test_a_teacher_of_other_fields_is_told():
  c = table(row=VECTOR)
  with pytest.raises(UserError, match='config.teacher: .*colour'):
    build.build(c, teacher_model=TEACHER | dict(colour=1))


@pytest.mark.parametrize('name', ['tokens', 'cls'])
def test_a_decoder_may_be_named_as_a_feature(name):
  """The projection is scored, not the feature of its name."""
  c = table(row=VECTOR | dict(decoder='project'))
  c.decoders = {name: dict(kind='mlp', out=20)}
  c.targets.row.decoder = name
  objective = build.build(c)
  batch = {k: v for k, v in small.draw_batch().items() if k in 'ab'}
  key = jax.random.key(0)

  def seen():
    variables = objective.init(key, batch, key)
    images = {'b': jnp.zeros((2, small.SIDE, small.SIDE, 3))}
    return objective.apply(variables, images, method='encode_views')['b']

  shapes = jax.tree.map(lambda x: x.shape, jax.eval_shape(seen))
  assert shapes['tokens'] == (2, small.CELLS, 32)
  assert shapes['cls'] == (2, 32)
  assert shapes['projected'] == {name: (2, 20)}


def test_a_caption_needs_texts():
  c = table(row=TOKENS)
  assert build.build(c, 0, 9).decoders['caption'].out == 9
  told(
    c, 'config.targets.row predicts the text', "'synthetic:16'",
    'config.data.text', vocabulary=0,
  )  # fmt: skip


@pytest.mark.parametrize('field', ['norm', 'activation'])
def test_a_predictors_choices_are_listed(field):
  row = VECTOR | dict(predictor={'kind': 'mlp', field: 'nothing'})
  told(
    table(row=row), f"config.targets.row.predictor.{field}='nothing'",
    'choose from',
  )  # fmt: skip


@pytest.mark.parametrize('field', ['norm', 'activation', 'pool'])
def test_a_decoders_choices_are_listed(field):
  c = table(row=VECTOR)
  with c.decoders.project.unlocked():
    c.decoders.project[field] = 'nothing'
  told(c, f"config.decoders.project.{field}='nothing'", 'choose from')
