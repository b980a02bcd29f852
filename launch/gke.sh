#!/usr/bin/env bash
# A run on TPU slices of a GKE cluster: launch/gke_jobset.yaml, filled in.
#
#   launch/gke.sh image                builds launch/Dockerfile and pushes IMAGE
#   launch/gke.sh run [OPTION...]      starts it; options of m3i_jax.main
#   launch/gke.sh status|logs          logs: follows the first host's output
#   launch/gke.sh stop|resume          saves and frees the slices; goes on
#   launch/gke.sh delete               of the JobSet; the run's directory stays
#
#   NAME=m3i IMAGE=REGION-docker.pkg.dev/PROJECT/REPO/m3i_jax:1 BUCKET=my-bucket
#   TPU=tpu-v5p-slice TOPOLOGY=4x4x4 HOSTS=16 (of a slice)  CHIPS=4 (of a host)
#   SLICES=1 ACCOUNT=default (a service account that may write to the bucket)
#   --dry-run prints the commands and the JobSet.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
parse "$@"
need NAME 'of the run'
: "${SLICES:=1}" "${ACCOUNT:=default}"
verb=${arguments[0]-} options=("${arguments[@]:1}")
label=jobset.sigs.k8s.io/jobset-name=${NAME:?}
first=jobset.sigs.k8s.io/job-index=0,batch.kubernetes.io/job-completion-index=0

# The JobSet with its ${...} filled in.
jobset() {
  local text option name ARGS=
  for option in "${options[@]}"; do
    # As JSON, which YAML contains.
    option=${option//\\/\\\\}
    ARGS+=${ARGS:+$'\n                    - '}\"${option//\"/\\\"}\"
  done
  text=$(<"$root/launch/gke_jobset.yaml")
  for name in NAME IMAGE BUCKET TPU TOPOLOGY HOSTS CHIPS SLICES ACCOUNT ARGS; do
    text=${text//"\${$name}"/"${!name}"}
  done
  echo "$text"
}

case $verb in
  image)
    need IMAGE 'REGION-docker.pkg.dev/PROJECT/REPO/m3i_jax:1'
    run docker build -t "$IMAGE" -f "$root/launch/Dockerfile" "$root"
    run docker push "$IMAGE" ;;
  run)
    need IMAGE 'REGION-docker.pkg.dev/PROJECT/REPO/m3i_jax:1' \
      BUCKET 'without gs://' TPU 'such as tpu-v5p-slice' \
      TOPOLOGY 'such as 4x4x4' HOSTS 'of a slice' CHIPS 'of a host'
    given_config
    if [[ -z $dry ]]; then jobset | kubectl apply -f -; else
      printf "kubectl apply -f - <<'EOF'\n%s\nEOF\n" "$(jobset)"; fi ;;
  status) run kubectl get jobsets,pods -l "$label" ;;
  logs) run kubectl logs -f --tail=50 -c main -l "$label,$first" ;;
  stop) run kubectl patch jobset "$NAME" --type=merge \
    -p '{"spec":{"suspend":true}}' ;;
  resume) run kubectl patch jobset "$NAME" --type=merge \
    -p '{"spec":{"suspend":false}}' ;;
  delete) run kubectl delete jobset "$NAME" ;;
  *) die "say image, run, status, logs, stop, resume or delete, not '$verb'" ;;
esac
