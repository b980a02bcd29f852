"""A share is held out, the same one every time, copies on one side."""

import pytest

from m3i_jax.errors import UserError
from m3i_jax.prepare import holdout
from m3i_jax.prepare.items import Bad, Item
from tests.prepare import parts

NUMBERS = tuple(Item(str(i), b'%d' % (i % 2000)) for i in range(2500))
BAD = tuple(Bad(f'bad {i}', 'no picture') for i in range(100))


def held(share: float) -> dict[str, list]:
  layout = parts.layout(train=[parts.Fixed('p', NUMBERS + BAD)])
  splits = holdout.hold_out(layout, share).splits
  assert list(splits) == ['train', 'test']
  return {
    name: [record for part in of for record in part]
    for name, of in splits.items()
  }


def test_every_record_is_in_one_split():
  splits = held(0.1)
  assert set(splits['train']) | set(splits['test']) == set(NUMBERS + BAD)
  assert len(splits['train'] + splits['test']) == len(NUMBERS + BAD)
  # 2,000 different pictures: a standard deviation is 0.7 percent.
  assert abs(len(splits['test']) / 2600 - 0.1) < 0.025


def test_copies_are_on_one_side():
  train, test = (
    {record.image for record in records if isinstance(record, Item)}
    for records in held(0.3).values()
  )
  assert not train & test


def test_a_larger_share_has_the_smaller_one():
  assert set(held(0.1)['test']) < set(held(0.2)['test'])


def test_sizes_are_expected_ones():
  layout = parts.layout(train=[parts.Fixed('p', NUMBERS), parts.Drawn('0', 0)])
  splits = holdout.hold_out(layout, 0.1).splits
  assert [part.size for part in splits['train']] == [2250, 0]
  assert [part.size for part in splits['test']] == [250, 0]


@pytest.mark.parametrize('share', [0, 1, -0.1, 1.5])
def test_no_share_is_refused(share):
  with pytest.raises(UserError, match='above 0 and below 1'):
    holdout.hold_out(parts.layout(train=[]), share)


@pytest.mark.parametrize('splits', [('test',), ('train', 'validation')])
def test_a_source_with_a_test_split_is_refused(splits):
  layout = parts.layout(**dict.fromkeys(splits, []))
  with pytest.raises(UserError, match='this one has'):
    holdout.hold_out(layout, 0.1)
