"""The panel: what is drawn where, and that it survives the disk."""

import numpy as np
import pytest
from PIL import Image

from m3i_jax.report import panel as panel_lib
from m3i_jax.report import panel_figure, panel_html

N, S, G, P, D = 2, 12, 3, 4, 6


def make(mixed=True):
  rng = np.random.default_rng(0)
  views = {v: rng.integers(0, 256, (N, S, S, 3), dtype=np.uint8) for v in 'ab'}
  if not mixed:
    return panel_lib.Panel({'a': views['a']})
  cells = np.stack([rng.permutation(G * G)[:4] for _ in range(N)])
  asked = rng.normal(size=(N, 4, D))
  return panel_lib.Panel(
    views,
    mixed=rng.random((N, S, S, 3)),
    mask=rng.random((N, G, G)) > 0.5,
    targets={
      'inter/deep': {
        'kind': 'dense', 'asked': asked, 'predicted': asked + 0.1,
        'cells': cells, 'of': 'b', 'component': 1,
      },
      'pixels': {
        'kind': 'pixels', 'asked': rng.random((N, 4, P * P * 3)),
        'predicted': rng.random((N, 4, P * P * 3)), 'cells': cells, 'of': 'a',
      },
      'text': {
        'kind': 'text', 'asked': ['a <cat>', 'dog'],
        'predicted': [[('dog', 0.75), ('emu', 0.25)], [('dog', 1.0)]],
      },
    },
  )


def test_save_and_load_keep_everything(tmp_path):
  panel = make()
  panel.save(tmp_path / 'panel.npz')
  again = panel_lib.Panel.load(tmp_path / 'panel.npz')
  assert [p.name for p in tmp_path.iterdir()] == ['panel.npz']
  for name in ('a', 'b'):
    np.testing.assert_array_equal(again.views[name], panel.views[name])
  np.testing.assert_array_equal(again.mixed, panel.mixed)
  np.testing.assert_array_equal(again.mask, panel.mask)
  for name, target in panel.targets.items():
    for key, value in target.items():
      if key == 'predicted' and name == 'text':
        value = [[list(pair) for pair in one] for one in value]
      np.testing.assert_equal(again.targets[name][key], value)


def test_columns_in_words():
  titles = [column.title for column in panel_lib.columns(make())]
  assert titles == [
    'view a', 'view b', 'mask', 'input (mixed)',
    'asked: features of view b of image 2', 'predicted',
    'asked: pixels of view a of image 1', 'predicted',
    'predicted text of image 1',
  ]
  only = panel_lib.columns(make(mixed=False))
  assert [column.title for column in only] == ['view a']


def test_pixels_lie_where_their_cells_are():
  rng = np.random.default_rng(1)
  picture = rng.integers(0, 256, (S, S, 3), dtype=np.uint8)
  patches = picture.reshape(G, P, G, P, 3).swapaxes(1, 2)
  patches = patches.reshape(G * G, P * P * 3)[None] / 255
  cells = np.array([[0, 4, 5]])
  target = {
    'kind': 'pixels', 'asked': patches[:, cells[0]],
    'predicted': patches[:, cells[0]], 'cells': cells, 'of': 'a',
  }
  panel = panel_lib.Panel({'a': picture[None]}, targets={'pixels': target})
  asked = panel_lib.columns(panel)[1].pictures[0]
  times = len(asked) // S
  small = asked[times // 2 :: times, times // 2 :: times]
  want = np.empty((S, S, 3), np.uint8)
  want[:] = panel_lib.GREY
  want[:P, :P] = picture[:P, :P]
  want[P : 2 * P, P:] = picture[P : 2 * P, P:]
  np.testing.assert_array_equal(small, want)


def test_colours_use_one_map():
  rng = np.random.default_rng(2)
  asked = rng.normal(size=(N, 9, D))
  shown, again = panel_lib.colours(asked, asked)
  np.testing.assert_array_equal(shown, again)
  assert shown.min() >= 0 and shown.max() <= 1
  flat = panel_lib.colours(np.ones((N, 9, 2)), np.zeros((N, 9, 2)))
  assert np.isfinite(flat).all()


def test_agreement_by_hand():
  asked = np.array([[[1.0, 0], [-1, 0]], [[0, 2], [0, -2]]])
  predicted = np.array([[[2.0, 0], [-1, 0]], [[2, 0], [-2, 0]]])
  cosine, explained = panel_lib.agreement(asked, predicted)
  np.testing.assert_allclose(cosine, [1, 0], atol=1e-12)
  np.testing.assert_allclose(explained, [0.5, -1], atol=1e-12)


def test_a_truth_that_was_not_guessed_is_told():
  first, second = panel_lib.columns(make())[-1].names
  assert first[-1] == ('a <cat>', None, True)
  assert second == [('dog', 1.0, True)]


LONG = 'a photo of a small wooden boat, seen from the shore at dawn, ' * 5


def captioned():
  target = {
    'kind': 'caption', 'asked': ['A red Cat', LONG],
    'predicted': [
      [('a red cat', np.log(0.5), 'greedy'), ('a <dog>', None)],
      [(LONG[9:], -1.0), ('', -np.inf)],
    ],
  }  # fmt: skip
  return panel_lib.Panel(make(False).views, targets={'words': target})


def test_captions_follow_the_true_one(tmp_path):
  captioned().save(tmp_path / 'panel.npz')
  for panel in (captioned(), panel_lib.Panel.load(tmp_path / 'panel.npz')):
    column = panel_lib.columns(panel)[-1]
    assert column.title == 'predicted caption' and column.wraps
    first, second = column.names
    assert first[0] == ('A red Cat', None, True)
    assert first[1] == ('a red cat (greedy)', pytest.approx(0.5), True)
    assert first[2][::2] == ('a <dog>', False) and np.isnan(first[2][1])
    assert second[0] == (LONG, None, True) and second[2][1] == 0


def test_captions_in_html():
  page = panel_html.section(captioned())
  assert '<ol class=wraps><li class=truth><i style="width:0.0%"></i>' in page
  assert '<b>a &lt;dog&gt;</b><span></span>' in page and LONG in page
  assert 'width:50.0%' in page and 'nan' not in page
  assert 'geometric mean' in page and '<ol>' in panel_html.section(make())


def test_long_captions_wrap_and_never_overlap(tmp_path, monkeypatch):
  drawn = []
  monkeypatch.setattr(
    panel_figure, '_names',
    lambda axes, entries, slots: drawn.append((entries, slots)),
  )  # fmt: skip
  panel_figure.draw(captioned(), tmp_path / 'panel.png')
  (first, slots), (second, same) = drawn
  assert [len(entry.lines) for entry in first] == [1, 1, 1]
  assert [len(entry.lines) for entry in second] == [4, 4, 1]
  assert slots == same == 9
  assert second[0].lines[-1].endswith('…')
  assert max(len(line) for entry in second for line in entry.lines) <= 41


def test_an_unknown_kind_is_named():
  panel = panel_lib.Panel(make(False).views, targets={'x': {'kind': 'odd'}})
  with pytest.raises(ValueError, match="'x'.*'odd'"):
    panel_lib.columns(panel)


@pytest.mark.parametrize('panel', [make(True), make(False), captioned()])
def test_draw_writes_a_picture(tmp_path, panel):
  panel_figure.draw(panel, tmp_path / 'panel.png')
  with Image.open(tmp_path / 'panel.png') as image:
    assert image.format == 'PNG' and np.asarray(image).std() > 1
