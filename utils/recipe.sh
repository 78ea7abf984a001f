# shellcheck shell=bash disable=SC2034
# The stage engine, sourced by a recipe's run.sh:
#
#   set -euo pipefail
#   cd "$(dirname "$0")"
#   . ../../../utils/recipe.sh
#   ## options
#   conf=conf/tse.yaml     # the experiment
#   ## end
#   . ../../../utils/parse_options.sh
#   exp=exp/$(basename "$conf" .yaml)
#   stage 3 train --in "$conf" data/train/wav.scp --out "$exp/best.pt" --gpu "$ngpu" --log "$exp/log" -- tse train "$conf"
#   stage 6 score --in "$exp/best.pt" --out "$exp/test/scores.jsonl" --nj "$nj" -- tse score "$exp/test" --job JOB/NJ
#   end_stages
#
# stage NUMBER NAME [OPTION ..] -- COMMAND ARG ..   declares a stage; end_stages runs what was declared and is due.
#   --in FILE ..    files (not empty) and folders that the command reads; of a folder, names, sizes and times count
#   --out FILE ..   files (not empty) and folders that it makes, under a name .partial* until they are whole; what a
#                   kill has left under such a name, there or beside the logs, is removed before the command runs
#   --nj N          an array: N copies, with JOB (1..N) and NJ (N) as words in the arguments; see utils/run.py
#   --gpu N|auto --num-threads N --mem 4G --time 4:00:00   what each copy needs; NGPU becomes the number of GPUs
#   --cmd CMD       the launcher (default: cuda_cmd with --gpu, decode_cmd with --nj, else train_cmd; see cmd.sh)
#   --log DIR       where logs go (default exp/log): DIR/NAME.log, DIR/NAME.JOB.log
#
# Numbers may repeat and leave gaps but do not fall; names are unique. A stage is due unless its outputs are there and
# exp/.stamps holds the hash of its command, outputs and inputs, so whatever else changes the result belongs in the
# command. How it is run (--nj, --gpu, --cmd, ..) is not hashed. A killed recipe goes on when it is started again.
#
# Exit codes: 2 usage, 3 missing input or output, 4 bad data, 130/143 interrupted, 1 else.

# shellcheck source=../path.sh
. "$(dirname "${BASH_SOURCE[0]}")/../path.sh"
# shellcheck source=../cmd.sh
. "$TSE_ROOT/cmd.sh"

## options
stage=0            # first stage to run: a number or a name
stop_stage=        # last stage to run: a number or a name
nj=$(nproc)        # parallel jobs of a stage that is an array
ngpu=auto          # GPUs of a stage that uses them: a number, or auto (one if there is one)
cmd=               # how to start commands, instead of cmd.sh's choice: "utils/run.py --nj-max 4"
list_stages=false  # show the stages and end
dry_run=false      # show what would run and end, without writing anything
force=false        # run stages even if they are up to date
overrides=         # values that replace those of conf in training: "train.max_steps=2000 seed=1"
tag=               # a suffix of the experiment's name, to keep it apart from conf's own: exp/<conf>_<tag>
lock=true          # false: allow two runs here at once, for two experiments on data that is ready
## end

stamps=exp/.stamps
stage_numbers=() stage_names=() stage_starts=() stage_lengths=() stage_words=() # a stage's words lie in a row
stages_ended=false stages_due=0 given_options=()
declare -A due_outputs=()

stage() {
  local last=${stage_numbers[*]: -1}
  [[ ${1-} =~ ^[0-9]+$ && ${2-} =~ ^[A-Za-z_][A-Za-z_0-9]*$ ]] ||
    die 2 "stage $*: wanted: stage NUMBER NAME [OPTION ..] -- COMMAND"
  [ "$1" -ge "${last:-0}" ] || die 2 "stage $1 $2: comes after a stage $last; numbers must not fall"
  [[ " ${stage_names[*]-} " != *" $2 "* ]] || die 2 "stage $1 $2: there is another stage of this name"
  stage_numbers+=("$1") stage_names+=("$2") stage_starts+=("${#stage_words[@]}") stage_lengths+=("$(($# - 2))")
  stage_words+=("${@:3}")
}

