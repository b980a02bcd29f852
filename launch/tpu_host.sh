#!/usr/bin/env bash
# Prepares one TPU host: Python, .venv with jax[tpu], a bucket at /mnt/BUCKET.
#
#   launch/tpu_host.sh BUCKET
#
# launch/tpu_pod.sh and launch/tpu_spot.sh run it on every host. What is there
# is not made again.
set -euo pipefail
case ${1-} in
  ''|-h|--help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit ;;
esac
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bucket=$1 place=/mnt/$1 keys=https://packages.cloud.google.com/apt

if ! command -v gcsfuse >/dev/null; then
  key=/usr/share/keyrings/cloud.google.asc
  curl -fsS "$keys/doc/apt-key.gpg" | sudo tee "$key" >/dev/null
  echo "deb [signed-by=$key] $keys gcsfuse-$(lsb_release -cs) main" |
    sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
  sudo apt-get -qq update
  sudo apt-get -qq install -y gcsfuse
fi

# No cache of names: what one host writes, the others see at once. Directories
# of a bucket without a hierarchical namespace cannot be renamed: Orbax then
# fails, instead of a half-written checkpoint getting its name.
if ! mountpoint -q "$place"; then
  sudo mkdir -p "$place"
  sudo chown "$(id -u):$(id -g)" "$place"
  gcsfuse --implicit-dirs --metadata-cache-ttl-secs=0 "$bucket" "$place"
fi

# The Python of most TPU images is older than 3.11.
if [[ ! -x .venv/bin/python ]] && ! python3 -c \
    'import sys; sys.exit(sys.version_info < (3, 11))'; then
  python3 -m pip install -q uv
  python3 -m uv python install -q 3.12
  PYTHON=$(python3 -m uv python find 3.12)
  export PYTHON
fi
launch/setup.sh tpu
