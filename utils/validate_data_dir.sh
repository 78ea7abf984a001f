#!/usr/bin/env bash
# Check data directories: utils/validate_data_dir.sh data/train data/dev
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../path.sh"
exec tse validate "$@"
