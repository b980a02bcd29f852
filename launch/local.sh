#!/usr/bin/env bash
# Sets up .venv if need be, then pre-trains M3I on the bundled pictures.
#
#   launch/local.sh [OPTION...]      the options of m3i_jax.main, such as
#     --config.total_steps=100         a shorter run
#     --config=configs/emoji.py:debug  another config
#   WORKDIR=DIR launch/local.sh      where results go (default: runs/emoji)
#
# Relative paths start at the repository root. A run that was stopped goes on
# where it was when the same line is given again.
set -euo pipefail
case ${1-} in -h|--help) sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; exit ;; esac
cd "$(dirname "${BASH_SOURCE[0]}")/.."

launch/setup.sh
exec .venv/bin/python -m m3i_jax.main --config=configs/emoji.py \
  --workdir="${WORKDIR:-runs/emoji}" "$@"
