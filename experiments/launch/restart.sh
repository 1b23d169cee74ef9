#!/usr/bin/env bash
# restart.sh COMMAND...: runs a command again and again until it ends well (0), or in a way that would only come again:
# a failed run (1), a user's mistake (2), Ctrl-C (130). Any other code is a preemption (75), a kill, or the death of
# another of the run's processes; the run goes on from its last checkpoint.
set -uo pipefail
for _ in $(seq "${MOST_RESTARTS:-100}"); do
  "$@"
  code=$?
  case $code in 0 | 1 | 2 | 130) exit $code ;; esac
  echo "restart.sh: the command ended with $code and is started again" >&2
  sleep "${RESTART_SECONDS:-10}"
done
exit $code
