"""The scripts of launch/ in a tree of their own, on commands that record."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
SETTINGS = dict(
  NAME='m3i', ZONE='us-east5-a', TYPE='v5p-128', VERSION='v2-alpha-tpuv5',
  BUCKET='bucket', IMAGE='host/p/r/m3i:1', TPU='tpu-v5p-slice',
  TOPOLOGY='4x4x4', HOSTS='16', CHIPS='4',
)  # fmt: skip
CONFIG = '--config=configs/vitb.py'
# Answers as FAKES says, {'first words of a call': [exit code, output]} or a
# list of these, one a call; runs the --command of an ssh in the directory HOST.
FAKE = f"""#!{sys.executable}
import json, os, pathlib, subprocess, sys
call = [os.path.basename(sys.argv[0]), *sys.argv[1:]]
if not sys.stdin.isatty() and call[:2] == ['kubectl', 'apply']:
  call.append(sys.stdin.read())
log = pathlib.Path(os.environ['CALLS'])
before = log.read_text().splitlines() if log.exists() else []
with log.open('a') as file:
  file.write(json.dumps(call) + chr(10))
for words, answers in json.loads(os.environ.get('FAKES', '{{}}')).items():
  if ' '.join(call).startswith(words):
    told = answers if isinstance(answers[0], list) else [answers]
    count = sum(' '.join(json.loads(x)).startswith(words) for x in before)
    code, text = told[min(count, len(told) - 1)]
    print(text, end='')
    sys.exit(code)
if 'HOST' in os.environ:
  for word in call:
    if word.startswith('--command='):
      sys.exit(subprocess.call(['bash', '-c', word[10:]],
                               cwd=os.environ['HOST']))
"""


def tree(tmp_path: pathlib.Path):
  """launch(script, *options, fakes, settings, **env) -> (what it did, calls).

  `launch.tree` is a git repository with launch/ alone; a call is its words.
  """
  place, tools = tmp_path / 'tree', tmp_path / 'tools'
  shutil.copytree(ROOT / 'launch', place / 'launch')
  tools.mkdir()
  for name in ('gcloud', 'kubectl', 'docker', 'srun', 'scontrol', 'sbatch'):
    (tools / name).write_text(FAKE)
    (tools / name).chmod(0o755)
  outside = {
    name: value
    for name, value in os.environ.items()
    if name not in (*SETTINGS, 'SLICES', 'ACCOUNT', 'HOST')
    and not name.startswith('SLURM')
  }
  subprocess.run(['git', 'init', '-q', place], check=True)

  def launch(script, *options, fakes=None, settings=SETTINGS, **env):
    log = tmp_path / 'calls'
    log.unlink(missing_ok=True)
    done = subprocess.run(
      ['bash', str(place / 'launch' / script), *options],
      env=outside | settings | env | {
        'PATH': f'{tools}:{os.environ["PATH"]}', 'CALLS': str(log),
        'FAKES': json.dumps(fakes or {}), 'EVERY': '0',
      },
      cwd=place, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    lines = log.read_text().splitlines() if log.exists() else []
    return done, [json.loads(line) for line in lines]

  launch.tree = place
  return launch
