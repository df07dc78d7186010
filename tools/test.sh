#!/usr/bin/env bash
# All tests, after making the environment if need be. Arguments go to pytest: tools/test.sh -k mcadams
# Files of tests are shared among processes, one a core, at most four (3 GB each); -n 0 runs them in one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. ./path.sh
exec "${PYTHON}" -m pytest -n auto --maxprocesses 4 --dist loadfile "$@"
