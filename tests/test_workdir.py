"""Whose a directory is."""

import json

import pytest

from configs import emoji
from m3i_jax.errors import UserError
from m3i_jax.workdir import begun, claim, same_data


def test_claim_compares_with_what_has_begun(tmp_path):
  config, run = emoji.get_config('debug'), tmp_path / 'run'
  assert claim(config, run) == [] and not begun(run)
  config.log_every = 7  # changes no result: allowed
  config.update(accumulate=2)
  config.mesh.fsdp = 1
  config.model.remat = 'full'
  assert claim(config, run) == []
  # No step was done: a correction, whose tokenizer may be another.
  (run / 'tokenizer.model').write_bytes(b'old')
  (run / 'metrics.jsonl').touch()
  config.data.vocabulary = 500
  claim(config, run)
  assert not (run / 'tokenizer.model').exists()
  (run / 'metrics.jsonl').write_text('{"step": 1}\n')
  assert begun(run)
  config.optimizer.learning_rate = 1.0
  with pytest.raises(UserError, match='learning_rate: 0.002 -> 1.0') as told:
    claim(config, run)
  assert '--accept_changes' in str(told.value) and 'more' not in str(told.value)
  config.optimizer.update(weight_decay=.25, clip=.5)
  config.data.update(source='a', split='b', label='c')
  with pytest.raises(UserError, match=r'\(([^;]* -> [^;]*; ){5}1 more\)'):
    claim(config, run)


def test_a_change_can_be_accepted(tmp_path):
  config = emoji.get_config('debug')
  claim(config, tmp_path)
  (tmp_path / 'metrics.jsonl').write_text('{"step": 1}\n')
  config.optimizer.learning_rate = 1.0
  config.guard.spike = 4.0
  told = claim(config, tmp_path, accept=True)
  assert told == [
    'config.guard.spike: 0.0 -> 4.0',
    'config.optimizer.learning_rate: 0.002 -> 1.0',
  ]
  # From then on it is the run's own.
  assert claim(config, tmp_path) == []
  kept = json.loads((tmp_path / 'config.json').read_text())
  assert kept['guard']['spike'] == 4


def test_keys_that_an_older_run_did_not_have_were_at_their_defaults(tmp_path):
  config = emoji.get_config('debug')
  claim(config, tmp_path)
  (tmp_path / 'metrics.jsonl').write_text('{"step": 1}\n')
  path = tmp_path / 'config.json'
  old = json.loads(path.read_text())
  for key in ('accumulate', 'guard', 'watchdog'):
    del old[key]
  del old['mesh']['tensor']
  path.write_text(json.dumps(old))
  assert claim(config, tmp_path) == []
  path.write_text(json.dumps(old))
  config.guard.spike = 4.0
  with pytest.raises(UserError, match='config.guard.spike: 0.0 -> 4.0'):
    claim(config, tmp_path)


def test_a_run_goes_on_with_the_data_that_it_began_with(tmp_path):
  same_data(tmp_path, (100,), ('cat', 'dog'))
  same_data(tmp_path, (101,), ('cat', 'dog'))  # no step was done
  (tmp_path / 'metrics.jsonl').write_text('{"step": 1}\n')
  same_data(tmp_path, (101,), ('cat', 'dog'))
  for records, classes in (
    ((100,), ('cat', 'dog')), ((101, 5), ('cat', 'dog')),
    ((101,), ('dog', 'cat')), ((101,), ()),
  ):  # fmt: skip
    with pytest.raises(UserError, match='began with 101 records and 2 classes'):
      same_data(tmp_path, records, classes)
  same_data(tmp_path, (99,), ('cat', 'cow'), accept=True)
  found = json.loads((tmp_path / 'data.json').read_text())
  assert found == {'records': [99], 'classes': ['cat', 'cow']}