end_stages() {
  local i first last began=$SECONDS
  stages_ended=true
  first=$(find_stage "$stage" --stage) || exit 2
  last=$(find_stage "${stop_stage:-${stage_names[-1]}}" --stop_stage) || exit 2
  [ "$first" -le "$last" ] || die 2 "there is no stage from --stage $stage to --stop_stage $stop_stage"
  if $list_stages; then
    for i in "${!stage_names[@]}"; do printf '%2s  %s\n' "${stage_numbers[i]}" "${stage_names[i]}"; done
    return
  fi
  $dry_run || ! $lock || lock_recipe
  for ((i = first; i <= last; i++)); do
    run_stage "${stage_numbers[i]}" "${stage_names[i]}" "${stage_words[@]:stage_starts[i]:stage_lengths[i]}"
  done
  if $dry_run; then
    say "dry run: $stages_due of $((last - first + 1)) stages would run"
  elif [ "$stages_due" = 0 ]; then
    say "nothing to do: all $((last - first + 1)) stages are up to date"
  else
    say "all done in $((SECONDS - began)) s"
  fi
}

find_stage() { # find_stage NUMBER_OR_NAME OPTION: prints the index of the first, or for --stop_stage the last, to run
  local i found=
  for i in "${!stage_names[@]}"; do
    if [[ ! $1 =~ ^[0-9]+$ ]]; then
      [ "${stage_names[i]}" != "$1" ] || found=$i
    elif [ "$2" = --stop_stage ]; then
      [ "${stage_numbers[i]}" -gt "$1" ] || found=$i
    else
      [ -n "$found" ] || [ "${stage_numbers[i]}" -lt "$1" ] || found=$i
    fi
  done
  [ -n "$found" ] || die 2 "$2 $1: no such stage$(nearest "$1" "${stage_names[@]}"); see --list_stages"
  echo "$found"
}

run_stage() { # run_stage NUMBER NAME WORD ..
  local number=$1 name=$2 in=() out=() needs=() command=() jobs='' gpus=0 launcher='' log=exp/log
  local missing key stamp
  read_stage "${@:3}"
  # The same stage of another experiment makes other files, and has its own stamp.
  stamp=$stamps/$name-$(printf '%s\0' "${out[@]}" | sha256sum | cut -c1-8)
  if $dry_run && makes_due "${in[@]}"; then
    due "would run: ${command[*]}"
    return
  fi
  if ! have "${in[@]}"; then
    $dry_run || die 3 "[$number] $name: missing input: $missing"
    due "would stop: missing input: $missing"
    return
  fi
  key=$({ printf '%s\0' "${command[@]}" '' "${out[@]}" && fingerprint "${in[@]}"; } | sha256sum | cut -c1-16) ||
    die 3 "[$number] $name: cannot read the inputs: ${in[*]}"
  if ! $force && [[ $(cat "$stamp" 2>/dev/null) == "$key "* ]] && have "${out[@]}"; then
    say "[$number] $name: up to date"
  elif $dry_run; then
    due "would run: ${command[*]}"
  else
    run_command
  fi
}

