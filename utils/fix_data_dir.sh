#!/usr/bin/env bash
# Repairs a source data directory in place and says what it removed; old files go to <dir>/.backup.
# Usage: utils/fix_data_dir.sh <dir>
set -euo pipefail
root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
export PYTHONPATH=${root}${PYTHONPATH:+:${PYTHONPATH}}
exec "${PYTHON:-python3}" -m espnet_musa.bin.datadir fix "$@"
