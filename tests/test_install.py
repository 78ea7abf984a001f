"""tools/install.sh with a stub of Python: which environment, what is asked of pip, and what a kill leaves behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.test_launcher import wait_for

ROOT = Path(__file__).parent.parent

# Says it is Python 3.11; `-m venv DIR` makes DIR/bin/python, a copy of itself; `-m pip` notes how it was called and
# what the constraints were, and has then installed torch. Files beside it say what is there: has-torch, whole.
STUB = """#!/usr/bin/env bash
case "$1 ${2-}" in
  "-m venv") mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; echo "venv" >>"$STUB_LOG" ;;
  "-m pip") [ "$3" = --version ] || {
      echo "pip ${*:3}" >>"$STUB_LOG"
      for word; do [[ $word != /tmp/* ]] || sed 's/^/constraint /' "$word" >>"$STUB_LOG"; done
      sleep "${STUB_SLEEP:-0}"; touch "${0%/*}/has-torch"; } ;;
  "-c from importlib"*) [ ! -e "${0%/*}/has-torch" ] || echo 2.13.0+cpu ;;
  "-c "*) exit 0 ;;
  "- "*) cat >/dev/null; [ -e "${0%/*}/whole" ] || printf 'soxr tse-lib ' ;;
  "--version "*) echo Python 3.11.9 ;;
esac
"""


class Checkout:
    def __init__(self, top: Path) -> None:
        self.top, self.log = top / "checkout", top / "log"
        (self.top / "tools").mkdir(parents=True)
        (top / "bin").mkdir()
        shutil.copy(ROOT / "setup.py", self.top)
        shutil.copy(ROOT / "tools" / "install.sh", self.top / "tools")
        for name in ("python3.11", "nvidia-smi"):
            self.program(top / "bin" / name, STUB if name != "nvidia-smi" else "#!/bin/sh\nexit 9\n")
        keep = {name: value for name, value in os.environ.items() if not name.startswith(("TSE_", "CONDA", "VIRTUAL"))}
        self.environment = {**keep, "PATH": f"{top}/bin:{os.environ['PATH']}", "STUB_LOG": str(self.log)}

    @staticmethod
    def program(path: Path, text: str) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
        return path

    def install(self, *extras: str, **environment: str) -> subprocess.CompletedProcess[str]:
        self.log.write_text("")
        return subprocess.run(
            [self.top / "tools" / "install.sh", *extras],
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def asked(self) -> list[str]:
        return self.log.read_text().splitlines()


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


def test_makes_an_environment_once(checkout):
    result = checkout.install()
    assert result.returncode == 0, result.stderr
    asked = checkout.asked()
    assert asked[:2] == ["venv", "pip install torch==2.13.0"]  # there is no driver
    assert asked[2].endswith("--editable .[eval,mini,train]") and asked[3] == "constraint torch==2.13.0+cpu"
    assert "GB" in result.stderr and "TSE_TORCH_INDEX" in result.stderr
    start = time.monotonic()
    assert checkout.install().returncode == 0 and checkout.install("mini").returncode == 0
    assert time.monotonic() - start < 2 and checkout.asked() == []


def test_more_extras_are_added_and_dev_holds_all(checkout):
    checkout.install()
    checkout.install("sim")
    assert [line for line in checkout.asked() if line.startswith("pip")][0].endswith(".[eval,mini,sim,train]")
    assert "venv" not in checkout.asked()
    checkout.install("dev")
    checkout.install("train,export")
    assert checkout.asked() == []


def test_a_changed_setup_py_is_installed_again(checkout):
    checkout.install()
    with open(checkout.top / "setup.py", "a") as file:
        file.write("# changed\n")
    checkout.install()
    assert len(checkout.asked()) == 2 and "venv" not in checkout.asked()  # torch stays as it is


def test_a_moved_checkout_gets_a_new_environment(checkout, tmp_path):
    checkout.install()
    checkout.top.rename(tmp_path / "moved")
    checkout.top = tmp_path / "moved"
    checkout.install()
    assert checkout.asked()[0] == "venv"


@pytest.mark.parametrize(
    ("environment", "torch"),
    [
        ({"TSE_TORCH": "torch==2.12.0"}, "pip install torch==2.12.0"),
        ({"TSE_TORCH_INDEX": "https://cpu.example"}, "pip install --index-url https://cpu.example torch>=2.11,<3"),
    ],
)
def test_which_torch(checkout, environment, torch):
    checkout.install(**environment)
    asked = checkout.asked()
    assert asked[1] == torch and "--index-url" not in asked[2]


def test_with_a_driver_the_newest_torch(checkout, tmp_path):
    checkout.program(tmp_path / "bin" / "nvidia-smi", "#!/bin/sh\n")
    result = checkout.install()
    assert checkout.asked()[1] == "pip install torch>=2.11,<3" and "2 to 4 GB" in result.stderr


def test_killed_half_way_starts_afresh(checkout):
    checkout.log.write_text("")
    process = subprocess.Popen(
        [checkout.top / "tools" / "install.sh"],
        env={**checkout.environment, "STUB_SLEEP": "30"},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_for(lambda: any(line.startswith("pip") for line in checkout.asked()))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert checkout.install().returncode == 0
    assert checkout.asked()[0] == "venv" and checkout.asked()[1].startswith("pip install torch")


def test_two_at_once(checkout):
    checkout.log.write_text("")
    command = [checkout.top / "tools" / "install.sh"]
    environment = {**checkout.environment, "STUB_SLEEP": "0.5"}
    processes = [subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(20) for process in processes] == [0, 0]
    assert checkout.asked().count("venv") == 1


def test_an_active_environment_is_used_if_whole_and_never_changed_unasked(checkout, tmp_path):
    python = checkout.program(tmp_path / "env" / "bin" / "python", STUB)
    for variable in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        result = checkout.install(**{variable: str(tmp_path / "env")})
        assert result.returncode == 3 and "lacks: soxr tse-lib" in result.stderr
        assert f"TSE_PYTHON={python} tools/install.sh" in result.stderr and checkout.asked() == []
    (python.parent / "whole").touch()
    assert checkout.install(VIRTUAL_ENV=str(tmp_path / "env")).returncode == 0
    assert checkout.asked() == [] and not (checkout.top / "tools" / "venv").exists()


def test_a_chosen_python_is_completed_and_its_torch_kept(checkout, tmp_path):
    python = checkout.program(tmp_path / "env" / "bin" / "python", STUB)
    (python.parent / "has-torch").touch()
    assert checkout.install(TSE_PYTHON=str(python)).returncode == 0
    assert [line.split()[-1] for line in checkout.asked()] == [".[train,eval,mini]", "torch==2.13.0+cpu"]
    (python.parent / "whole").touch()
    checkout.install(TSE_PYTHON=str(python))
    assert checkout.asked() == []
    assert checkout.install(TSE_PYTHON="/no/python").returncode == 3


def test_no_suitable_python(checkout, tmp_path):
    for name in ("python3.11", "python3.12", "python3.10", "python3"):
        checkout.program(
            tmp_path / "bin" / name, "#!/bin/sh\n[ $1 != --version ] || echo Python 3.8.1\n[ $1 = --version ]\n"
        )
    result = checkout.install()
    assert result.returncode == 3 and "no Python 3.10, 3.11 or 3.12 found (python3 is Python 3.8.1)" in result.stderr


def test_python_without_venv(checkout, tmp_path):
    text = '#!/bin/sh\ncase "$2" in *ensurepip*) exit 1 ;; esac\n'
    checkout.program(tmp_path / "bin" / "python3.11", text)
    result = checkout.install()
    assert result.returncode == 3 and "apt-get install python3.11-venv" in result.stderr


def test_an_unknown_extra():
    result = subprocess.run(
        [ROOT / "tools" / "install.sh", "trian"],
        env={**os.environ, "TSE_PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2 and "no extra 'trian'" in result.stderr


def test_path_sh_finds_the_environment(checkout, tmp_path):
    shutil.copy(ROOT / "path.sh", checkout.top)

    def found(**environment: str) -> str:
        script = f'set -euo pipefail; . "{checkout.top}/path.sh"; echo "$TSE_PYTHON"; type -P tse || true'
        command = ["bash", "-c", script]
        environment = {**checkout.environment, **environment}
        return subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, check=True).stdout

    assert found().splitlines()[0] == shutil.which("python3", path=checkout.environment["PATH"])
    for name in ("checkout/tools/venv", "active"):
        for program in ("python", "tse"):
            checkout.program(tmp_path / name / "bin" / program, STUB)
    own, active = checkout.top / "tools" / "venv", tmp_path / "active"
    assert found() == f"{own}/bin/python\n{own}/bin/tse\n"
    assert (
        found(VIRTUAL_ENV=str(active)) == found(CONDA_PREFIX=str(active)) == f"{active}/bin/python\n{active}/bin/tse\n"
    )
    assert found(TSE_PYTHON=f"{active}/bin/python", VIRTUAL_ENV=str(own)).startswith(str(active))
    (active / "bin" / "tse").unlink()  # active, but not meant for this
    assert found(VIRTUAL_ENV=str(active)) == f"{own}/bin/python\n{own}/bin/tse\n"


def test_no_registry_is_named():
    text = "".join(
        (ROOT / name).read_text() for name in ("tools/install.sh", "run.sh", "setup.py", ".ci/run", "Makefile")
    )
    assert "pypi" not in text.lower() and "pytorch.org" not in text
