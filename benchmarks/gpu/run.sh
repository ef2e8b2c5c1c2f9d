#!/usr/bin/env bash
# What only a machine with an NVIDIA GPU can show; see benchmarks/gpu/README.md.
#
#     benchmarks/gpu/run.sh [--dry-run] [--only PART] [--quick] [--runtime PYTHON] [--out DIR] ...
#
# In the GPU image, or on a host with this checkout's environment (`make venv`) and a Python that
# imports a GPU build of Caffe.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
tried=("$root/.venv/bin/python" /opt/caffe-batch/bin/python "$(command -v python3 || true)")
check='import sys; sys.path.insert(0, sys.argv[1]); import caffe_batch.memory, h5py, lmdb, numpy, PIL'

for python in "${tried[@]}"; do
    if [[ -x $python ]] && "$python" -c "$check" "$root" 2>/dev/null; then
        # Not by `cd`: relative paths in the options are the caller's.
        export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
        exec "$python" -m benchmarks.gpu.main "$@"
    fi
done
echo "run.sh: no Python has what caffe-batch needs; tried: ${tried[*]}" >&2
echo "Run it in the GPU image, or make the checkout's environment with \`make venv\`." >&2
exit 2
