#!/bin/sh
# Run what waits for a GPU; see gpu.py. PYTHON names the interpreter.
cd "$(dirname "$0")/.." && PYTHONPATH="$PWD" exec "${PYTHON:-python}" benchmarks/gpu.py "$@"
