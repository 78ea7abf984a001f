"""tools/install_oracles.sh with a stub of Python: the main environment is left alone; half an environment is redone."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# `-m venv DIR` makes DIR/bin/python, a copy of itself; `-m pip` notes who was called and how, and fails if told to.
STUB = """#!/usr/bin/env bash
case "$1 ${2-}" in
  "-m venv") mkdir -p "$3/bin" "$3/packages"; cp "$0" "$3/bin/python"; echo venv >>"$STUB_LOG" ;;
  "-m pip") echo "$0 ${*:3}" >>"$STUB_LOG"; [ -z "${STUB_FAIL:-}" ] ;;
  "-c "*) echo "$(dirname "$(dirname "$0")")/packages" ;;
esac
"""


@pytest.fixture
def checkout(tmp_path):
    (tmp_path / "checkout/tools").mkdir(parents=True)
    (tmp_path / "main/bin").mkdir(parents=True)
    shutil.copy(ROOT / "tools/install_oracles.sh", tmp_path / "checkout/tools")
    shutil.copy(ROOT / "path.sh", tmp_path / "checkout")
    (tmp_path / "main/bin/python").write_text(STUB)
    (tmp_path / "main/bin/python").chmod(0o755)
    return tmp_path


def install(top, **environment):
    environment = {**os.environ, "TSE_PYTHON": f"{top}/main/bin/python", "STUB_LOG": f"{top}/log", **environment}
    code = subprocess.run([top / "checkout/tools/install_oracles.sh"], env=environment, capture_output=True).returncode
    return code, (top / "log").read_text().splitlines()


def test_toolkits_come_without_what_they_require_into_an_environment_of_their_own(checkout):
    code, calls = install(checkout)
    assert code == 0 and calls[0] == "venv"
    assert [call.split()[0] for call in calls[1:]] == ["tools/oracles/bin/python"] * 2
    assert [("--no-deps" in call) == ("espnet==" in call) for call in calls[1:]] == [True, True]
    packages = checkout / "checkout/tools/oracles/packages"
    assert f"site.addsitedir('{checkout}/main/packages')" in (packages / "ours.pth").read_text()
    assert (packages / "librosa.py").read_text() == "" and not (checkout / "main/packages").exists()
    assert install(checkout) == (0, calls)  # nothing is done twice


def test_half_an_environment_is_made_anew(checkout):
    code, _ = install(checkout, STUB_FAIL="1")
    assert code != 0 and not (checkout / "checkout/tools/oracles/librosa.py").exists()
    code, calls = install(checkout)
    assert code == 0 and calls.count("venv") == 2
