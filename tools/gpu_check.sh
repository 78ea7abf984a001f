#!/usr/bin/env bash
# Everything that needs a GPU, in one call: the tests marked gpu, then the benchmarks.
#
#   tools/gpu_check.sh [FOLDER]      logs and benchmarks.jsonl go to FOLDER (default: gpu_check)
#
# Uses TSE_PYTHON, the active environment, tools/venv or python3, whichever path.sh finds.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. ./path.sh

out=${1:-gpu_check}
mkdir -p "$out"
"$TSE_PYTHON" -m tse_lib.bin.main doctor | tee "$out/doctor.txt"
"$TSE_PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' ||
  { echo "torch sees no CUDA device: nothing to check" >&2; exit 3; }
rc=0
"$TSE_PYTHON" -m pytest -m gpu -q 2>&1 | tee "$out/pytest.log" || rc=$?
: >"$out/benchmarks.jsonl"
python=$TSE_PYTHON
[ ! -e tools/oracles/.complete ] || python=tools/oracles/bin/python # that and other toolkits to compare with
for script in tools/bench/*.py; do
  options=()
  case $script in
    */rival_loops.py | */separation_memory.py) continue ;; # nothing of a GPU
    */separation.py) options=(--device cuda) ;;
  esac
  "$python" "$script" "${options[@]}" | tee -a "$out/benchmarks.jsonl" || rc=$?
done
exit $rc
