#!/usr/bin/env bash
# Runs a command again for as long as that helps.
#
#   launch/again.sh .venv/bin/python -m m3i_jax.main --config=... --workdir=...
#   RESTARTS=20  at most so often      PAUSE=10  seconds between
#
# By its exit code: 74 (stuck, or a process of several was lost), 75 (a signal
# stopped it, and it saved) and above 128 (killed) are run again and go on from
# the last checkpoint. 0 is complete, 2 a mistake, 70 diverged, any other a
# defect: these end it. SIGTERM is passed on, and then nothing is run again.
set -uo pipefail
case ${1-} in
  ''|-h|--help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit ;;
esac

child='' stopped=''
stop() {
  stopped=1
  if [[ -n $child ]]; then kill -TERM "$child" 2>/dev/null; fi
}
trap stop TERM INT

for ((try = 1; ; try++)); do
  "$@" &
  child=$!
  wait "$child"
  code=$?
  # A signal interrupts `wait` while the command saves.
  while [[ -n $stopped ]] && kill -0 "$child" 2>/dev/null; do
    wait "$child"
  done
  if [[ -n $stopped ]]; then
    wait "$child"
    code=$?
  fi
  if [[ -n $stopped ]] || ((code != 74 && code != 75 && code <= 128)); then
    exit "$code"
  fi
  if ((try > ${RESTARTS:-20})); then
    echo "again: exit code $code, after $((try - 1)) restarts: no more" >&2
    exit "$code"
  fi
  echo "again: exit code $code: restart $try in ${PAUSE:-10} s" >&2
  sleep "${PAUSE:-10}" &
  wait "$!"
  [[ -z $stopped ]] || exit "$code"
done
