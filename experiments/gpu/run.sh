#!/usr/bin/env bash
# Everything to be seen on a GPU that is there for minutes: experiments/gpu/run.sh FOLDER [SECONDS [PART...]]
#
# From the repository's root, with jax, flax, optax, torch and timm, and for the real run what `pip install -e .` installs.
# The most valuable part comes first. Each writes its records into FOLDER as it goes, and ends when the SECONDS (480) do.
# PARTs, by the names that it prints, are all that is run, if any are given.
# Where there is no GPU, all of it runs in a small form on the CPU: a rehearsal, whose figures mean nothing.
set -uo pipefail
out=$(mkdir -p "$1" && cd "$1" && pwd)
seconds=${2:-480}
end=$((SECONDS + seconds))
parts=" ${*:3} "
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
export XLA_PYTHON_CLIENT_PREALLOCATE=false TF_CPP_MIN_LOG_LEVEL=2  # several programs share the GPU
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$out/cache/xla} TORCHINDUCTOR_CACHE_DIR=$out/cache/inductor

platform=$(python3 -c 'import jax; print(jax.default_backend())')
if [ "$platform" = gpu ]; then
  pixels=299 dtype=bfloat16 rounds=5 batch=128 large=256 operators=(--batch=128) blocks=()
  sides=jax_side,torch_side peer=timm compiled='timm compiled' cases='' epochs=15
else
  pixels=75 dtype=float32 rounds=1 batch=2 large=4 operators=(--batch=1 --only=19x19) blocks=(--batch=1 --runs=1 --interpret)
  sides=jax_side peer='timm eager' compiled='timm eager' cases=depthwise epochs=3  # torch.compile takes minutes on a CPU
fi
size=(--image_size=$pixels --dtype=$dtype --rounds=$rounds)

# part NAME COMMAND...: runs it with the time that is left, and keeps what it prints.
part() {
  local name=$1 began=$SECONDS left=$((end - SECONDS))
  shift
  if [[ $parts =~ [^\ ] && $parts != *" $name "* ]]; then return; fi
  if [ $left -lt 10 ]; then echo "== $name: no time left"; return; fi
  echo "== $name"
  timeout --kill-after=5 $left "$@" 2>&1 | tee "$out/$name.txt" | grep -v -e ^measured -e WARNING
  echo "== $name: exit code ${PIPESTATUS[0]}, $((SECONDS - began)) s"
}

# A real run: trained, killed after its first checkpoint, resumed to the end.
killed_and_resumed() {
  local run=$out/cache/quickstart train=(python3 -m xception_jax.main --config=configs/quickstart.py --config.num_epochs=$epochs)
  rm -rf "$run"
  "${train[@]}" --workdir="$run" > "$out/quickstart-killed.txt" 2>&1 &
  local trainer=$!
  while kill -0 $trainer 2> /dev/null && ! compgen -G "$run/checkpoints/[0-9]*" > /dev/null; do sleep 0.2; done
  kill -KILL $trainer && wait $trainer 2> /dev/null
  "${train[@]}" --workdir="$run" 2>&1 | tail -25
}

against() {  # against NETWORK BATCH PEERS WHAT: a benchmark of whole networks
  python3 -m xception_jax.benchmark --model="$1" --batch="$2" "${size[@]}" --what="$4" --against="$3" --json="$out/$1-$2-${3##* }.json"
}

export -f killed_and_resumed against
# What needs cores more than it needs the GPU, together; then what is timed, alone.
part compile timeout $((seconds / 2)) python3 experiments/gpu/compile_all.py $batch $pixels $dtype $sides &
part kernels timeout $((seconds / 2)) python3 experiments/gpu/kernels.py $cases &
part quickstart bash -c "$(declare -p out epochs) ; killed_and_resumed" &
wait
part xception bash -c "$(declare -p size out); against xception $batch '$peer,reference' train,infer"
part inception_v3 bash -c "$(declare -p size out); against inception_v3 $batch '$peer,reference' train,infer"
part profile python3 experiments/gpu/profile_step.py xception $batch "$out"
part xception_large bash -c "$(declare -p size out); against xception $large '$compiled' train,infer"
part blocks python3 experiments/gpu/blocks.py "${blocks[@]}" --json="$out/blocks.json"
part operators python3 -m xception_jax.benchmark "${size[@]}" "${operators[@]}" --what=operators --json="$out/operators.json"
