"""`python -m m3i_jax.tokenizer`: what it writes, tells and refuses."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
from absl import flags

from m3i_jax import tokenizer as command
from m3i_jax.data import describe, sources, texts
from m3i_jax.data.tokenizer import Tokenizer, open_tokenizer, train_tokenizer
from m3i_jax.errors import UserError
from m3i_jax.report import text_page

ROOT = pathlib.Path(__file__).parents[1]
GOLDEN = json.loads((ROOT / 'tests/golden/wordpiece.json').read_text())


def run(*words: str) -> subprocess.CompletedProcess:
  return subprocess.run(
    [sys.executable, '-m', 'm3i_jax.tokenizer', *words], cwd=ROOT,
    env=os.environ, capture_output=True, text=True, timeout=300,
  )  # fmt: skip


@pytest.fixture
def work(monkeypatch, capsys):
  """The command in this process: work('train', 'a', vocabulary=9) -> lines."""

  def call(*words: str, **given) -> list[str]:
    values = flags.FlagValues()
    with monkeypatch.context() as patch:
      # As `define` makes them, but not of the process.
      for kind in ('string', 'integer', 'list'):
        made = getattr(flags, f'DEFINE_{kind}')
        patch.setattr(
          flags, f'DEFINE_{kind}',
          lambda *a, made=made, **k: made(*a, flag_values=values, **k),
        )
      command.define()
    values(['x', *(f'--{k}={v}' for k, v in given.items())])
    assert command.work(*words, values) == 0
    return capsys.readouterr().out.splitlines()

  return call


def test_training_is_that_of_a_run(work, tmp_path):
  out = tmp_path / 'a' / 'new' / 'words.model'
  told = work('train', 'synthetic:40', out=out, vocabulary=400, tags='tags')
  source = sources.open_source(
    'synthetic:40', 'train', sources.Fields(text='caption', tags='tags')
  )
  wanted = train_tokenizer(texts.captions(source), 400)
  assert out.read_bytes() == wanted and told[0] == str(out)
  assert json.loads(told[-1])['vocabulary'] == Tokenizer(wanted).vocab_size
  again = work('inspect', str(out), 'synthetic:40')
  assert again[-1] == told[-1] and any('█' in line for line in again)


def test_a_text_file_and_a_vocabulary_of_bert(work, tmp_path):
  words = tmp_path / 'vocab.txt'
  words.write_text(GOLDEN['uncased']['vocabulary'])
  file = tmp_path / 'captions.txt'
  file.write_text('\ufeffa small red house\n\n  the table \nin paris\n')
  told = work('inspect', str(words), str(file), length='3,4')
  found = json.loads(told[-1])
  assert found['texts'] == 3 and found['kind'] == 'WordPiece, uncased'
  assert found['cut'] == {'3': 1.0, '4': 1 / 3}
  assert '33.3% at 4' in told[2] and '[UNK]' in told[3]


def test_lines_are_sampled_evenly(tmp_path):
  file = tmp_path / 'captions.txt'
  file.write_text('\n\n'.join(map(str, range(1000))))
  assert command.lines(file, 10**6) == [str(i) for i in range(1000)]
  found = [int(x) for x in command.lines(file, 10)]
  assert found == [99 + 100 * i for i in range(10)]


@pytest.mark.parametrize('suffix', ['csv', 'TSV', 'jsonl', 'parquet'])
def test_a_table_is_no_list_of_captions(work, tmp_path, suffix):
  file = tmp_path / f'a.{suffix}'
  file.write_text('path,caption\n1.png,a cat\n')
  for words in (('inspect', str(file)), ('train', str(file))):
    with pytest.raises(UserError, match='is a table: .*prepare .* give DIR'):
      work(*words, out=tmp_path / 'x')


def test_data_without_captions(work, monkeypatch):
  described = describe.Described({'train': 1}, sources.Fields(), ('id', 'x'))
  monkeypatch.setattr(describe, 'describe', lambda _: described)
  with pytest.raises(UserError, match='fields are id, x: --text=FIELD'):
    work('inspect', 'DATA')


def test_pages(work, tmp_path):
  data = tmp_path / 'captions.txt'
  data.write_text('a <b>red</b> cat\na blue dog\n' * 9)
  page, picture = tmp_path / 'a.html', tmp_path / 'a.png'
  for file in (page, picture):
    told = work('inspect', str(data), vocabulary=290, page=file)
    assert str(file) in told
  text = page.read_text()
  assert '<b>' not in text and '&lt;' in text
  assert 'data:image/png;base64,' in text and 'src="http' not in text
  for line in told[:4]:
    assert line.replace('<', '&lt;') in text
  assert picture.read_bytes()[:8] == b'\x89PNG\r\n\x1a\n'


def test_the_picture_says_what_is_cut(monkeypatch):
  from matplotlib.axes import Axes

  from m3i_jax.data.lengths import measure

  said = []
  monkeypatch.setattr(
    Axes, 'annotate', lambda self, text, *a, **k: said.append(text)
  )
  words = open_tokenizer(GOLDEN['cased']['vocabulary'].encode())
  measured = measure(words, ['the table'] * 3 + ['the table ' * 9])
  text_page.draw(measured, [8, 77])
  assert said == ['8: 25% cut']  # nothing is as long as 77


@pytest.mark.parametrize(
  ('words', 'given', 'told'),
  [
    ((), {}, 'say: train DATA'),
    (('inspect',), {}, 'say: train DATA'),
    (('train', 'synthetic'), {}, '--out is missing'),
    (('train', 'synthetic:9'), {'out': 'x', 'vocabulary': 9}, '--vocabulary'),
    (('inspect', 'no.model', 'synthetic'), {}, 'no.model: No such file'),
    (('inspect', 'README.md', 'synthetic'), {}, 'README.md: the tokenizer is'),
    (('inspect', 'no_such_data'), {}, 'no prepared data set'),
    (('inspect', 'synthetic'), {'text': 'word'}, "no field 'word'"),
    (('train', 'synthetic'), {'out': 'README.md/a'}, 'a: cannot make README'),
    (('train', 'synthetic'), {'out': 'docs'}, '--out=docs cannot be written'),
    (('inspect', 'synthetic'), {'page': 'README.md/x.png'}, 'cannot make READ'),
    (('inspect', 'synthetic'), {'page': 'x.pdf'}, 'name a .html or a .png'),
    (('inspect', 'synthetic'), {'length': '3,x'}, 'give numbers'),
    (('inspect', 'docs/panel.png'), {}, 'no UTF-8 text'),
  ],
)
def test_mistakes(work, monkeypatch, words, given, told):
  monkeypatch.chdir(ROOT)
  with pytest.raises(UserError) as caught:
    work(*words, **given)
  assert told in str(caught.value) and '\n' not in str(caught.value)


def test_the_command_itself(tmp_path):
  file = tmp_path / 'captions.txt'
  file.write_text('a red cat\na blue dog\n')
  done = run('inspect', str(file), '--vocabulary=290')
  assert done.returncode == 0, done.stderr
  assert json.loads(done.stdout.splitlines()[-1])['texts'] == 2
  done = run('inspect', str(file), '--vocabulary=5')
  assert done.returncode == 2 and 'Traceback' not in done.stderr
  assert done.stderr.splitlines()[-1].startswith(
    f'm3i_jax: {file}: cannot train'
  )
