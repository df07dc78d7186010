#!/usr/bin/env bash
# Anonymize speech, attack the result, score it, report it: the driver of all recipes.
#
#   ./run.sh                                     egs/mini, all stages
#   egs/vpc2024/run.sh --librispeech DIR         another recipe; its --help lists its own options, too
#   ./run.sh --stage 5 --stop-stage anonymize --systems "b2_mcadams dsp_f0"
#
# Stages: 0 check, 1 data, 2 format, 3 tokenize, 4 train, 5 anonymize, 6 f0, 7 attack, 8 score, 9 report, 10 pack.
# What is up to date is not done again; what was killed goes on where it stopped. Pack is done if asked for.
[ -n "${BASH_VERSION-}" ] || exec bash "$0" "$@" # called as `sh run.sh`
set -euo pipefail

stage=check        # first stage, number or name
stop_stage=report  # last stage, number or name
systems=""         # systems of conf/systems, e.g. "orig b2_mcadams" (the recipe's if empty)
evaluators=""      # evaluators of conf/evaluators, e.g. "asv_resemblyzer pitch" (the recipe's if empty)
sets=""            # names of the sets that format and anonymize work on (all if empty)
nj=""              # parallel jobs (one per core if empty)
cmd=""             # how jobs are run, e.g. "utils/slurm.py --partition main" (see cmd.sh)
device=cpu         # of neural systems and evaluators: cpu, cuda, ...
seed=""            # of all randomness (the recipe's if empty)
force=false        # replace outputs that were made from something else
config=""          # YAML of the recipe (egs/mini if empty)
set=()             # change a setting, e.g. --set b2_mcadams.params.lpc_order=16 (may be repeated)
more_options=()    # options of the recipe are collected here, and checked by bin/plan.py
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
ASKED=("$@")
more_help() { # the options of the recipe, as its YAML maps and explains them
  [[ ! -f ${config} ]] || awk '/^[^ #]/ { inside = /^options:/ } inside && /^ +[a-z]/ {
    name = $1; gsub(/:/, "", name); gsub(/_/, "-", name)
    printf "  --%-18s %s\n", name, /# / ? substr($0, index($0, "# ") + 2) : "sets " $2 }' "${config}"
}
. "${ROOT}/utils/parse_options.sh"

