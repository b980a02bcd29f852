# shellcheck shell=bash
# Sourced by the scripts of this directory. --help prints the comment at their
# head, --dry-run the commands instead of running them.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
script=${BASH_SOURCE[1]}
dry=
arguments=()

die() { echo "${script##*/}: $*" >&2; exit 2; }
((BASH_VERSINFO[0] >= 5)) || die 'needs bash 5 (macOS: brew install bash)'

# Fills `dry` and `arguments`, which are all that is not of this script itself.
parse() {
  local argument
  for argument in "$@"; do
    case $argument in
      -h|--help) sed -n '2,/^[^#]/{/^#SBATCH/d;s/^# \{0,1\}//p;}' "$script"
        exit ;;
      --dry-run) dry=1 ;;
      *) arguments+=("$argument") ;;
    esac
  done
}

# need NAME WHAT...: the variables that must be set, each with what it is.
need() {
  while (($#)); do
    [[ -n ${!1-} ]] || die "$1 is not set: $2 (see --help)"
    shift 2
  done
}

# Each run needs one; a mistake that is told here costs no start.
given_config() {
  [[ " ${arguments[*]} " == *' --config='* ]] || die 'give --config=FILE'
}

# The words of a command as one line that a shell reads back as the same words.
quoted() {
  local word line=
  for word in "$@"; do
    [[ $word =~ ^[A-Za-z0-9_./:=,@%+~-]+$ ]] || word=${word@Q}
    line+="${line:+ }$word"
  done
  echo "$line"
}

run() {
  if [[ -n $dry ]]; then quoted "$@"; else "$@"; fi
}

# pack FILE: the code as it is here, new files too, as a tar archive.
pack() {
  mkdir -p "${1%/*}"
  if [[ -n $dry ]]; then
    echo "git ls-files -co --exclude-standard | tar -cz -T - >$1"
    return
  fi
  git -C "$root" ls-files -z -co --exclude-standard |
    while IFS= read -rd '' file; do
      if [[ -e $root/$file ]]; then printf '%s\0' "$file"; fi
    done | tar -C "$root" -cz --null -T - >"$1"
}
