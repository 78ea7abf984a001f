"""utils/parse_options.sh: what is an option, and that values stay values."""

from __future__ import annotations

import subprocess

import pytest

from tests.recipe_folder import RecipeFolder

OPTIONS = """conf=conf/a.yaml     # the experiment
sample_rate=8000     # samples per second
corpus=              # where the corpus is; it may be # anything
fast=false           # be quick
name=x               # options may have any name
value=x              # even those
"""
SHOW = r"""printf '%s|' "$conf" "$sample_rate" "$corpus" "$fast" "$name" "$value"; printf '%s' "$stage"
"""


@pytest.fixture
def recipe(tmp_path):
    return RecipeFolder(tmp_path, OPTIONS, SHOW)


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ([], "conf/a.yaml|8000||false|x|x|0"),
        (["--conf", "b", "--sample-rate", "16000"], "b|16000||false|x|x|0"),
        (["--conf=b", "--sample_rate=16000", "--corpus="], "b|16000||false|x|x|0"),
        (["--name", "n", "--value=v=w", "--stage", "train"], "conf/a.yaml|8000||false|n|v=w|train"),
        (["--fast"], "conf/a.yaml|8000||true|x|x|0"),
        (["--fast", "false", "--corpus", "c"], "conf/a.yaml|8000|c|false|x|x|0"),
        (["--fast=true", "--fast", "--conf", ""], "|8000||true|x|x|0"),
        (["--conf", "b", "--conf", "c"], "c|8000||false|x|x|0"),
        (["--conf=--odd"], "--odd|8000||false|x|x|0"),
    ],
)
def test_spellings(recipe, options, shown):
    result = recipe.run(*options)
    assert (result.returncode, result.stdout) == (0, shown), result.stderr


@pytest.mark.parametrize(
    "value", ["$(touch hit)", "`touch hit`", 'say "hi"', "it's", "a;touch hit", "*", "a  b\nc", "\\n"]
)
def test_values_are_never_read_as_shell(recipe, value):
    for options in (["--corpus", value], [f"--corpus={value}"]):
        result = recipe.run(*options)
        assert result.stdout == f"conf/a.yaml|8000|{value}|false|x|x|0", result.stderr
    assert not recipe.path("hit").exists()


def test_a_path_is_found_from_where_the_user_is(recipe, tmp_path):
    def corpus_of(value):
        words = [recipe.script, "--corpus", value]
        return subprocess.run(words, cwd=home, stdout=subprocess.PIPE, text=True, check=True).stdout.split("|")[2]

    home = tmp_path / "my speech"
    (home / "a" / "b").mkdir(parents=True)
    assert corpus_of("a/") == corpus_of("../my speech/a") == "../../../my speech/a"
    assert corpus_of("a") == "a", "a word alone may be anything"
    assert corpus_of("not/there") == "not/there"
    assert corpus_of(str(home)) == str(home)
    recipe.path("a/b").mkdir(parents=True)
    assert corpus_of("a/b") == "a/b", "the recipe's folder comes first"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cnof", "b"], "--cnof: no such option; did you mean conf?"),
        (["--cnof=b"], "--cnof: no such option; did you mean conf?"),
        (["--PATH", "/tmp"], "--PATH: no such option"),
        (["--HOME=/tmp"], "--HOME: no such option"),
        (["--stamps", "x"], "--stamps: no such option"),
        (["--a[$(touch hit)]", "x"], "no such option"),
        (["--", "x"], "no such option"),
        (["--conf"], "--conf: no value follows"),
        (["--conf", "--fast"], "--conf: no value follows"),
        (["--fast=maybe"], "--fast=maybe: wanted true or false"),
        (["word"], "word: unexpected"),
        (["-x"], "-x: unexpected"),
    ],
)
def test_usage_errors(recipe, options, message):
    before = recipe.tree()
    result = recipe.run(*options)
    assert result.returncode == 2 and message in result.stderr and not result.stdout
    assert recipe.tree() == before


def test_the_environment_sets_no_option(recipe):
    result = recipe.run(conf="b", stage="7", nj="99", fast="true")
    assert result.stdout == "conf/a.yaml|8000||false|x|x|0"


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_comes_from_the_comments(recipe, flag):
    result = recipe.run("--conf", "b", flag)
    assert result.returncode == 0
    assert result.stdout.startswith("A recipe for tests.\n")
    assert "--conf         the experiment (conf/a.yaml)\n" in result.stdout
    assert "--corpus       where the corpus is; it may be # anything\n" in result.stdout
    assert "--stop_stage   last stage to run" in result.stdout and "--dry_run" in result.stdout
    assert (
        result.stdout.index("of this recipe") < result.stdout.index("--value") < result.stdout.index("of every recipe")
    )