if [[ -z ${config} ]]; then exec "${ROOT}/egs/mini/run.sh" "${ASKED[@]}"; fi
export CALLED_FROM="${CALLED_FROM:-${PWD}}"
[[ -f ${config} || ${config} == /* ]] || config="${CALLED_FROM}/${config}"
[[ -f ${config} ]] || { echo "run.sh: no such --config ${config}; try egs/vpc2024/conf/recipe.yaml" >&2; exit 2; }
if [[ $(basename "$(dirname "${config}")") == conf ]]; then # a recipe runs in its own directory
  cd "$(dirname "${config}")/.."
  config=conf/${config##*/}
fi
names=(check data format tokenize train anonymize f0 attack score report pack)

say() { printf '%s %s\n' "$(date +%H:%M:%S)" "$*"; }
number_of() { # stage number or name -> number
  local i
  for i in "${!names[@]}"; do
    if [[ $1 == "${i}" || $1 == "${names[i]}" ]]; then echo "${i}" && return; fi
  done
  echo "run.sh: unknown stage '$1'; known: 0 to $((${#names[@]} - 1)), ${names[*]}" >&2
  exit 2
}
first=$(number_of "${stage}")
last=$(number_of "${stop_stage}")
[[ $# == 0 ]] || { echo "run.sh: unexpected '$1'; options look like --stage 3" >&2; exit 2; }
((first <= last)) || { echo "run.sh: stage '${stage}' comes after stop-stage '${stop_stage}'" >&2; exit 2; }
nj=${nj:-$(getconf _NPROCESSORS_ONLN)}
[[ ${nj} =~ ^[1-9][0-9]*$ ]] || { echo "run.sh: --nj ${nj}: expected a whole number from 1" >&2; exit 2; }

asked_cmd=${cmd}
. "${ROOT}/path.sh"
. "${ROOT}/cmd.sh"
cmd=${asked_cmd:-${cmd}}
read -ra runner <<<"${cmd}"
[[ ${runner[0]-} == utils/* ]] && runner[0]="${ROOT}/${runner[0]}"

current=plan
ended() { # on failure: what to type to go on
  local code=$?
  if [[ ${code} == 0 || ${current} == plan ]]; then return; fi # a wrong option has said all there is to say
  say "stage '${current}' failed (exit code ${code}); once cured, go on with:"
  printf '  %s/run.sh%s --stage %s\n' "$(realpath --relative-to="${CALLED_FROM}" .)" \
    "$(printf ' %q' "${ASKED[@]}" | sed -E 's/ --stage[ =][^ ]+//g; s|^ --config conf/recipe.yaml||')" "${current}"
}
trap ended EXIT

verb() { "${PYTHON}" -m "espnet_musa.bin.$1" --config exp/recipe.yaml "${@:2}"; }
sharded() { # <directory of the outputs> <verb> <arguments>: plan, nj jobs through ${cmd}, finish
  verb "$2" --step plan --force "${force}" --sets "${sets}" "${@:3}"
  if ! compgen -G "$1/*.partial" >/dev/null; then return; fi
  "${runner[@]}" --num-threads 1 "JOB=1:${nj}" "exp/log/$2${4:+.$4}.JOB.log" \
    "${PYTHON}" -m "espnet_musa.bin.$2" --config exp/recipe.yaml --step shard --shard "JOB/${nj}" --sets "${sets}" "${@:3}"
  verb "$2" --step finish --sets "${sets}" "${@:3}"
}

changes=()
[[ -z ${systems} ]] || changes+=(--set "systems=[${systems// /,}]")
[[ -z ${evaluators} ]] || changes+=(--set "evaluators=[${evaluators// /,}]")
[[ -z ${seed} ]] || changes+=(--set "seed=${seed}")
for change in ${set[@]+"${set[@]}"}; do changes+=(--set "${change}"); done
mkdir -p exp/log
exec 9>exp/.lock # held until this run and all it started have ended; a second run would change exp/recipe.yaml under it
if command -v flock >/dev/null && ! flock -n 9; then
  echo "run.sh: another run is at work in ${PWD##*/}; wait for it, or copy the recipe" >&2
  exit 2
fi
planned=$("${PYTHON}" -m espnet_musa.bin.plan --config "${config}" --out exp/recipe.yaml \
  --cmd="${cmd}" --device="${device}" ${changes[@]+"${changes[@]}"} -- ${more_options[@]+"${more_options[@]}"})
{ read -ra whole; read -ra variants || true; } <<<"${planned}" # variants share what others of their kind have analysed

for ((number = first; number <= last; number++)); do
  current=${names[number]}
  say "stage ${number} ${current}"
  case ${current} in
    check) verb check ;;
    data) verb prepare --nj "${nj}" --force "${force}" ;;
    format) sharded dump format ;;
    tokenize)
      for part in model tokens; do
        sharded "exp/tokens/*" tokenize --part "${part}" --device "${device}"
      done
      ;;
    train) verb train --device "${device}" --force "${force}" ;;
    anonymize)
      for system in ${whole[@]+"${whole[@]}"}; do
        sharded "exp/${system}/data" anonymize --system "${system}" --device "${device}"
      done
      ;;
    f0)
      if [[ -z ${variants[*]-} ]]; then say "no chosen system is a variant of another: nothing to do" && continue; fi
      sharded "exp/*/data" anonymize --stage f0 --device "${device}"
      ;;
    attack) verb attack --device "${device}" --force "${force}" ;;
    score)
      for system in ${whole[@]+"${whole[@]}"} ${variants[@]+"${variants[@]}"}; do
        verb score --system "${system}" --nj "${nj}" --device "${device}" --force "${force}"
      done
      ;;
    report) verb report --force "${force}" ;;
    pack) verb pack --force "${force}" ;;
  esac
done
