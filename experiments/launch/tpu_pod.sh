#!/usr/bin/env bash
# tpu_pod.sh TPU ZONE FLAGS...: one run on all hosts of a Cloud TPU slice, for instance
#
#   experiments/launch/tpu_pod.sh my-tpu europe-west4-b --config=configs/xception.py --workdir=/shared/runs/xception
#
# Every host needs the project in ~/xception_jax, installed by `pip install -e '.[train,tfds,tpu]'` (gcloud's own
# `tpu-vm scp --worker=all` and `tpu-vm ssh --worker=all` do that), and a work directory that all of them share, such as
# a mounted Filestore or bucket. When the slice itself was preempted, create it again and repeat the command.
set -euo pipefail
tpu=$1 zone=$2
shift 2
command=$(printf '%q ' experiments/launch/restart.sh python3 -m xception_jax.main --distributed "$@")
exec gcloud compute tpus tpu-vm ssh "$tpu" --zone="$zone" --worker=all --command="cd xception_jax && $command"
