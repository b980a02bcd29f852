"""The report: one file, whatever the run has or lacks."""

import json
import re

import numpy as np
import pytest

from m3i_jax import report
from m3i_jax.errors import UserError
from m3i_jax.report import curves, panel, panel_html
from tests.report.test_panel import make

ROWS = {
  'raw pixels': {'near/top1': 34.52, 'near/top1_se': 1.3},
  'trained': {'near/top1': 12.07, 'near/top1_chance': 0.08, 'zero/top5': 20.2},
}
HISTORY = [
  {'step': 10 * i, 'loss': 5.0 - i, 'loss/intra': 1.0, 'lambda': 0.5}
  for i in range(4)
] + [{'step': 40, 'near/top1': 11.0, 'bad': None, 'loss': float('nan')}]


def write(tmp_path, shown, rows=ROWS, history=HISTORY):
  return report.write_report(
    tmp_path, history, rows, shown, 'size: <48>', 'M3I & co',
    {'near': 'concept by its nearest'},
  ).read_text()


def test_the_page_is_self_contained_and_complete(tmp_path):
  text = write(tmp_path, make())
  sources = re.findall(r'(?:src|href|url)\s*[=(]\s*["\']?([^"\'\s>)]+)', text)
  assert sources and all(s.startswith('data:image/png') for s in sources)
  assert 'http' not in re.sub(r'data:image/png;base64,[^"]*', '', text)
  assert '<script' not in text and '<link' not in text
  for part in ('34.5', '±1.3', '12.1', '20.2', '0.08', 'concept by its nearest',
               'size: &lt;48&gt;', 'M3I &amp; co', 'a &lt;cat&gt;', 'lambda'):
    assert part in text
  assert sorted(p.name for p in tmp_path.iterdir()) == [
    'panel.npz', 'panel.png', 'report.html', 'results.json'
  ]


def test_the_best_is_marked(tmp_path):
  text = write(tmp_path, None)
  assert re.findall(r'<td class=best>([\d.]+)', text) == ['34.5']


def test_one_view_without_text_or_mask(tmp_path):
  text = write(tmp_path, make(mixed=False))
  assert 'view a' in text and 'view b' not in text


@pytest.mark.parametrize('history', [[], [{'step': 3}], [{'loss': 1.0}]])
def test_missing_pieces_are_left_out(tmp_path, history):
  text = write(tmp_path, None, rows={}, history=history)
  assert '<h1>' in text
  assert not any(f'<h2>{h}' in text for h in ('Results', 'What', 'Curves'))


def test_again_from_what_was_saved(tmp_path):
  text = write(tmp_path, make())
  lines = [json.dumps(row) for row in HISTORY]
  (tmp_path / 'metrics.jsonl').write_text('\n'.join(lines) + '\n{"step": 5')
  (tmp_path / 'report.html').unlink()
  assert report.main([str(tmp_path)]) == 0
  assert (tmp_path / 'report.html').read_text() == text


def test_a_run_that_goes_on_gets_curves_and_no_results(tmp_path):
  (tmp_path / 'metrics.jsonl').write_text(json.dumps(HISTORY[0]))
  assert report.main([str(tmp_path)]) == 0
  assert sorted(p.name for p in tmp_path.iterdir()) == [
    'metrics.jsonl', 'report.html'
  ]
  assert 'loss/intra' in (tmp_path / 'report.html').read_text()


def test_a_directory_without_a_run(tmp_path):
  with pytest.raises(UserError, match='metrics.jsonl'):
    report.main([str(tmp_path)])


def test_curves_keep_numbers_and_sort_them():
  found = curves.sections(HISTORY)
  assert list(found) == ['Evaluations, %', 'Losses', 'Balance and gradients']
  steps, values, floor = found['Losses']['loss']
  np.testing.assert_array_equal(steps, [0, 10, 20, 30])
  np.testing.assert_array_equal(values, [5, 4, 3, 2])
  assert floor is None


def test_what_a_step_measures_has_its_section():
  keys = {
    'eval/knn/top1': 0, 'loss': 1, 'loss/text': 1, 'target_std/inter': 2,
    'target_rank/inter': 2, 'cosine_within/inter': 2, 'cosine_across/text': 2,
    'agreement/text': 2, 'alarm/inter': 2, 'top1/text': 3, 'correlation/b': 3,
    'lambda': 4, 'g_u': 4, 'g_m': 4, 'grad_norm': 4, 'learning_rate': 5,
    'ema_momentum': 5, 'step_ms': 6, 'input_wait_percent': 6,
  }  # fmt: skip
  found = curves.sections([dict.fromkeys(keys, 1.0) | {'step': 1}])
  names = [name for name, _ in curves.SECTIONS]
  assert {
    key: names.index(name) for name, part in found.items() for key in part
  } == keys


def test_a_floor_goes_with_its_loss():
  rows = [
    {'step': 1, 'loss/a': 2.0, 'floor/a': 1.5},
    {'step': 2, 'loss/a': 1.0},
    {'step': 3, 'loss/a': 0.5, 'floor/a': 1.25},
  ]
  (losses,) = curves.sections(rows).values()
  assert list(losses) == ['loss/a']
  np.testing.assert_array_equal(losses['loss/a'].floor, [1.5, 1.375, 1.25])
  alone = curves.Curve(*losses['loss/a'][:2])
  assert curves.draw(losses['loss/a'], {}) != curves.draw(alone, {})


def test_smoothing_keeps_lines_and_means():
  np.testing.assert_allclose(curves.smoothed(np.full(90, 2.0)), 2, rtol=1e-12)
  line = np.arange(120.0)
  np.testing.assert_allclose(
    curves.smoothed(line)[5:-5], line[5:-5], rtol=1e-12
  )


def test_levels_match_a_metric_under_a_prefix():
  assert report._levels(ROWS, 'eval/near/top1') == {'raw pixels': 34.52}
  assert report._levels(ROWS, 'loss') == {}


def test_no_panel_is_a_panel_of_nothing(tmp_path):
  assert panel_html.section(None) == ''
  assert 'visible' in panel_html.legend(
    panel.Panel(make().views, mask=make().mask)
  )
