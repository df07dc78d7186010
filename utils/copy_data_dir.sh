#!/usr/bin/env bash
# Copies a data directory, if asked under other ids.
# Usage: utils/copy_data_dir.sh [--spk-prefix P] [--utt-prefix P] [--spk-suffix S] [--utt-suffix S] <src> <dest>
set -euo pipefail
root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
export PYTHONPATH=${root}${PYTHONPATH:+:${PYTHONPATH}}
exec "${PYTHON:-python3}" -m espnet_musa.bin.datadir copy "$@"
