#!/usr/bin/env bash
# Whole runs of the tests with training runs ten times shorter, ten times longer, and with four busy
# processes beside them on two cores: no test may depend on how fast the machine is.
#
#     stress_tests.sh [RUNS] [PYTEST ARGUMENT...]
#
# RUNS of each kind, 3 by default. Prints a line a run and ends with 1 if any has failed; the output
# of each is in build/stress/.
set -uo pipefail
cd "$(dirname "$0")/.."
runs=${1:-3}
shift || true
out=build/stress
mkdir -p "$out"
cores=$(taskset --cpu-list --pid $$ | sed 's/.*: //' | tr ',' '\n' | while IFS=- read -r first last; do
    seq "$first" "${last:-$first}"
done | head -n 2 | paste -sd,)
failed=0

busy=()
trap 'kill "${busy[@]}" 2>/dev/null' EXIT

tests() { # NAME LENGTH PYTEST-ARGUMENT...
    local name=$1 length=$2 began=$SECONDS
    shift 2
    if TEST_RUN_LENGTH=$length taskset --cpu-list "$cores" .venv/bin/python -m pytest \
        -m "not slow" -q "$@" >"$out/$name.txt" 2>&1; then
        result=green
    else
        result=FAILED failed=1
    fi
    echo "$name: $result, $((SECONDS - began)) s, $(tail -n 1 "$out/$name.txt")"
}

for run in $(seq "$runs"); do
    tests "shorter-$run" 0.1 "$@"
    tests "longer-$run" 10 "$@"
    for _ in 1 2 3 4; do
        taskset --cpu-list "$cores" sh -c 'while :; do :; done' &
        busy+=($!)
    done
    tests "busy-$run" 1 "$@"
    kill "${busy[@]}" 2>/dev/null
    wait "${busy[@]}" 2>/dev/null
    busy=()
done
exit $failed
