#!/usr/bin/env bash
BUCKET=my-bucket NAME=m3i
main=(.venv/bin/python -m m3i_jax.main --workdir=/mnt/my-bucket/runs/m3i)
# What a host of launch/tpu_spot.sh does at every start, as root: it sets up,
# and the run goes on. That script writes the two lines above.
set -euo pipefail
exec >>/var/log/m3i_jax.log 2>&1
export HOME=/root PATH=$PATH:/snap/bin TFDS_DATA_DIR=/mnt/$BUCKET/data
export JAX_COMPILATION_CACHE_DIR=/mnt/$BUCKET/cache

mkdir -p /opt/m3i_jax
cd /opt/m3i_jax
gcloud storage cat "gs://$BUCKET/code/$NAME.tar.gz" | tar -xz
launch/tpu_host.sh "$BUCKET"
code=0
launch/again.sh "${main[@]}" || code=$?
# 75, 143: this host is taken away, and goes on when there is another.
if ((code != 75 && code != 143)); then
  mkdir -p "/mnt/$BUCKET/runs/$NAME"
  echo "$(date -u) $(hostname): exit code $code" \
    >"/mnt/$BUCKET/runs/$NAME/ended"
fi
