"""The page of pictures as the model sees them: its boxes and its words."""

import html.parser
import re

import numpy as np
import pytest

from m3i_jax.report.data_page import SIDE, Box, Example, page
from m3i_jax.report.panel import Panel

RNG = np.random.default_rng(0)


def example(name: str, **rest) -> Example:
  picture = RNG.integers(0, 256, (30, 60, 3), np.uint8)
  boxes = {'a': Box(0.25, 0.5, 0.125, 0.3, True), 'b': Box(0, 0, 1, 1, False)}
  return Example(name, 7, False, picture, (600, 300), boxes, **rest)


def panel(count: int, masked: bool = True) -> Panel:
  view = RNG.random((count, 16, 16, 3), np.float32)
  if not masked:
    return Panel({'a': view})
  mask = RNG.random((count, 4, 4)) < 0.5
  return Panel({'a': view, 'b': view}, mixed=view, mask=mask)


class Tags(html.parser.HTMLParser):
  """Checks that tags are closed, and collects what they say."""

  def __init__(self, text: str):
    super().__init__()
    self.open, self.found, self.words = [], [], []
    self.feed(text)
    assert not self.open

  def handle_starttag(self, tag, attrs):
    self.found.append((tag, dict(attrs)))
    if tag not in ('meta', 'img', 'br'):
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.words.append(data.strip())


def test_a_box_of_a_mirrored_picture():
  """Its left edge is where the right edge of the crop was."""
  width = 50
  picture = np.arange(width)
  for left, wide in ((5, 20), (0, 50), (30, 20)):
    box = np.array([0.25, left / width, 0.5, wide / width], np.float32)
    for flip in (False, True):
      found = Box.of(box, flip)
      seen = picture[::-1] if flip else picture
      crop = seen[left : left + wide]
      assert crop.min() == pytest.approx(found.left * width, abs=1e-4)
      assert found.width * width == pytest.approx(wide, abs=1e-4)
      assert (found.top, found.height, found.flip) == (0.25, 0.5, flip)


def test_everything_is_on_the_page():
  examples = [
    example('one', label='<cat>', captions=('a & b', 'c'), tags=('t',),
            seen=('<s>', 'x', '</s>'), lost=('y',)),
    example('two'),
  ]  # fmt: skip
  text = page('What', ['of here'], panel(2), examples, True)
  tags = Tags(text)
  styles = [v['style'] for k, v in tags.found if k == 'i']
  assert len(styles) == 4
  assert styles[0] == 'left:25.00%;top:50.00%;width:12.50%;height:30.00%'
  for word in ('one', 'a ⇋', 'b', '<cat>', '<s>', '</s>', 'a & b · c', 't'):
    assert word in tags.words, word
  lost = [v for k, v in tags.found if v.get('class') == 'lost']
  assert len(lost) == 1 and 'Struck out' in text
  assert 'record 7, 600 × 300, mixed with two' in tags.words
  assert 'record 7, 600 × 300, mixed with one' in tags.words
  assert f'style="width:{SIDE}px"' in text
  # Two views, mask, input and picture of each.
  sources = [v['src'] for k, v in tags.found if k == 'img']
  assert len(sources) == 10
  assert all(x.startswith('data:image/png;base64,') for x in sources)
  assert not re.search(r'(src|href)="(?!data:)', text)
  assert 'orange ones show image 2' in text


def test_a_picture_alone():
  text = page('What', [], panel(1, masked=False), [example('one')], False)
  tags = Tags(text)
  assert 'mask' not in tags.words and 'mixed' not in text
  assert not {'label', 'text', 'captions', 'tags'} & set(tags.words)


def test_a_mask_without_a_mix_and_a_stand_in():
  one = Example('x', 3, True, np.zeros((9, 3, 3), np.uint8), (3, 9), {})
  text = page('What', [], panel(1), [one], False)
  assert 'grey ones are hidden' in text and 'orange' not in text
  assert 'in place of one that cannot be read' in text
  assert f'style="width:{SIDE / 3:.0f}px"' in text
