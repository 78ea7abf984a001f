#!/usr/bin/env bash
# Make the Python environment, once: tools/install.sh [EXTRAS]      (extras of setup.py; default train,eval,mini)
#
# Without an active environment it is tools/venv. What is already there in full is left alone, quickly. Otherwise:
#   TSE_PYTHON       the python of an environment of yours: what is missing is installed there; its torch is kept
#   VIRTUAL_ENV, CONDA_PREFIX   an active environment is used if it has everything; nothing is installed there unasked
#   TSE_TORCH        which torch, as torch==2.13.0
#   TSE_TORCH_INDEX  the address of a package index with the build of torch you want, used for torch alone
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

extras=${1:-train,eval,mini}
venv=$PWD/tools/venv
stamp=$venv/.complete # written last; an environment without it is started afresh

main() {
  local lacks active=${VIRTUAL_ENV:-${CONDA_PREFIX:-}}
  if [ -n "${TSE_PYTHON:-}" ]; then
    TSE_PYTHON=$(type -P "$TSE_PYTHON") || fail 3 "TSE_PYTHON is not a program: change or unset it"
    lacks=$(missing "$TSE_PYTHON")
    [ -z "$lacks" ] || install_into "$TSE_PYTHON"
    return
  fi
  if [ -n "$active" ] && [ "$active" != "$venv" ]; then
    lacks=$(missing "$active/bin/python")
    [ -n "$lacks" ] || return 0
    if [ ! -x "$active/bin/tse" ] && complete; then return; fi # path.sh decides the same
    fail 3 "the active environment $active lacks: $lacks
Install that there with
    TSE_PYTHON=$active/bin/python tools/install.sh $extras
or leave the environment (deactivate, conda deactivate): an own one is then made in tools/venv."
  fi
  if complete; then return; fi
  exec {lock}<tools/install.sh
  flock -n "$lock" || { say "waiting for another tools/install.sh" && flock "$lock"; }
  complete || make_venv
}

make_venv() {
  local python had=
  python=$(find_python)
  missing "$python" >/dev/null # that is, are the extras spelled well
  if [ -f "$stamp" ] && [ "$(sed -n 1p "$stamp")" = "$PWD" ]; then # more extras, or another setup.py: build on it
    had=$(sed -n 3p "$stamp")
    rm "$stamp"
  else
    say "making tools/venv with $("$python" --version)"
    rm -rf "$venv"
    "$python" -m venv "$venv" || fail 3 "$python -m venv failed; on Debian and Ubuntu: apt-get install python3-venv"
  fi
  extras=$(tr ',' '\n' <<<"$extras,$had" | sort -u | sed '/^$/d' | paste -sd,)
  install_into "$venv/bin/python"
  # The lock is ours, so one name for the temporary file is enough.
  printf '%s\n' "$PWD" "$(setup_hash)" "$extras" >"$stamp.new"
  mv "$stamp.new" "$stamp"
}

complete() { # tools/venv is whole, of this setup.py, at this place, and has all extras asked for; starts no Python
  local have extra
  [ -f "$stamp" ] && [ "$(sed -n 1,2p "$stamp")" = "$PWD"$'\n'"$(setup_hash)" ] || return 1
  have=,$(sed -n 3p "$stamp"),
  [[ $have != *,dev,* ]] || return 0 # dev holds all
  for extra in ${extras//,/ }; do [[ $have == *,$extra,* ]] || return 1; done
}

setup_hash() { sha256sum setup.py | cut -d' ' -f1; }

missing() { # what of CORE and the extras this python has not, and tse-lib itself; imports nothing heavy
  "$1" - "$extras" <<'PYTHON'
import re, runpy, sys
from importlib import metadata

setup = runpy.run_path("setup.py")
unknown = [extra for extra in sys.argv[1].split(",") if extra not in setup["EXTRAS"]]
if unknown:
    print(f"tools/install.sh: no extra {unknown[0]!r}; there are {', '.join(setup['EXTRAS'])}", file=sys.stderr)
    sys.exit(2)
wanted = setup["CORE"] + [name for extra in sys.argv[1].split(",") for name in setup["EXTRAS"][extra]]
for name in [re.split(r"[=<>~!]", line)[0] for line in wanted] + ["tse-lib"]:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        print(name, end=" ")
PYTHON
}

install_into() { # install_into PYTHON
  local python=$1 installed constraints
  constraints=$(mktemp)
  # shellcheck disable=SC2064
  trap "rm -f '$constraints'" EXIT
  "$python" -m pip --version >/dev/null ||
    fail 3 "$python has no pip; on Debian and Ubuntu: apt-get install python3-venv"
  installed=$(torch_version "$python")
  if [ -z "$installed" ]; then
    install_torch "$python"
    installed=$(torch_version "$python")
  fi
  echo "torch==$installed" >"$constraints" # nothing that follows may change it
  say "installing the rest: about 300 MB with all extras"
  "$python" -m pip install --quiet --constraint "$constraints" --editable ".[$extras]"
}

torch_version() {
  "$1" -c 'from importlib import metadata
try: print(metadata.version("torch"))
except metadata.PackageNotFoundError: pass'
}

install_torch() {
  local python=$1 index=() torch='torch>=2.11,<3' size='2 to 4 GB, with the CUDA libraries'
  if [ -n "${TSE_TORCH_INDEX:-}" ]; then
    index=(--index-url "$TSE_TORCH_INDEX") size='200 MB for a CPU build, 2 to 4 GB with the CUDA libraries'
  elif [ "$(uname -s)" = Linux ] && ! nvidia-smi >/dev/null 2>&1; then
    torch='torch==2.13.0' size='200 MB if pip finds a CPU build, 2 to 4 GB else'
    say "no NVIDIA driver here: a CPU build of torch is enough. TSE_TORCH_INDEX=<index with CPU builds> makes sure of it."
  fi
  torch=${TSE_TORCH:-$torch}
  say "installing $torch: the download is about $size"
  "$python" -m pip install "${index[@]}" "$torch"
}

find_python() {
  local name
  for name in python3.11 python3.12 python3.10 python3; do
    if "$name" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
      "$name" -c 'import venv, ensurepip' 2>/dev/null ||
        fail 3 "$name cannot make environments; on Debian and Ubuntu: apt-get install $(basename "$name")-venv"
      type -P "$name"
      return
    fi
  done
  fail 3 "no Python 3.10, 3.11 or 3.12 found (python3 is $(python3 --version 2>&1 || true));
install one, or name it: TSE_PYTHON=/path/to/python $0"
}

say() { echo "install: $*" >&2; }

fail() { # fail CODE MESSAGE
  echo "tools/install.sh: $2" >&2
  exit "$1"
}

main