read_stage() { # the words of a stage become variables of run_stage
  local option=''
  while [ $# -gt 0 ] && [ "$1" != -- ]; do
    if [[ $1 == --* ]]; then
      option=$1
    else
      case $option in
        --in) in+=("$1") ;;
        --out) out+=("$1") ;;
        --nj) jobs=$1 ;;
        --gpu) gpus=$1 ;;
        --num-threads | --mem | --time) needs+=("$option" "$1") ;;
        --cmd) launcher=$1 ;;
        --log) log=$1 ;;
        *) die 2 "stage $name: ${option:-$1}: no such option; they are described in utils/recipe.sh" ;;
      esac
    fi
    shift
  done
  command=("${@:2}")
  [ ${#command[@]} != 0 ] || die 2 "stage $name: no -- COMMAND"
  [[ $jobs =~ ^([1-9][0-9]*)?$ ]] || die 2 "--nj $jobs: wanted a number from 1"
}

run_command() { # the command of a stage that is due, through the launcher; its stamp if it does well
  local token rc=0 began=$SECONDS
  type -P "${command[0]}" >/dev/null ||
    die 3 "[$number] $name: ${command[0]}: command not found; ./run.sh at the top makes the environment"

  # Tasks that ended well before a kill are not repeated as long as the token is the same: one token an attempt.
  rm -f "$stamp"
  token=$(cat "$stamp.running" 2>/dev/null) || true
  if $force || [[ $token != "$key "* ]]; then
    token="$key $(date +%s.%N)"
    mkdir -p "$stamps"
    echo "$token" >"$stamp.new"
    mv "$stamp.new" "$stamp.running"
  fi
  if $lock; then remove_partial; fi # without it, another run may be writing

  if [ -z "$launcher" ]; then
    launcher=$train_cmd
    [ -z "$jobs" ] || launcher=$decode_cmd
    [ "$gpus" = 0 ] || launcher=$cuda_cmd
  fi
  read -ra launcher <<<"${cmd:-$launcher}"
  [[ ${launcher[0]} == /* || ! -x $TSE_ROOT/${launcher[0]} ]] || launcher[0]=$TSE_ROOT/${launcher[0]}
  launcher+=(--key "$token" --parent $$ --gpu "$gpus" "${needs[@]}")
  if [ -n "$jobs" ]; then launcher+=("JOB=1:$jobs" "$log/$name.JOB.log"); else launcher+=(--tee "$log/$name.log"); fi
  due "running, log in ${launcher[-1]}"
  trap 'interrupt 143' TERM
  trap 'interrupt 130' INT
  trap 'interrupt 129' HUP
  "${launcher[@]}" "${command[@]}" &
  wait $! || rc=$?
  trap - TERM INT HUP

  if [ $rc != 0 ]; then
    case $rc in 2 | 3 | 4) ;; *) rc=1 ;; esac
    say "[$number] $name: failed after $((SECONDS - began)) s"
    die $rc "to resume: $(printf '%q ' "$0" "${given_options[@]}")--stage $name"
  fi
  if ! have "${out[@]}"; then
    rm -f "$stamp.running"
    die 3 "[$number] $name: the command ended well but did not make: $missing"
  fi
  mv "$stamp.running" "$stamp"
  say "[$number] $name: done in $((SECONDS - began)) s"
}

remove_partial() { # what a killed process was writing
  local f
  for f in "${out[@]}"; do
    if [ -d "$f" ]; then
      find "$f/" -type f -name '.partial*' -delete
    elif [ -d "$(dirname "$f")" ]; then
      find "$(dirname "$f")/" -maxdepth 1 -type f -name '.partial*' -delete
    fi
  done
  [ ! -d "$log" ] || find "$log/" -maxdepth 1 -type f -name '.partial*' -delete
}

due() {
  local f
  for f in "${out[@]}"; do due_outputs[$f]=1; done
  stages_due=$((stages_due + 1))
  say "[$number] $name: $1"
}

makes_due() { # whether one of these inputs is, is in, or holds an output of a stage that would run
  local f made
  for f; do
    for made in "${!due_outputs[@]}"; do
      [[ $f/ != "$made"/* && $made/ != "$f"/* ]] || return 0
    done
  done
  return 1
}

have() { # whether all these files (not empty) and folders are there; missing is the first that is not
  for missing; do [ -s "$missing" ] || [ -d "$missing" ] || return 1; done
}

fingerprint() { # what these files hold: folders and files over 64 MiB by size and time, others by content
  local f size
  for f; do
    size=$(stat -Lc %s -- "$f") || return
    if [ -d "$f" ]; then
      find -L "$f" -type f -printf '%P %s %T@\n' | sort || return
    elif [ "$size" -gt $((64 << 20)) ]; then
      stat -Lc '%s %y' -- "$f" || return
    else
      sha256sum <"$f" || return
    fi
  done
}

lock_recipe() { # the launcher inherits the lock and so holds it until the last task of a killed run has ended
  local file=$stamps/lock holder
  mkdir -p "$stamps"
  exec {lock_fd}<>"$file"
  if ! flock -w 1 "$lock_fd"; then # who has just got it writes its number first
    holder=$(cat "$file")
    if kill -0 "$holder" 2>/dev/null; then
      die 1 "this recipe is being run by process $holder; wait for it, or see --lock in --help"
    fi
    say "waiting for the end of what the killed process $holder has left"
    flock -w 60 "$lock_fd" || die 1 "a task of the killed process $holder still runs; end it: it holds $PWD/$file"
  fi
  echo $$ >"$file"
}

interrupt() {
  trap '' TERM INT HUP
  say "interrupted: ending what runs; the same command goes on from here"
  kill -TERM $! 2>/dev/null
  wait $! || true
  exit "$1"
}

nearest() { # nearest WORD CANDIDATE ..: "; did you mean CANDIDATE?", or nothing
  "$TSE_PYTHON" -c 'import difflib, sys
for name in difflib.get_close_matches(sys.argv[1], sys.argv[2:], 1): print(f"; did you mean {name}?", end="")' "$@"
}

say() { printf '%(%H:%M:%S)T %s\n' -1 "$*" >&2; }

die() { # die CODE MESSAGE
  stages_ended=true
  say "$2"
  exit "$1"
}

forgot_end() {
  local rc=$?
  if [ $rc != 0 ] || $stages_ended || [ ${#stage_names[@]} = 0 ]; then exit $rc; fi
  die 2 "$0: end_stages is missing: nothing was run"
}
trap forgot_end EXIT
