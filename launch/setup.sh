#!/usr/bin/env bash
# Makes .venv at the repository root with the versions of requirements.lock.
# Does nothing if that was done before and the lists have not changed.
#
#   launch/setup.sh                  jax for CPU
#   launch/setup.sh cuda12           and jax[cuda12]; likewise cuda13, tpu
#   launch/setup.sh plan             and libtpu beside it (700 MB), with which
#                                    m3i_jax.plan compiles for TPUs on any Linux
#   launch/setup.sh beam             and .venv/beam, with which m3i_jax.prepare
#                                    runs on a cluster
#   launch/setup.sh tensorflow       and .venv/tensorflow (1.8 GB), with which
#                                    it builds data sets of the TFDS catalogue
#   PYTHON=/path/python3 launch/setup.sh     with this Python
set -euo pipefail
case ${1-} in
  -h|--help) sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; exit ;;
  ''|plan|beam|tensorflow) accelerator= ;;
  cuda12|cuda13|tpu) accelerator=$1 ;;
  *) echo "setup: unknown '$1': give cuda12, cuda13, tpu, plan, beam," \
    'tensorflow or nothing' >&2
    exit 2 ;;
esac
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() { echo "setup: $*" >&2; exit 1; }

# A command may be there and yet not run (the shims of pyenv): try each.
find_python() {
  local python
  for python in ${PYTHON:-python3.12 python3.11 python3 python}; do
    if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
        2>/dev/null; then
      echo "$python"
      return
    fi
  done
  fail 'no Python 3.11 or newer: install one, or name it by PYTHON=/path'
}

# uv takes a third of pip's time; pip knows mirrors that uv does not.
install() {
  local wanted=(-r requirements.txt -r requirements-test.txt
    -c requirements.lock ${accelerator:+"jax[$accelerator]"})
  .venv/bin/python -m pip install uv &&
    .venv/bin/uv pip install --python .venv/bin/python "${wanted[@]}" ||
    .venv/bin/python -m pip install -q "${wanted[@]}"
}

# Not where Python finds it: JAX would look for a TPU at every start.
install_libtpu() {
  local place=.venv/libtpu wanted
  wanted=$(.venv/bin/python -c 'from importlib.metadata import requires
needs = requires("jax")
print(next(r for r in needs if r.startswith("libtpu")).partition(";")[0])')
  [[ $wanted == "$(cat $place/installed.txt 2>/dev/null)" ]] && return
  echo "setup: installing $wanted into $place"
  rm -rf $place
  .venv/bin/uv pip install -q --python .venv/bin/python --target $place \
    "$wanted" || .venv/bin/python -m pip install -q --target $place "$wanted" ||
    fail "could not install $wanted"
  printf '%s\n' "$wanted" >$place/installed.txt
}

# What would not go with the versions of the lock.
install_venv() {
  local place=.venv/$1 list=requirements-$1.txt
  cmp -s "$list" "$place/installed.txt" && return
  echo "setup: installing $list into $place"
  .venv/bin/python -m venv --clear "$place"
  .venv/bin/uv pip install -q --python "$place/bin/python" -r "$list" ||
    "$place/bin/python" -m pip install -q -r "$list" ||
    fail "could not install $list"
  cp "$list" "$place/installed.txt"
}

# What the argument asks for beside .venv.
install_beside() {
  case $1 in
    plan) install_libtpu ;;
    beam|tensorflow) install_venv "$1" ;;
  esac
}

stamp=.venv/installed.txt
lists=$(cat requirements.txt requirements-test.txt requirements.lock)
if .venv/bin/python -c '' 2>/dev/null; then
  if [[ -z $accelerator && -f $stamp && $lists == "$(cat "$stamp")" ]]; then
    install_beside "${1-}"
    exit
  fi
else
  python=$(find_python)
  echo "setup: making .venv with $("$python" --version)"
  "$python" -m venv --clear .venv ||
    fail "'$python -m venv' failed; on Debian: apt install python3-venv"
fi

echo "setup: installing requirements.lock${accelerator:+, jax[$accelerator]}"
if ! install >.venv/setup.log 2>&1; then
  tail -n 9 .venv/setup.log >&2
  fail 'could not install: the lines above (.venv/setup.log) say why'
fi
printf '%s\n' "$lists" >"$stamp"
install_beside "${1-}"
