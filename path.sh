# shellcheck shell=bash
# Sourced: finds the Python environment and puts it on PATH. Works from any folder.
#
# In order: TSE_PYTHON, the active environment if it has the toolkit, tools/venv, the active environment, python3.

TSE_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

if [ -z "${TSE_PYTHON:-}" ]; then
  for tse_prefix in "${VIRTUAL_ENV:-}" "${CONDA_PREFIX:-}" "$TSE_ROOT/tools/venv"; do
    if [ -n "$tse_prefix" ] && [ -x "$tse_prefix/bin/tse" ]; then
      TSE_PYTHON=$tse_prefix/bin/python
      break
    fi
  done
  unset tse_prefix
fi
if [ -n "${TSE_PYTHON:-}" ]; then
  TSE_PYTHON=$(type -P "$TSE_PYTHON") || { echo "path.sh: TSE_PYTHON is not a program: change or unset it" >&2; exit 3; }
  case :$PATH: in
    :"${TSE_PYTHON%/*}":*) ;;
    *) PATH=${TSE_PYTHON%/*}:$PATH ;;
  esac
else
  TSE_PYTHON=$(type -P python3) || { echo "path.sh: no python3 found; install Python 3.10, 3.11 or 3.12" >&2; exit 3; }
fi

# This checkout's library, even if the environment was made by another one.
case :${PYTHONPATH:-}: in
  :"$TSE_ROOT":*) ;;
  *) PYTHONPATH=$TSE_ROOT${PYTHONPATH:+:$PYTHONPATH} ;;
esac

# File names are UTF-8 and sort bytewise.
export TSE_ROOT PATH PYTHONPATH LC_ALL=C.UTF-8 PYTHONIOENCODING=UTF-8
