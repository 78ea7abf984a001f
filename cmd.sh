# shellcheck shell=bash
# Sourced: chooses once, for all recipes, where commands run. TSE_BACKEND is one of the launcher's --backend names.
# TSE_CMD, or the option --cmd of a recipe, replaces all three: --cmd "utils/run.py --nj-max 4" (split at spaces; the
# first word may be relative to the top of the repository).

tse_launcher="utils/run.py --backend ${TSE_BACKEND:-local}"
export train_cmd=${TSE_CMD:-$tse_launcher}  # one task
export decode_cmd=${TSE_CMD:-$tse_launcher} # arrays
export cuda_cmd=${TSE_CMD:-$tse_launcher}   # tasks that ask for a GPU
unset tse_launcher
