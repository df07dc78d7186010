#!/usr/bin/env bash
# Runs this recipe with the driver of all recipes; options: README.md, ../../run.sh --help.
set -euo pipefail
export CALLED_FROM="${CALLED_FROM:-${PWD}}"
cd "$(dirname "${BASH_SOURCE[0]}")"
exec ../../run.sh --config conf/recipe.yaml "$@"
