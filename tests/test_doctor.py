"""The `tse` command and `tse doctor`."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import types

import pytest

from tse_lib.bin import doctor, main


def tse(*words: str, script: str = "pass") -> subprocess.CompletedProcess[str]:
    program = f"import sys; {script}; from tse_lib.bin.main import main; sys.exit(main({list(words)!r}))"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


def test_help_is_quick_and_names_every_verb():
    start = time.monotonic()
    result = tse("--help", script="sys.modules['torch'] = sys.modules['numpy'] = None")
    assert result.returncode == 0 and time.monotonic() - start < 2  # 0.05 s where nothing else runs
    assert all(f"\n  {verb} " in result.stdout for verb in main.VERBS)


def test_usage():
    assert tse().returncode == 2
    result = tse("trian")
    assert result.returncode == 2 and "did you mean 'train'?" in result.stderr
    result = tse("doctor", "--nonsense")
    assert result.returncode == 2 and "usage: tse doctor" in result.stderr


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (ValueError("wav.scp line 3: two ids"), 4, "tse score: error: wav.scp line 3: two ids\n"),
        (ValueError("first\n  second"), 4, "tse score: error: first; second\n"),
        (FileNotFoundError(2, "No such file or directory", "x.yaml"), 3, "error: x.yaml: No such file or directory\n"),
        (FileNotFoundError("no set data/dev; run stage 1"), 3, "tse score: error: no set data/dev; run stage 1\n"),
        (PermissionError(13, "Permission denied", "x"), 1, "tse score: error: x: Permission denied\n"),
        (ModuleNotFoundError("No module named 'pesq'"), 1, "No module named 'pesq'; tse doctor lists"),
        (KeyboardInterrupt(), 130, ""),
        (BrokenPipeError(), 141, ""),
    ],
)
def test_errors_become_one_line_and_an_exit_code(monkeypatch, capfd, error, code, text):
    def fail(argv):
        raise error

    monkeypatch.setitem(sys.modules, main.VERBS["score"][0], types.SimpleNamespace(main=fail))
    monkeypatch.setattr(main.os, "dup2", lambda *_: None)
    monkeypatch.delenv("TSE_DEBUG", raising=False)
    assert main.run("score", []) == code
    assert text in capfd.readouterr().err
    monkeypatch.setenv("TSE_DEBUG", "1")
    main.run("score", [])
    assert ("Traceback" in capfd.readouterr().err) == bool(text)


def test_a_bug_is_not_hidden(monkeypatch):
    monkeypatch.setitem(sys.modules, main.VERBS["score"][0], types.SimpleNamespace(main=lambda argv: {}["key"]))
    with pytest.raises(KeyError):
        main.run("score", [])


def test_closed_pipe_is_quiet():
    command = f"{sys.executable} -m tse_lib.bin.main doctor | true"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert result.stderr == ""


def test_doctor_without_torch():
    result = tse("doctor", "--json", script="sys.modules['torch'] = sys.modules['torch.version'] = None")
    found = json.loads(result.stdout)
    assert result.returncode == 1 and "error" in found["torch"]
    assert any(problem.startswith("torch:") for problem in found["problems"])


def test_doctor_tells_what_optional_parts_would_add(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "torch_facts", lambda: {"version": "2", "cuda": None, "gpus": [], "bf16_on_cpu": False})
    monkeypatch.setattr(doctor, "driver", lambda: None)
    monkeypatch.setattr(doctor, "installed_version", lambda module, package: None if module == "pesq" else "1.0")
    assert doctor.main([]) == 0
    text = capsys.readouterr().out
    assert "PESQ scores" in text and "missing: pip install -e '.[eval]'" in text
    assert doctor.main(["--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["optional"]["pesq"] == {"version": None, "extra": "eval", "adds": "PESQ scores"}


def test_doctor_knows_the_extras_of_setup_py():
    import runpy

    setup = runpy.run_path(str(doctor.Path(__file__).parent.parent / "setup.py"))
    for package, extra, _ in doctor.OPTIONAL.values():
        assert any(line.startswith(package) for line in setup["EXTRAS"][extra])
    names = {line.split(">")[0].split("=")[0] for line in setup["CORE"]}
    assert names == {"torch", *doctor.CORE.values()}
