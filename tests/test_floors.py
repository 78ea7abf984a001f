"""The floors of tse_lib: a room may import only from the floors below its own (docs/architecture.md)."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "tse_lib"
GROUND = {"allocator", "audio", "config", "rng", "manifest", "files", "distributed", "checkpoint", "parallel", "store"}
ALLOWED = {  # room -> rooms it may import, besides the ground floor and itself
    **dict.fromkeys(GROUND, set()),
    "dsp": set(),
    "metrics": set(),
    "nn": {"dsp"},
    "models": {"nn", "dsp"},
    "losses": {"dsp", "metrics"},
    "corpora": set(),
    "simulation": {"dsp"},
    "data": {"simulation", "dsp"},
    "inference": {"dsp", "models", "metrics"},
    "evaluation": {"metrics"},
    "export": {"models", "inference"},
    "hub": {"models", "inference"},
    "training": {"data", "simulation", "models", "losses", "metrics", "dsp"},
}
ROOF = "tse_lib"  # the package itself, whose `load` leads to inference


def imported_rooms(source: str, file: Path) -> Iterator[str]:
    """Rooms of tse_lib that a file imports, at its top or inside a function, by whatever way of writing it."""
    package = ["tse_lib", *file.parent.parts]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            module = [*above, *(node.module.split(".") if node.module else [])]
            names = [[*module, alias.name] for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            names = [str(word.value).split(".") for word in node.args[:1] if isinstance(word, ast.Constant)]
        else:
            continue
        for first, *rest in names:
            if first == "tse_lib":
                yield rest[0] if rest and rest[0] in {*ALLOWED, "bin"} else ROOF


def illegal_imports(source: str, file: Path) -> set[str]:
    """What `file` (relative to tse_lib) imports although its floor does not let it."""
    rooms, room = set(imported_rooms(source, file)), file.parts[0].removesuffix(".py")
    if room == "bin":
        return set()
    if room == "__init__":
        return rooms & {"bin"}
    if room in GROUND:
        return rooms - GROUND
    return rooms - GROUND - ALLOWED[room] - {room}


FILES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=str)
def test_imports_stay_on_lower_floors(file):
    illegal = illegal_imports((PACKAGE / file).read_text(encoding="utf-8"), file)
    assert not illegal, f"tse_lib/{file} may not import {sorted(illegal)}; docs/architecture.md has the floors"


@pytest.mark.parametrize(
    ("file", "source", "illegal"),
    [
        ("evaluation/score.py", "from tse_lib.models import build_model", {"models"}),
        ("evaluation/score.py", "from tse_lib import audio, models", {"models"}),
        ("evaluation/score.py", "import tse_lib.models.hifi_tse as net", {"models"}),
        ("evaluation/score.py", "from ..models import build_model", {"models"}),
        ("evaluation/score.py", "from .. import models, audio", {"models"}),
        ("evaluation/score.py", "def late():\n    from tse_lib.models import build_model", {"models"}),
        ("evaluation/score.py", "import importlib\nimportlib.import_module('tse_lib.models')", {"models"}),
        ("evaluation/score.py", "import tse_lib", {ROOF}),
        ("evaluation/score.py", "from tse_lib import load", {ROOF}),
        (
            "evaluation/score.py",
            "from . import summary\nfrom .summary import x\nfrom tse_lib.metrics import sdr",
            set(),
        ),
        ("audio.py", "from .dsp import level", {"dsp"}),
        ("audio.py", "from .manifest import ACTIVITY_BLOCK_S", set()),
        ("training/trainer.py", "from tse_lib.bin.check import check", {"bin"}),
        ("__init__.py", "from .bin import main", {"bin"}),
        ("bin/check.py", "from tse_lib.training import trainer", set()),
        ("models/hifi_tse.py", "import torch, models\nfrom bin import x", set()),
    ],
)
def test_a_planted_violation_is_caught(file, source, illegal):
    assert illegal_imports(source, Path(file)) == illegal


def test_every_room_has_a_floor():
    rooms = {file.parts[0].removesuffix(".py") for file in FILES}
    assert rooms - {"__init__"} == {*ALLOWED, "bin"}


def test_the_document_says_the_same():
    told = {}
    for line in (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").splitlines():
        row = re.fullmatch(r"\| (`.+`) \| (.+) \|", line)
        if row and set(re.findall(r"`(\w+)`", row[1])) & set(ALLOWED):
            allowed = set(re.findall(r"\w+", re.sub(r"\(.*\)", "", row[2])))
            told.update(dict.fromkeys(re.findall(r"`(\w+)`", row[1]), allowed))
    assert told == {room: allowed for room, allowed in ALLOWED.items() if room not in GROUND}
