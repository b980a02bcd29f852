#!/usr/bin/env bash
# A TPU slice that you hold: one command on all of its hosts.
#
#   launch/tpu_pod.sh create             asks for the slice
#   launch/tpu_pod.sh sync               copies this tree to all hosts, sets up
#   launch/tpu_pod.sh run [OPTION...]    starts, or goes on; OPTION: of main
#   launch/tpu_pod.sh logs               follows the first host's output
#   launch/tpu_pod.sh stop               saves and ends (SIGTERM); kill: at once
#   launch/tpu_pod.sh delete             gives the slice back
#
#   NAME=m3i ZONE=us-east5-a TYPE=v5p-128 VERSION=v2-alpha-tpuv5 BUCKET=bucket
#   --dry-run prints the commands. Data are read from gs://BUCKET/data, the run
#   is written to gs://BUCKET/runs/NAME. The run outlives the ssh connection.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
parse "$@"
need NAME 'of the slice' ZONE 'such as us-east5-a'
verb=${arguments[0]-} options=("${arguments[@]:1}")
here=("$NAME" --zone="$ZONE")

everywhere() {
  run gcloud compute tpus tpu-vm ssh "${here[@]}" --worker=all --command="$1"
}

case $verb in
  create)
    need TYPE 'such as v5p-128' VERSION 'of the image, such as v2-alpha-tpuv5'
    run gcloud compute tpus tpu-vm create "${here[@]}" \
      --accelerator-type="$TYPE" --version="$VERSION" ;;
  sync)
    need BUCKET 'its name, without gs://'
    pack "$root/build/m3i_jax.tar.gz"
    run gcloud compute tpus tpu-vm scp "$root/build/m3i_jax.tar.gz" "$NAME:" \
      --zone="$ZONE" --worker=all
    everywhere "mkdir -p m3i_jax && tar -C m3i_jax -xzf m3i_jax.tar.gz && \
m3i_jax/launch/tpu_host.sh $BUCKET" ;;
  run)
    need BUCKET 'its name, without gs://'
    given_config
    main=(.venv/bin/python -m m3i_jax.main --platform=tpu
      --workdir="/mnt/$BUCKET/runs/$NAME" "${options[@]}")
    everywhere "cd m3i_jax && if kill -0 \$(cat run.pid) 2>/dev/null; then \
echo 'it runs: stop it first'; exit 1; fi; \
{ TFDS_DATA_DIR=/mnt/$BUCKET/data JAX_COMPILATION_CACHE_DIR=/mnt/$BUCKET/cache \
nohup launch/again.sh \
$(quoted "${main[@]}") >run.log 2>&1 </dev/null & echo \$! >run.pid; }" ;;
  logs)
    run gcloud compute tpus tpu-vm ssh "${here[@]}" --worker=0 \
      --command='tail -n 50 -F m3i_jax/run.log' ;;
  stop) everywhere "kill -TERM \$(cat m3i_jax/run.pid)" ;;
  kill) everywhere "pkill -KILL -f '[l]aunch/again.sh|[m]3i_jax.main'" ;;
  delete) run gcloud compute tpus tpu-vm delete "${here[@]}" --quiet ;;
  *) die "say create, sync, run, logs, stop, kill or delete, not '$verb'" ;;
esac
