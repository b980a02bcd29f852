#!/usr/bin/env bash
# Spot TPUs as a queued resource: each start sets up, and the run goes on.
#
#   launch/tpu_spot.sh keep [OPTION...]    asks for it, and after a preemption
#     again, until the run has ended; to be left running (tmux, a small VM)
#   launch/tpu_spot.sh create [OPTION...]  once; OPTION: of m3i_jax.main
#   launch/tpu_spot.sh status|logs|delete  logs: follows the first host's output
#
#   NAME=m3i ZONE=us-east5-a TYPE=v5p-128 VERSION=v2-alpha-tpuv5 BUCKET=bucket
#   SLICES=1   EVERY=300 seconds that keep waits   --dry-run prints the commands
# Data are read from gs://BUCKET/data, this tree goes to gs://BUCKET/code, the
# run to gs://BUCKET/runs/NAME, with `ended` when it needs no more starts.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
parse "$@"
need NAME 'of the slice' ZONE 'such as us-east5-a' BUCKET 'without gs://'
verb=${arguments[0]-} options=("${arguments[@]:1}")
queue=(gcloud compute tpus queued-resources) here=("$NAME" --zone="$ZONE")
ended=gs://$BUCKET/runs/$NAME/ended startup=$root/build/startup.sh

create() {
  need TYPE 'such as v5p-128' VERSION 'of the image, such as v2-alpha-tpuv5'
  given_config
  local nodes=(--node-id="$NAME")
  ((${SLICES:=1} == 1)) || nodes=(--node-count="$SLICES" --node-prefix="$NAME")
  local main=(.venv/bin/python -m m3i_jax.main --platform=tpu
    --workdir="/mnt/$BUCKET/runs/$NAME" "${options[@]}")
  pack "$root/build/m3i_jax.tar.gz"
  run gcloud storage cp "$root/build/m3i_jax.tar.gz" \
    "gs://$BUCKET/code/$NAME.tar.gz"
  printf '%s\n' '#!/usr/bin/env bash' "BUCKET=$BUCKET NAME=$NAME" \
    "main=($(quoted "${main[@]}"))" >"$startup"
  sed '1d; /^BUCKET=/d; /^main=/d' "$root/launch/tpu_startup.sh" >>"$startup"
  run "${queue[@]}" create "${here[@]}" "${nodes[@]}" --spot \
    --accelerator-type="$TYPE" --runtime-version="$VERSION" \
    --metadata-from-file=startup-script="$startup"
}
delete() { run "${queue[@]}" delete "${here[@]}" --force --quiet; }
look() {
  run "${queue[@]}" describe "${here[@]}" --format='value(state.state)'
}

case $verb in
  create|delete) "$verb" ;;
  keep)
    run gcloud storage rm "$ended" 2>/dev/null || true
    [[ -z $dry ]] || { create && look; }
    until run gcloud storage cat "$ended" 2>/dev/null; do
      case $(look 2>/dev/null || echo NONE) in
        NONE) create || true ;;
        SUSPENDED|FAILED) delete && create || true ;;
      esac
      sleep "${EVERY:-300}"
    done
    delete ;;
  status) look && run gcloud storage cat "$ended" 2>/dev/null ||
    echo 'it has not ended' ;;
  logs) run "${queue[@]}" ssh "${here[@]}" --node=0 --worker=0 \
    --command='sudo tail -n 50 -F /var/log/m3i_jax.log' ;;
  *) die "say keep, create, status, logs or delete, not '$verb'" ;;
esac
