#!/usr/bin/env bash
# All tests, after making the environment if need be. Arguments go to pytest: tools/test.sh -k mcadams
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. ./path.sh
exec "${PYTHON}" -m pytest "$@"
