#!/usr/bin/env bash
# Make tools/oracles: an environment in which other toolkits' networks can be imported beside ours, for
#
#   tools/oracles/bin/python tools/bench/models.py
#   tools/oracles/bin/python tools/bench/selective_scan.py
#
# It sees everything of the environment of TSE_PYTHON (see path.sh), torch too, and changes nothing there. ESPnet's and
# Asteroid's own requirements contradict each other's and ours, so only what their separation networks import is
# installed. ESPnet 202511 is the last for Python 3.11.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. ./path.sh

venv=tools/oracles
oracles=(espnet==202511 asteroid==0.7.0 asteroid-filterbanks==0.4.0 torch-complex==0.4.4 mambapy==1.2.0)
theirs=(typeguard huggingface_hub requests) # what these import of others, with requirements that can be met

[ ! -f "$venv/.complete" ] || { echo "$venv is there; remove it to make it anew" >&2; exit 0; }
rm -rf "$venv"
"$TSE_PYTHON" -m venv "$venv"
ours=$("$TSE_PYTHON" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
packages=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
echo "import site; site.addsitedir('$ours')" >"$packages/ours.pth"
"$venv/bin/python" -m pip install --quiet "${theirs[@]}"
"$venv/bin/python" -m pip install --quiet --no-deps "${oracles[@]}"
# ESPnet's STFT imports librosa, which it uses on no path that a separator takes, and which would be 400 MB.
: >"$packages/librosa.py"
touch "$venv/.complete"
