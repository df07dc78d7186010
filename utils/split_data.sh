#!/usr/bin/env bash
# Divides a data directory into <dir>/split<n>/<i>, speakers kept whole, or <dir>/split<n>utt/<i>.
# Usage: utils/split_data.sh [--per-utt] <dir> <n>
set -euo pipefail
root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
export PYTHONPATH=${root}${PYTHONPATH:+:${PYTHONPATH}}
exec "${PYTHON:-python3}" -m espnet_musa.bin.datadir split "$@"
