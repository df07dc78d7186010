#!/usr/bin/env bash
# Makes a data directory of a part of another one.
# Usage: utils/subset_data_dir.sh [--per-spk|--speakers|--first|--last|--shortest] <src> <n> <dest>
#        utils/subset_data_dir.sh --spk-list|--utt-list <file> <src> <dest>
set -euo pipefail
root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
export PYTHONPATH=${root}${PYTHONPATH:+:${PYTHONPATH}}
exec "${PYTHON:-python3}" -m espnet_musa.bin.datadir subset "$@"
