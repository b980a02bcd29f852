#!/usr/bin/env bash
# Sets up .venv if need be, then runs the linter and the tests, on CPU.
#
#   launch/test.sh [OPTION...]       the options of pytest, such as
#     -m 'not slow'                    the quick tests
#     tests/test_checkpoint.py         one file
set -euo pipefail
case ${1-} in -h|--help) sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; exit ;; esac
cd "$(dirname "${BASH_SOURCE[0]}")/.."

launch/setup.sh
launch/setup.sh plan || echo 'test: without libtpu no plans for TPUs are tried'
launch/setup.sh beam || echo 'test: without Beam its pipeline is not tried'
.venv/bin/ruff check --output-format=concise --quiet .
# The tests of a file share what they compile, so they stay together.
exec .venv/bin/python -m pytest -q -n auto --maxprocesses=4 --dist=loadfile "$@"
