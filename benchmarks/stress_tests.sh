#!/usr/bin/env bash
# Whole runs of the tests with training runs ten times shorter, ten times longer, and with four busy
# processes beside them on two cores: no test may depend on how fast the machine is.
#
#     stress_tests.sh [RUNS [KIND...]]
#
# RUNS of each KIND (shorter, longer, busy), by default 3 of all. Prints one line for each run and ends with 1
# if any has failed; the output of each is in build/stress/.
set -uo pipefail
cd "$(dirname "$0")/.."
runs=${1:-3}
shift || true
[ $# -gt 0 ] || set -- shorter longer busy
out=build/stress
mkdir -p "$out"
cores=$(taskset --cpu-list --pid $$ | sed 's/.*: //' | tr ',' '\n' | while IFS=- read -r first last; do
    seq "$first" "${last:-$first}"
done | head -n 2 | paste -sd,)
failed=0

busy=()
trap 'kill "${busy[@]}" 2>/dev/null' EXIT

tests() { # NAME LENGTH
    local name=$1 length=$2 began=$SECONDS
    if TEST_RUN_LENGTH=$length taskset --cpu-list "$cores" tools/run-tests .venv/bin/python \
        -m "not slow" -q >"$out/$name.txt" 2>&1; then
        result=green
    else
        result=FAILED failed=1
    fi
    echo "$name: $result, $((SECONDS - began)) s, $(tail -n 1 "$out/$name.txt")"
}

for run in $(seq "$runs"); do
    for kind; do
        case $kind in
            shorter) tests "shorter-$run" 0.1 ;;
            longer) tests "longer-$run" 10 ;;
            busy)
                for _ in 1 2 3 4; do
                    taskset --cpu-list "$cores" sh -c 'while :; do :; done' &
                    busy+=($!)
                done
                tests "busy-$run" 1
                kill "${busy[@]}" 2>/dev/null
                wait "${busy[@]}" 2>/dev/null
                busy=()
                ;;
            *) echo "no kind of run: $kind" >&2; exit 2 ;;
        esac
    done
done
exit $failed
