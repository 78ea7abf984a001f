"""`pytest tests/parity --fixtures DIR`: check the fixtures of another folder."""

import json
from pathlib import Path

import pytest

FOLDER = pytest.StashKey[Path]()
# a smaller or similar one is checked always
SLOW = (
    "dprnn_asteroid_ks2_bn128", "mossformer2_full", "tf_gridnet_v1_i1_j1", "tf_gridnet_v3_i1_j1", "usef_tfgridnet",
    "usef_sepformer", "usef_tse_mamba_v7",
)  # fmt: skip


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """pytest has a flag --fixtures of its own; followed by a folder of .json files, it is ours."""
    words = [str(word) for word in config.invocation_params.args]
    after = words[words.index("--fixtures") + 1 :][:1] if "--fixtures" in words else []
    if after and not after[0].startswith("-") and "::" not in after[0]:
        folder = Path(config.invocation_params.dir, after[0])
        if not folder.is_dir():
            raise pytest.UsageError(f"--fixtures {after[0]}: no such folder")
        if any(folder.glob("*.json")):
            config.option.showfixtures = False
            config.args.remove(after[0])
            config.stash[FOLDER] = folder


def pytest_generate_tests(metafunc):
    """One test a fixture: `network_fixture` for those with outputs, `loss_fixture` for those with losses."""
    for name, key in (("network_fixture", "outputs"), ("loss_fixture", "losses")):
        if name in metafunc.fixturenames:
            folder = metafunc.config.stash.get(FOLDER, Path(__file__).parent / "fixtures")
            files = [file for file in sorted(folder.glob("*.json")) if not file.name.endswith(".keys.json")]
            if not files:
                raise pytest.UsageError(f"{folder}: no parity fixtures (.json) here")
            fitting = [file for file in files if key in json.loads(file.read_text(encoding="utf-8"))]
            marks = [pytest.mark.slow if file.stem in SLOW else () for file in fitting]
            params = [pytest.param(file, id=file.stem, marks=mark) for file, mark in zip(fitting, marks, strict=True)]
            metafunc.parametrize(name, params)
