# shellcheck shell=bash
# Command-line options for the script that sources this file:
#
#     #!/usr/bin/env bash
#     # What the script does; --help prints this comment.
#     set -euo pipefail
#     stage=0          # first stage to run
#     nj=4             # number of parallel jobs
#     force=false      # redo what is up to date
#     . utils/parse_options.sh
#
# An option is a line `name=default  # meaning` above the line that sources this file; a name begins with a
# lower-case letter. `--stop-stage 3`, `--stop_stage 3` and `--stop-stage=3` all set stop_stage=3, and the last
# one wins. An option whose default is true or false takes only these two. An unknown name or a missing value
# ends the script with exit code 2; a value that itself begins with `--` needs the `=`. Options end at the first
# other word or at `--`; what is left stays in "$@". Source it before any `cd`, with the options still in "$@".
#
# An option whose default is an empty array, `change=()`, may be repeated and collects its values. If the script
# declares the array `more_options=()`, options that it does not know are collected there as `--name value` for
# somebody else to check; a function `more_help` that it defines above the line then ends what --help prints.
#
# Differs from Kaldi: `--name=value` works, a missing value is an error, and only variables written in the
# script are options, not whatever the environment holds.

# Prints the lines of the calling script that can declare or describe options.
_po_declarations() {
  local line
  while IFS= read -r line; do
    [[ ${line} =~ ^[[:space:]]*(\.|source)[[:space:]].*parse_options\.sh ]] && return
    printf '%s\n' "${line}"
  done <"${_po_script}"
}

# Sets _po_names to the options in the order of their declaration.
_po_read_names() {
  local line
  _po_names=()
  while IFS= read -r line; do
    if [[ ${line} =~ ^([a-z][a-zA-Z0-9_]*)= && ${BASH_REMATCH[1]} != more_options ]]; then
      _po_names+=("${BASH_REMATCH[1]}")
    fi
  done < <(_po_declarations)
}

# Prints the opening comment of the calling script, then its options with meanings and defaults. Lines of comment
# between the options stay where they are: as headings, or when indented as more on the option above. (Here and in
# _po_set local names begin with _po_, or they would hide an option of the same name.)
_po_help() {
  local _po_line _po_name _po_meaning _po_in_header=true
  while IFS= read -r _po_line; do
    if [[ ${_po_line} == '#!'* || ${_po_line} == '# shellcheck '* ]]; then continue; fi
    if [[ ${_po_in_header} == true && ${_po_line} != '#'* ]]; then
      _po_in_header=false
      printf '\nOptions:\n'
    fi
    if [[ ${_po_in_header} == true || ${_po_line} =~ ^#[[:space:]] ]]; then
      _po_line=${_po_line#'#'}
      printf '%s\n' "${_po_line# }"
    elif [[ ${_po_line} =~ ^([a-z][a-zA-Z0-9_]*)= && ${BASH_REMATCH[1]} != more_options ]]; then
      _po_name=${BASH_REMATCH[1]} _po_meaning=''
      if [[ ${_po_line} == *[[:space:]]'# '* ]]; then _po_meaning=${_po_line#*[[:space:]]'# '}; fi
      printf '  --%-18s %s [%s]\n' "${_po_name//_/-}" "${_po_meaning}" "${!_po_name-}"
    elif [[ ${_po_line} =~ ^[[:space:]]+'# '(.*) ]]; then
      printf '  %20s %s\n' '' "${BASH_REMATCH[1]}"
    fi
  done < <(_po_declarations)
}

# Prints the edit distance of two words: single letters inserted, deleted or replaced (Wagner and Fischer, 1974).
_po_distance() {
  local i j cost left row=()
  for ((j = 0; j <= ${#2}; j++)); do row[j]=${j}; done
  for ((i = 1; i <= ${#1}; i++)); do
    left=$((i - 1)) row[0]=${i} # `left` holds the value up and to the left
    for ((j = 1; j <= ${#2}; j++)); do
      cost=${left}
      if [[ ${1:i-1:1} != "${2:j-1:1}" ]]; then cost=$((left + 1)); fi
      left=${row[j]}
      if ((row[j] + 1 < cost)); then cost=$((row[j] + 1)); fi
      if ((row[j - 1] + 1 < cost)); then cost=$((row[j - 1] + 1)); fi
      row[j]=${cost}
    done
  done
  printf '%s\n' "${row[-1]}"
}

# Prints "; did you mean --x?" for the option nearest to a name, if one is near.
_po_suggest() {
  local name distance best='' least=$((${#1} / 3 + 1))
  for name in ${_po_names[@]+"${_po_names[@]}"}; do
    distance=$(_po_distance "$1" "${name}")
    if ((distance < least)); then best=${name} least=${distance}; fi
  done
  if [[ -n ${best} ]]; then printf '; did you mean --%s?' "${best//_/-}"; else printf '; --help lists them'; fi
}

_po_fail() {
  printf '%s: %s\n' "${_po_script##*/}" "$1" >&2
  exit 2
}

_po_is_known() {
  [[ $1 != *' '* && " ${_po_names[*]-} " == *" $1 "* ]]
}

_po_is_array() {
  [[ $(declare -p "$1" 2>/dev/null) == 'declare -a'* ]]
}

# Checks a name and a value and sets the variable.
_po_set() {
  if _po_is_known "$1"; then
    local -n _po_variable=$1
    if _po_is_array "$1"; then
      _po_variable+=("$2")
    elif [[ ${_po_variable-} =~ ^(true|false)$ && ! $2 =~ ^(true|false)$ ]]; then
      _po_fail "option --${1//_/-}: '$2'; expected true or false"
    else
      printf -v "$1" '%s' "$2"
    fi
  elif _po_is_array more_options; then
    more_options+=("--${1//_/-}" "$2")
  else
    _po_fail "unknown option --${1//_/-}$(_po_suggest "$1")"
  fi
}

_po_script=${BASH_SOURCE[1]:?parse_options.sh is to be sourced by a script}
_po_read_names

while (($# > 0)); do
  case $1 in
    --help | -h)
      _po_help
      if declare -F more_help >/dev/null; then more_help; fi
      exit 0
      ;;
    --)
      shift
      break
      ;;
    --*=*)
      _po_name=${1%%=*}
      _po_name=${_po_name#--}
      _po_set "${_po_name//-/_}" "${1#*=}"
      shift
      ;;
    --*)
      _po_name=${1#--}
      if (($# < 2)) || [[ $2 == --* ]]; then
        # an unknown name is the likelier mistake: say that first
        _po_is_known "${_po_name//-/_}" || _po_set "${_po_name//-/_}" ''
        _po_fail "option $1 lacks its value"
      fi
      _po_set "${_po_name//-/_}" "$2"
      shift 2
      ;;
    *) break ;;
  esac
done

unset -f _po_declarations _po_read_names _po_help _po_distance _po_suggest _po_fail _po_is_known _po_is_array \
  _po_set
unset -v _po_script _po_names _po_name
