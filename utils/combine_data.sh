#!/usr/bin/env bash
# Makes the union of data directories; two values for one key are an error.
# Usage: utils/combine_data.sh <dest> <src1> <src2> ...
set -euo pipefail
root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
export PYTHONPATH=${root}${PYTHONPATH:+:${PYTHONPATH}}
exec "${PYTHON:-python3}" -m espnet_musa.bin.datadir combine "$@"
