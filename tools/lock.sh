#!/usr/bin/env bash
# Renews requirements.lock from pyproject.toml: for Python 3.10 to 3.12, with hashes, without any index address,
# so that it installs from PyPI or from a mirror of it alike. Needs uv.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
uv pip compile -q --universal --python-version 3.10 --generate-hashes --no-emit-index-url --no-annotate --no-header \
  --extra mini --extra test pyproject.toml -o requirements.lock "$@"
