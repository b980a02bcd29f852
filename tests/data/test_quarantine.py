"""Which pictures could not be read, and when they are too many."""

import json
import os

import pytest

from m3i_jax.data import quarantine
from m3i_jax.data.quarantine import Quarantine
from m3i_jax.errors import UserError


def test_each_picture_is_listed_and_logged_once(tmp_path, monkeypatch):
  lines = []
  monkeypatch.setattr(
    quarantine.logging, 'warning', lambda *args: lines.append(args[1])
  )
  listed = Quarantine(str(tmp_path / 'q.jsonl'))
  for _ in range(3):
    listed.add('a/1', 'unreadable: cut\nshort')
    listed.add('b/2', 'no picture')
  found = (tmp_path / 'q.jsonl').read_text().splitlines()
  assert [json.loads(line) for line in found] == [
    {'id': 'a/1', 'reason': 'unreadable: cut\nshort'},
    {'id': 'b/2', 'reason': 'no picture'},
  ]
  assert lines == ['a/1', 'b/2']


def test_without_a_file_nothing_is_written(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  Quarantine().add('c/3', 'no picture')
  assert os.listdir() == []


@pytest.mark.parametrize('replaced, seen, ends', [
  (99, 100, False), (100, 2000, False), (101, 2000, True), (500, 9999, True),
  (500, 10001, False),
])  # fmt: skip
def test_a_run_ends_above_the_share_and_not_for_bad_luck(replaced, seen, ends):
  listed = Quarantine('W/quarantine.jsonl')
  if not ends:
    return listed.check(replaced, seen, .05)
  with pytest.raises(UserError, match='config.data.max_bad=0.05: see W/qua'):
    listed.check(replaced, seen, .05)
