#!/usr/bin/env bash
# Run a recipe, after making the environment if there is none yet.
#
#   ./run.sh                                  the mini recipe: a small corpus, from nothing to results
#   ./run.sh egs/drums/sep1 [OPTION ..]       any recipe; its options: ./run.sh egs/drums/sep1 --help
#   ./run.sh --list                           the recipes
#
# tools/install.sh says which environment is used or made, and how to choose another.
set -euo pipefail
top=$(cd "$(dirname "$0")" && pwd)

list() {
  local file
  for file in "$top"/egs/*/*/run.sh; do
    [[ $file != */egs/TEMPLATE/* && -f $file ]] || continue
    printf '%-28s %s\n' "$(dirname "${file#"$top/"}")" "$(sed -n '2s/^# *//p' "$file")"
  done
}

recipe=egs/mini/tse1
case ${1-} in
  -h | --help)
    sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$0"
    printf '\nRecipes:\n'
    list
    exit
    ;;
  --list)
    list
    exit
    ;;
  '' | -*) ;;
  *)
    recipe=$1
    shift
    ;;
esac

recipe=${recipe%/}
recipe=${recipe%/run.sh}
if [ -f "$recipe/run.sh" ] && [ ! "$recipe" -ef "$top" ]; then # as seen from here, else from the top
  path=$recipe
elif [ -f "$top/$recipe/run.sh" ]; then
  path=$top/$recipe
else
  printf '%s: no such recipe; there are:\n%s\n' "$recipe" "$(list)" >&2
  exit 2
fi

case " $* " in
  *" -h "* | *" --help "* | *" --list_stages "* | *" --list-stages "* | *" --dry_run "* | *" --dry-run "*) ;; # need nothing
  *) "$top/tools/install.sh" ;;
esac
exec "$path/run.sh" "$@"
