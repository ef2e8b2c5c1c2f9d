#!/usr/bin/env bash
# What only a GPU can show, measured: see benchmarks/gpu/README.md.
#
#   benchmarks/gpu/run.sh [--dry-run] [--quick] [--only PART]... [--runtime PYTHON] [--out DIR]
#
# In the image:
#   docker run --rm --gpus all --entrypoint bash -v "$PWD:/src" -w /src caffe-batch \
#       benchmarks/gpu/run.sh
# On a machine of your own: some Python there imports a Caffe with GPU code (--runtime).
set -euo pipefail
cd "$(dirname "$0")/../.."

for python in .venv/bin/python /opt/caffe-batch/bin/python python3; do
    if "$python" -c 'import caffe_batch' 2>/dev/null; then
        exec env PYTHONPATH="$PWD" "$python" benchmarks/gpu/measure.py "$@"
    fi
done
echo "run.sh: no Python here has caffe_batch: run \`make venv\`, or run this in the image" >&2
exit 2
