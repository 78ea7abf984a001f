"""A recipe in a temporary folder, run by the true engine, for tests."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent

HEAD = """#!/usr/bin/env bash
# A recipe for tests.
set -euo pipefail
cd "$(dirname "$0")"
. ../../../utils/recipe.sh
"""


class RecipeFolder:
    """egs/demo/t1 below `top`, beside those files of the repository that recipes need; the toolkit is not needed."""

    def __init__(self, top: Path, options: str | None = None, stages: str = "") -> None:
        self.top, self.folder = top, top / "egs" / "demo" / "t1"
        self.script = self.folder / "run.sh"
        if options is None:  # it is there already
            return
        self.folder.mkdir(parents=True)
        (top / "utils").mkdir()
        for name in ("path.sh", "cmd.sh", "run.sh"):
            shutil.copy(ROOT / name, top / name)
        for path in (*ROOT.glob("utils/*.sh"), ROOT / "utils/run.py"):
            shutil.copy(path, top / "utils")
        self.script.write_text(f"{HEAD}## options\n{options}## end\n. ../../../utils/parse_options.sh\n{stages}")
        self.script.chmod(0o755)

    def run(self, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.script, *options],
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def start(self, *options: str) -> subprocess.Popen[str]:
        return subprocess.Popen([self.script, *options], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def path(self, name: str) -> Path:
        return self.folder / name

    def write(self, name: str, text: str) -> None:
        self.path(name).parent.mkdir(parents=True, exist_ok=True)
        self.path(name).write_text(text)

    def tree(self) -> dict[str, bytes]:
        """Every file of the recipe's folder."""
        return {
            str(path.relative_to(self.folder)): path.read_bytes() for path in self.folder.rglob("*") if path.is_file()
        }
