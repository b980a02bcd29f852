"""The ablation: same frame for all rows, resuming, tables that say no more."""

import csv
import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from m3i_jax import ablate, weights
from m3i_jax.ablate import figure, report, runs
from m3i_jax.ablate.runs import Row, Run, Spread
from m3i_jax.errors import UserError

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
from configs import ablation_emoji  # noqa: E402


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
  """Rows name their files from there; handlers are the process's."""
  monkeypatch.chdir(ROOT)
  before = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)}
  yield
  for number, handler in before.items():
    signal.signal(number, handler)


def command(workdir, *args: str) -> subprocess.CompletedProcess:
  quick = '--xla_backend_optimization_level=0'
  env = os.environ | {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': quick}
  return subprocess.run(
    [
      sys.executable, '-m', 'm3i_jax.ablate',
      '--config=configs/ablation_emoji.py:debug', f'--workdir={workdir}', *args,
    ],
    cwd=ROOT, env=env, capture_output=True, text=True, timeout=400,
  )  # fmt: skip


@pytest.fixture(scope='module')
def done(tmp_path_factory):
  """A whole ablation of two rows."""
  workdir = tmp_path_factory.mktemp('ablation')
  return workdir, command(workdir)


@pytest.mark.slow
def test_a_whole_ablation(done):
  workdir, process = done
  assert process.returncode == 0, process.stderr
  text = (workdir / 'ablation.md').read_text()
  assert text in process.stdout
  for word in ('| M3I |', '| M3I without mix |', 'raw pixels', 'untrained'):
    assert word in text
  lines = [x for x in process.stderr.splitlines() if 'ablation ' in x]
  assert ['1/2' in lines[0], '2/2' in lines[1], len(lines)] == [True, True, 2]
  for line, name in zip(lines, ('m3i_nomix/0', 'm3i/0'), strict=True):
    assert f'{name}: probe ' in line and ' left' in line
  for name in ('m3i', 'm3i_nomix'):
    run = workdir / 'rows' / name / 'seed0'
    assert (run / 'report.html').exists() and (run / 'log.txt').exists()
  rows = list(csv.DictReader((workdir / 'ablation.csv').open()))
  assert [r['row'] for r in rows] == [
    'm3i_nomix', 'm3i', 'raw pixels', 'untrained'
  ]
  saved = json.loads(
    (workdir / 'rows' / 'm3i' / 'seed0' / 'results.json').read_text()
  )
  assert float(rows[1]['probe/top1']) == saved['rows']['trained']['probe/top1']
  assert int(rows[1]['images']) == 3 * 16
  assert 0 < int(rows[1]['encoder_parameters']) < int(rows[1]['parameters'])


@pytest.mark.slow
def test_what_has_finished_is_not_run_again(done, capsys, monkeypatch):
  workdir, _ = done
  monkeypatch.setattr(ablate.Ablation, 'run', None)  # would be called
  c = ablation_emoji.get_config('debug')
  text = (workdir / 'ablation.md').read_text()
  assert ablate.Ablation(c, workdir, []).go()
  assert text in capsys.readouterr().out
  c.steps = 4
  for rows in ([], ['m3i']):
    with pytest.raises(UserError, match='config.total_steps: 3 -> 4'):
      ablate.Ablation(c, workdir, rows).go()


def config() -> ConfigDict:
  return ablation_emoji.get_config('debug')


def leave(workdir, name: str, seed: int, score: float, c=None) -> None:
  """What a finished run leaves, but for its checkpoint."""
  c = c or config()
  path = ablate.directory(pathlib.Path(workdir), name, seed)
  path.mkdir(parents=True, exist_ok=True)
  resolved = ablate.resolve(c, name, seed)
  (path / 'config.json').write_text(json.dumps(resolved.to_dict()))
  (path / 'metrics.jsonl').write_text('{"step": 3, "step_ms": 500.0}\n')
  rows = {
    row: {'probe/top1': score + add, 'probe/top1_se': 1.25,
          'probe/top1_chance': 4.0}
    for row, add in {'raw pixels': 5, 'untrained': -9, 'trained': 0}.items()
  }  # fmt: skip
  results = {'rows': rows, 'about': {'probe': 'told by a map'}}
  (path / 'results.json').write_text(json.dumps(results))
  (path / 'report.html').write_text('')


@pytest.fixture
def no_checkpoints(monkeypatch):
  shapes = {'encoder': np.zeros(30), 'decoders': {'dense': np.zeros((2, 6))}}
  monkeypatch.setattr(
    runs.checkpoint, 'restore_params', lambda path: shapes
  )


def script(monkeypatch, source: str) -> None:
  """Runs `source` in place of each row; argv: NAME SEED."""
  monkeypatch.setattr(
    ablate.Ablation, 'command',
    lambda self, name, seed: [sys.executable, '-c', source, name, str(seed)],
  )  # fmt: skip


@pytest.mark.usefixtures('no_checkpoints')
def test_a_row_that_fails_stops_no_other(tmp_path, monkeypatch):
  leave(tmp_path, 'm3i', 0, 20.0)
  path = tmp_path / 'rows' / 'm3i_nomix' / 'seed0'
  path.mkdir(parents=True)
  (path / 'metrics.jsonl').write_text('{"step": 1, "step_ms": 1.0}\n')
  script(monkeypatch, 'import sys; print(1); sys.exit("m3i_jax: not finite")')
  with pytest.raises(UserError) as error:
    ablate.Ablation(config(), tmp_path, []).go()
  assert str(error.value).startswith('m3i_nomix/0 failed (1): not finite (')
  text = (tmp_path / 'ablation.md').read_text()
  assert '- m3i_nomix/0 failed (1): not finite' in text
  assert '| M3I | two mixed' in text


def test_a_mistake_before_the_first_step_ends_it(tmp_path, monkeypatch):
  script(monkeypatch, 'import sys; print("m3i_jax: no data set"); sys.exit(2)')
  with pytest.raises(UserError, match='^m3i_nomix/0 failed .2.: no data set'):
    ablate.Ablation(config(), tmp_path, []).go()
  assert not (tmp_path / 'rows' / 'm3i').exists()


def test_a_signal_reaches_the_run_and_ends_it_all(tmp_path, monkeypatch):
  script(monkeypatch, """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
print('up', flush=True)
time.sleep(60)""")
  log = tmp_path / 'rows' / 'm3i_nomix' / 'seed0' / 'log.txt'

  def kill():
    while not (log.exists() and 'up' in log.read_text()):
      pass
    os.kill(os.getpid(), signal.SIGTERM)

  threading.Thread(target=kill).start()
  assert ablate.Ablation(config(), tmp_path, []).go() is False
  assert not (tmp_path / 'rows' / 'm3i').exists()


@pytest.mark.usefixtures('no_checkpoints')
def test_seeds_and_rows(tmp_path, monkeypatch, capsys):
  c = config()
  c.seeds = 2
  for seed, score in ((0, 20.0), (1, 24.0)):
    leave(tmp_path, 'm3i', seed, score, c)
  monkeypatch.setattr(ablate.Ablation, 'run', None)
  assert ablate.Ablation(c, tmp_path, ['m3i']).go()
  text = capsys.readouterr().out
  assert '**22.0 (20.0-24.0)** | 48 | 2 | 32 | 0.00 / 0.00 |' in text
  assert '| raw pixels | - | - | 27.0 (25.0-29.0) |' in text
  assert 'over the pictures: probe 4.0 ±1.2.' in text
  assert 'One seed' not in text and '2 seeds' in text


def test_equal_seconds(tmp_path):
  (tmp_path / 'ablation.csv').write_text(
    'row,images,seconds\nm3i,3200,8.0\nm3i_nomix,3200,2.0\n'
  )
  c = config()
  c.update(seconds=16, like=str(tmp_path))
  # 400 pictures a second, 16 a step.
  assert ablate.resolve(c, 'm3i', 0).total_steps == 400
  assert ablate.resolve(c, 'm3i_nomix', 0).total_steps == 1600
  c.rows.m3i.steps = 7
  assert ablate.resolve(c, 'm3i', 0).total_steps == 7
  c.like = str(tmp_path / 'none')
  with pytest.raises(UserError, match='needs the speed of row m3i_nomix'):
    ablate.resolve(c, 'm3i_nomix', 0)


@pytest.mark.parametrize(
  ('change', 'said'),
  [
    (dict(steps=0), 'total_steps=0: it must be positive'),
    (dict(batch_size=15), 'batch_size=15 cannot be split'),
    (dict(best_by='knn2/top1'), 'is no metric of config.frame.evals: knn, '),
    (dict(seeds=0), 'config.seeds and config.rows'),
  ],
)
def test_impossible_values(tmp_path, change, said):
  c = config()
  c.update(change)
  with pytest.raises(UserError, match=said):
    ablate.Ablation(c, tmp_path, []).go()


def test_other_mistakes(tmp_path):
  c = config()
  with pytest.raises(UserError, match="no row 'mim'.*choose from m3i_nomix"):
    ablate.Ablation(c, tmp_path, ['mim'])
  (tmp_path / 'file').write_text('')
  with pytest.raises(UserError, match='cannot write to --workdir'):
    ablate.Ablation(c, tmp_path / 'file' / 'w', []).go()
  with pytest.raises(UserError, match='say NAME/SEED'):
    ablate.alone(c, tmp_path, 'm3i')
  c.rows.m3i.config = 'configs/no.py'
  with pytest.raises(UserError, match='configs/no.py: no such config file'):
    ablate.resolve(c, 'm3i', 0)
  (tmp_path / 'broken.py').write_text('def get_config(arg): return nothing')
  c.rows.m3i.config = str(tmp_path / 'broken.py')
  with pytest.raises(UserError, match='broken.py: NameError: name .nothing'):
    ablate.resolve(c, 'm3i', 0)
  c.frame.unlock()
  c.frame.no_key = 1
  with pytest.raises(UserError, match='rows.m3i_nomix: the frame does not fit'):
    ablate.resolve(c, 'm3i_nomix', 0)


def test_a_row_may_have_a_teacher(tmp_path):
  c = config()
  c.rows.m3i.config = 'configs/table1/dense_distillation.py:frozen'
  c.frame.teacher = str(tmp_path / 'teacher.safetensors')
  runs = [('m3i', 0)]
  with pytest.raises(UserError, match='row m3i: cannot read weights'):
    ablate.check(c, tmp_path, runs)
  model = ablate.resolve(c, 'm3i', 0).model.to_dict()
  weights.save(c.frame.teacher, {'x': np.zeros(1)}, model)
  ablate.check(c, tmp_path, runs)


def test_all_rows_share_the_frame(tmp_path):
  c = ablation_emoji.get_config()
  rows = {name: ablate.resolve(c, name, 5) for name in c.rows}
  assert len(rows) == 19
  ablate.check(c, tmp_path, [(name, 5) for name in rows])
  letters = [c.rows[name].letter for name in rows]
  assert letters[:14] == [*'abcdefghiiijkl'] and not any(letters[14:])
  first = rows['m3i'].to_dict()
  assert first['model']['width'] == 128 and first['model']['depth'] == 4
  for row in rows.values():
    row = row.to_dict()
    for part in ('model', 'views', 'optimizer', 'ema', 'evals', 'image_size',
                 'batch_size', 'total_steps', 'features', 'seed'):
      assert row[part] == first[part]
    assert row['data'] | {'text': '', 'tags': ''} == first['data']
  assert rows['clip'].data.text == 'caption' == rows['mug'].data.text
  # What makes a row is its own.
  assert rows['mim_pixel'].input.mask == 0.75 != rows['mim_feature'].input.mask
  assert set(rows['m3i'].targets) > set(rows['m3i_nomix'].targets)


def test_full_and_debug_are_the_same_rows_otherwise(tmp_path):
  full = ablation_emoji.get_config('full')
  assert full.seeds == 3 and len(full.rows) == 19
  ablate.check(full, tmp_path, [(name, 0) for name in full.rows])
  with pytest.raises(UserError, match="no variant 'big'"):
    ablation_emoji.get_config('big')


def test_every_pair_and_row_exists():
  assert {x for pair in ablation_emoji.PAIRS for x in pair} <= set(
    ablation_emoji.ROWS
  )


def row(name, family, *values, letter='', seen='full', paper=0.0) -> Row:
  run = Run({}, {}, {}, (seen, 'x'), 1000, 50.0, (100, 200))
  scores = {
    'knn/top1': Spread.of(values),
    'knn/top1_se': Spread.of([1.0] * len(values)),
  }
  return Row(name, name.upper(), letter, family, paper, [run], scores)


ROWS = [
  row('b', 'inter', 30.0, 32.0, letter='g', paper=78.0),
  row('a', 'intra', 10.0, 12.0, letter='d', seen='75 % hidden', paper=83.0),
  row('c', 'intra', 29.0, 31.0, letter='a', paper=77.0),
  row('s', 'supervised', 20.0, 20.5, paper=81.0),
]


def test_tables_3_and_4():
  groups = report.sections(ROWS)
  assert {k: [r.name for r in v] for k, v in groups.items()} == {
    'Intra-view, full input': ['c'], 'Intra-view, masked input': ['a'],
    'Inter-view, full input': ['b'], 'Inter-view, masked input': [],
  }  # fmt: skip
  groups = report.together(ROWS, 'knn/top1')
  assert [r.name for v in groups.values() for r in v] == ['s', 'c', 'b']


def test_differences_within_the_seeds_are_marked():
  text = report.table({'all': ROWS})
  assert '| **31.0 (30.0-32.0)** |' in text
  assert '| 30.0 (29.0-31.0) ≈ |' in text
  assert '| 11.0 (10.0-12.0) |' in text
  single = [row('x', 'intra', 5.0), row('y', 'intra', 9.0)]
  assert '≈' not in report.table({'all': single})


def test_orders():
  said = lambda one, other: report.orders([(one, other)], ROWS)
  assert '| A | C | +6.0 | -19.0 reversed |' in said('a', 'c')
  assert '| S | A | -2.0 | +9.2 reversed |' in said('s', 'a')
  assert '| B | A | -5.0 | +20.0 reversed |' in said('b', 'a')
  assert '| B | C | +1.0 | +1.0 open |' in said('b', 'c')
  assert '| S | C | +4.0 | -9.8 reversed |' in said('s', 'c')
  assert '| B | S | -3.0 | +10.8 reversed |' in said('b', 's')
  assert report.verdict(Spread(2, 1, 3, 2), Spread(0, 0, 0, 2), 1) == (
    '+2.0 holds'
  )
  assert report.verdict(Spread(2, 1, 3, 2), Spread(0, 0, 0, 2), 0) == (
    '+2.0 differs'
  )
  assert report.verdict(Spread(2, 2, 2, 1), Spread(0, 0, 0, 1), 1) == (
    '+2.0 open'
  )


def test_the_csv_says_which_lie_below_the_best():
  lines = list(csv.DictReader(io.StringIO(report.as_csv(ROWS, []))))
  assert [x['knn/top1_below_best'] for x in lines] == ['0', '1', '0', '1']
  assert lines[1]['knn/top1_low'] == '10.0' and lines[1]['seconds'] == '50.0'
  assert lines[1]['knn/top1_high'] == '12.0' and lines[1]['seeds'] == '1'


def test_seconds_are_those_of_the_steps():
  # Windows of 50, 50 and 20 steps.
  history = [{'step': s, 'step_ms': ms} for s, ms in
             ((50, 100.0), (100, 200.0), (120, 50.0))]  # fmt: skip
  assert runs.training_seconds(history) == pytest.approx(5 + 10 + 1)


def test_a_method_is_described_by_its_config():
  target = lambda of, z: dict(of=of, representation=z)
  seen = dict(view='a', images=1, mask=0.75)
  targets = dict(
    x=target('a', dict(kind='pixels')), y=target('b', 'dense'),
    z=target('b', 'dense'), w=target('label', 'category'),
  )  # fmt: skip
  config = dict(input=seen, targets=targets)
  assert runs.describe(config) == (
    '75 % hidden', 'own view: pixels; other view: dense; category'
  )
  config['input'] = dict(view='a', images=2, mask=0.5)
  assert runs.describe(config)[0] == 'two mixed'
  config['input'] = dict(view='a', images=1, mask=0.0)
  assert runs.describe(config)[0] == 'full'


def test_the_plot_has_a_line_a_row_and_a_panel_a_metric():
  baselines = [
    Row('raw pixels', 'raw pixels', '', 'baseline', 0, [],
        {'knn/top1': Spread.of([25.0])})
  ]  # fmt: skip
  size = lambda rows: Image.open(
    io.BytesIO(figure.draw(rows, baselines))
  ).size
  assert size(ROWS)[1] > size(ROWS[:2])[1]
  two = [
    Row(**(vars(r) | {'scores': r.scores | {'probe/top1': Spread.of([1.0])}}))
    for r in ROWS
  ]
  assert size(two)[0] > size(ROWS)[0]
  assert figure.draw(ROWS, []) != figure.draw(ROWS, baselines)


def test_help_suffices():
  text = command('/nowhere', '--help').stdout
  for word in ('--config', '--workdir', '--rows', '--run', 'Exit', ':full'):
    assert word in text
