#!/usr/bin/env bash
# hosts.sh "HOST0 HOST1 ..." FLAGS...: one run on several machines that ssh reaches, one process on each, for instance
#
#   experiments/launch/hosts.sh "gpu0 gpu1" --config=configs/xception.py --workdir=/shared/runs/xception
#
# Start it where the project is. Every machine needs the project and its Python environment at the same path, the data,
# and the work directory, which they share. HOST0 must be reachable from the others by that name, at port $PORT.
set -euo pipefail
read -ra hosts <<<"$1"
shift
processes=()
trap 'kill "${processes[@]}" 2>/dev/null || true' EXIT # ends the others too, when one has failed, or on Ctrl-C
for i in "${!hosts[@]}"; do
  variables="JAX_COORDINATOR_ADDRESS=${hosts[0]}:${PORT:-12321} JAX_NUM_PROCESSES=${#hosts[@]} JAX_PROCESS_ID=$i"
  command=$(printf '%q ' experiments/launch/restart.sh "${PYTHON:-python}" -m xception_jax.main "$@")
  ssh -tt "${hosts[i]}" "cd $(printf %q "$PWD") && env $variables $command" </dev/null &
  processes+=($!)
done
for _ in "${processes[@]}"; do wait -n; done
