#!/usr/bin/env bash
# Checks a data directory: exit code 0 if it is valid, 2 if not, with every problem on a line.
# Usage: utils/validate_data_dir.sh [--contract C] [--no-text] [--no-wav] [--non-print] <dir>
set -euo pipefail
root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
export PYTHONPATH=${root}${PYTHONPATH:+:${PYTHONPATH}}
exec "${PYTHON:-python3}" -m espnet_musa.bin.datadir validate "$@"
