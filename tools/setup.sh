#!/usr/bin/env bash
# Makes the Python environment .venv once, from requirements.lock (exact versions and hashes), without root.
# Does nothing if it stands already. Needs Python 3.10 to 3.12 and a C compiler; uv is fetched if it is not there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() {
  printf 'setup: %s\n' "$1" >&2
  exit 2
}

python=""
for candidate in "${SETUP_PYTHON:-}" python3.11 python3.12 python3.10 python3; do
  if [[ -n ${candidate} ]] && command -v "${candidate}" >/dev/null &&
    "${candidate}" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
    python=$(command -v "${candidate}")
    break
  fi
done

# The stamp is written last: an interrupted set-up is taken up again. The directory is part of it, since an
# environment that was moved is broken.
wanted="$(cksum <requirements.lock) ${PWD}"
if [[ -f .venv/.ready && $(<.venv/.ready) == "${wanted}" ]]; then exit 0; fi

[[ -n ${python} ]] || fail "no Python 3.10 to 3.12 found; install one, or name it: SETUP_PYTHON=/path/to/python3.11"
command -v cc >/dev/null || command -v gcc >/dev/null ||
  fail "no C compiler found (webrtcvad is compiled); install gcc, e.g. 'apt-get install gcc python3-dev'"

uv=$(command -v uv || true)
if [[ -z ${uv} ]]; then
  uv=.uv/bin/uv
  if ! "${uv}" --version >/dev/null 2>&1; then
    echo "setup: fetching uv"
    rm -rf .uv
    "${python}" -m pip install -q --disable-pip-version-check --target .uv 'uv>=0.9' 2>/dev/null ||
      { "${python}" -m venv .uv && .uv/bin/python -m pip install -q --disable-pip-version-check 'uv>=0.9'; } ||
      fail "uv could not be fetched; install it (pip install uv) or the package python3-venv"
  fi
fi

echo "setup: making .venv with $("${python}" --version) (once; the libraries take about 6 GB)"
[[ -x .venv/bin/python ]] || { rm -rf .venv && "${uv}" venv -q -p "${python}" .venv; }
"${uv}" pip sync -q -p .venv/bin/python --require-hashes requirements.lock
printf '%s\n' "${wanted}" >.venv/.ready
echo "setup: done"
