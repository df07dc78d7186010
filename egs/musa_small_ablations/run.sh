#!/usr/bin/env bash
# Runs this recipe with the driver of all recipes; --help lists the options.
set -eu
export CALLED_FROM="${CALLED_FROM:-${PWD}}"
cd "$(dirname "$0")"
exec ../../run.sh --config conf/recipe.yaml "$@"
