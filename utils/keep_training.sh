#!/usr/bin/env bash
# Keep a training going: start its command again, which goes on from its last checkpoint, whenever it ends badly.
#
#   utils/keep_training.sh --exp DIR [OPTION ..] -- COMMAND ARG ..
#   utils/keep_training.sh --exp exp/tse -- tse train --conf conf/tse.yaml --exp exp/tse
#
#   --exp DIR           what the command trains; its step is read from DIR/log/train.jsonl
#   --max_crashes N     give up after N ends in a row that got no further than the first of them (3)
#   --first_wait_s N    seconds before the first restart; twice as long after each further crash without progress (10)
#   --max_wait_s N      but no longer than this (600)
#   --log FILE          one JSON object a restart: time, exit_code, step, wait_s (DIR/log/restarts.jsonl)
#   --print_systemd     print a unit for systemd that does this from the current folder, and end
#
# Exit code 0 of the command ends this; 75 ("start me again") restarts it without a wait; any other code restarts it
# after one. SIGTERM, SIGINT, SIGHUP and SIGUSR1 are passed on to the command, and end this when it has ended. The exit
# code is the command's last one; 1 when another training runs in DIR, 2 for wrong usage.
set -euo pipefail

RESTART_ME=75

exp='' max_crashes=3 first_wait_s=10 max_wait_s=600 log='' print_systemd=false
child='' signalled='' signals=0 code=0 # signalled: the last signal that was passed on; signals: how many were

main() {
  local arguments=("$@")
  parse "$@"
  shift $(($# - command_length))
  if $print_systemd; then
    systemd_unit "${arguments[@]:0:${#arguments[@]}-command_length}" "$@"
    return
  fi
  log=${log:-$exp/log/restarts.jsonl}
  mkdir -p "$exp/log" "$(dirname "$log")"
  # The command inherits the lock: what a killed watchdog has left running is still the only training here.
  exec {lock}>>"$exp/log/.lock"
  flock -n "$lock" || die 1 "$exp: another training runs here ($exp/log/.lock is held); end that first"
  keep "$@"
}

parse() { # sets the options, and command_length
  local name value
  while [ $# -gt 0 ] && [ "$1" != -- ]; do
    name=${1%%=*} name=${name//-/_} name=${name#__}
    case $name in
      h | _h | help) sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" && exit ;;
      print_systemd) print_systemd=true && shift && continue ;;
      exp | log | max_crashes | first_wait_s | max_wait_s) ;;
      *) die 2 "$1: no such option, or -- is missing before the command; see --help" ;;
    esac
    if [[ $1 == *=* ]]; then
      value=${1#*=}
    else
      [[ $# -gt 1 && $2 != --* ]] || die 2 "$1: no value follows"
      value=$2
      shift
    fi
    [[ $name == exp || $name == log || $value =~ ^[0-9]{1,9}$ ]] || die 2 "--$name $value: wanted a whole number"
    printf -v "$name" %s "$value"
    shift
  done
  [ -n "$exp" ] || die 2 "--exp DIR is missing: the folder that the command trains in; see --help"
  [ $# -gt 1 ] || die 2 "no command: put it behind --; see --help"
  command_length=$(($# - 1))
}

keep() {
  local step furthest ends=0 wait_s=$((10#$first_wait_s)) pause
  furthest=$(step_reached)
  while true; do
    run "$@"
    step=$(step_reached)
    if [ -n "$signalled" ]; then
      say "$exp: SIG$signalled was passed on; the command ended with code $code at step $step"
      exit "$code"
    fi
    [ "$code" != 0 ] || return 0
    if [ "$step" -gt "$furthest" ]; then
      furthest=$step ends=0 wait_s=$((10#$first_wait_s))
    fi
    ends=$((ends + 1))
    [ "$ends" -lt "$((10#$max_crashes))" ] ||
      die "$code" "$exp: exit code $code at step $step; $ends ends without getting further: giving up"
    pause=0
    if [ "$code" != "$RESTART_ME" ]; then
      pause=$((wait_s < 10#$max_wait_s ? wait_s : 10#$max_wait_s))
      wait_s=$((2 * pause))
    fi
    say "$exp: exit code $code at step $step; starting again in $pause s"
    printf '{"time": "%s", "exit_code": %d, "step": %d, "wait_s": %d}\n' \
      "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$code" "$step" "$pause" >>"$log"
    run sleep "$pause"
    [ -z "$signalled" ] || exit "$code"
  done
}

run() { # the command's exit code becomes `code`, whatever signals come in between; its process group ends with it
  set -m # a process group of its own: Ctrl-C in the terminal comes to us alone, and SIGINT is not ignored in it
  "$@" </dev/null &
  child=$!
  set +m
  [ -z "$signalled" ] || kill -s "$signalled" "$child" 2>/dev/null || true # it came before there was a child
  local before
  while true; do
    before=$signals code=0
    { wait "$child" || code=$?; } 2>/dev/null # bash would tell of every child that a signal has ended
    [ "$before" != "$signals" ] || break        # else a trap ended the wait, not the child
  done
  kill -s KILL -- "-$child" 2>/dev/null || true
  child=''
}

pass_on() {
  signalled=$1 signals=$((signals + 1))
  [ -z "$child" ] || kill -s "$1" "$child" 2>/dev/null || true
}

step_reached() { # of the last whole line of the log; 0 without one
  local step=''
  [ ! -f "$exp/log/train.jsonl" ] ||
    step=$(tail -n 20 "$exp/log/train.jsonl" | sed -n 's/^{ *"step": *\([0-9]\{1,\}\).*}$/\1/p' | tail -n 1)
  echo "${step:-0}"
}

systemd_unit() { # systemd_unit WORD ..: of this script's options, --, and the command
  local words=("$@") at=$(($# - command_length)) i line program
  program=$(type -P "${words[at]}") || die 2 "${words[at]}: no such program"
  words[at]=$(absolute "$program")
  line=$(quoted "$(absolute "${BASH_SOURCE[0]}")")
  for i in "${!words[@]}"; do
    [[ $i -lt $at && ${words[i]} =~ ^--print[-_]systemd$ ]] || line+=" $(quoted "${words[i]//\$/\$\$}")"
  done
  cat <<END
# Save it as ~/.config/systemd/user/NAME.service, then: systemctl --user enable --now NAME
# That it goes on when you log out, and after a reboot: loginctl enable-linger. Its output: journalctl --user -u NAME
[Unit]
Description=Training of ${exp//%/%%}

[Service]
WorkingDirectory=${PWD//%/%%}
Environment=$(quoted "PATH=$PATH")
ExecStart=$line
Restart=no
KillMode=mixed
TimeoutStopSec=300
SuccessExitStatus=$RESTART_ME 130 143

[Install]
WantedBy=default.target
END
}

absolute() { printf '%s/%s' "$(cd "$(dirname "$1")" && pwd)" "$(basename "$1")"; }

quoted() { # a word as systemd reads it
  local word=${1//\\/\\\\}
  word=${word//\"/\\\"} word=${word//$'\n'/\\n} word=${word//$'\t'/\\t}
  printf '"%s"' "${word//%/%%}"
}

say() { printf '%(%H:%M:%S)T %s\n' -1 "$*" >&2; }

die() { # die CODE MESSAGE
  say "$2"
  exit "$1"
}

trap 'pass_on TERM' TERM
trap 'pass_on INT' INT
trap 'pass_on HUP' HUP
trap 'pass_on USR1' USR1
main "$@"
