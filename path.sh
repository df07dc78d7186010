# shellcheck shell=bash
# The environment of the recipes: made once by tools/setup.sh, used by every stage. Set PYTHON to use another one.
musa_root="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
export PYTHON="${PYTHON:-${musa_root}/.venv/bin/python}"
export PYTHONPATH="${musa_root}${PYTHONPATH:+:${PYTHONPATH}}"
export PYTHONUNBUFFERED=1 LC_ALL=C.UTF-8
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}" # threads that wait sleep: beside other jobs, spinning costs tenfold
if [[ ${PYTHON} == "${musa_root}/.venv/bin/python" ]]; then "${musa_root}/tools/setup.sh"; fi
