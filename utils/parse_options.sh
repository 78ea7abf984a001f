# shellcheck shell=bash disable=SC2034
# Sourced by a recipe after its options. An option is a variable assigned between the lines "## options" and "## end" of
# the recipe or of utils/recipe.sh, one a line, lower case; the comment behind it is its help. Nothing else is an option.
#
#   --name VALUE, --name=VALUE, with - or _ in the name; --flag, --flag=false where the default is true or false.
#
# A relative path (with a /) that is not in the recipe's folder is looked for where the user was when he called it.
#
# Values are never read as shell. (Local names begin with _, which no option does: setting one cannot hit a local.)

parse_options() {
  local _line _name _value
  local -A _defaults=() _comments=()
  while IFS= read -r _line; do
    [[ $_line =~ ^([a-z][a-z0-9_]*)=([^#]*)(#\ *(.*))?$ ]] || continue
    _name=${BASH_REMATCH[1]}
    _defaults[$_name]=${!_name} _comments[$_name]=${BASH_REMATCH[4]}
  done < <(option_lines "${0##*/}" && option_lines "$TSE_ROOT/utils/recipe.sh")

  given_options=("$@")
  while [ $# -gt 0 ]; do
    case $1 in
      -h | --help) option_help && exit ;;
      --*) ;;
      *) die 2 "$1: unexpected; options are --name VALUE, see --help" ;;
    esac
    _name=${1%%=*} _name=${_name#--} _name=${_name//-/_}
    [[ $_name =~ ^[a-z][a-z0-9_]*$ && -n ${_defaults[$_name]+known} ]] ||
      die 2 "${1%%=*}: no such option$(nearest "$_name" "${!_defaults[@]}"); see --help"
    if [[ $1 == *=* ]]; then
      _value=${1#*=}
    elif [[ ${_defaults[$_name]} =~ ^(true|false)$ ]]; then
      _value=true
      if [[ ${2-} =~ ^(true|false)$ ]]; then
        _value=$2
        shift
      fi
    else
      [[ $# -gt 1 && $2 != --* ]] || die 2 "$1: no value follows; one that begins with -- is given as $1=VALUE"
      _value=$2
      shift
    fi
    [[ ! ${_defaults[$_name]} =~ ^(true|false)$ || $_value =~ ^(true|false)$ ]] ||
      die 2 "--$_name=$_value: wanted true or false"
    if [[ $_value == */* && $_value != /* && ! -e $_value && -e ${OLDPWD:-.}/$_value ]]; then
      _value=$(realpath -s --relative-to=. "$OLDPWD/$_value")
    fi
    printf -v "$_name" %s "$_value"
    shift
  done
}

option_lines() { sed -n '/^## options/,/^## end/p' "$1"; }

option_help() { # the comment at the recipe's top, then every option with the caller's _comments and _defaults
  local _file _title
  sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "${0##*/}"
  for _file in "${0##*/}" "$TSE_ROOT/utils/recipe.sh"; do
    _title="of this recipe"
    [ "$_file" = "${0##*/}" ] || _title="of every recipe"
    printf '\nOptions %s:\n' "$_title"
    while IFS='=' read -r _name _; do
      [ -z "${_defaults[$_name]+known}" ] ||
        printf '  --%-12s %s%s\n' "$_name" "${_comments[$_name]}" "${_defaults[$_name]:+ (${_defaults[$_name]})}"
    done < <(option_lines "$_file" | grep '^[a-z]')
  done
}

parse_options "$@"
