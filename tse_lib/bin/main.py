"""The command `tse`: one verb, one file of tse_lib/bin, imported only when it is asked for."""

from __future__ import annotations

import importlib
import io
import os
import sys
import traceback
import warnings
from typing import NoReturn

VERBS = {
    "download": ("tse_lib.bin.download", "fetch an open corpus"),
    "prepare": ("tse_lib.bin.prepare", "make a data set of a corpus"),
    "validate": ("tse_lib.bin.validate", "check data sets"),
    "pack": ("tse_lib.bin.pack", "copy a data set's audio into few files that training reads fast"),
    "simulate": ("tse_lib.bin.simulate", "decide the fixed development and test mixtures, as text"),
    "render": ("tse_lib.bin.render", "make the audio of drawn mixtures"),
    "inspect": ("tse_lib.bin.inspect", "look at and listen to drawn mixtures before training on them"),
    "embed": ("tse_lib.bin.embed", "tabulate the speaker embeddings of data sets, for models that are given these"),
    "train": ("tse_lib.bin.train", "train an experiment, or go on with one"),
    "watch": ("tse_lib.bin.watch", "follow trainings in the terminal"),
    "curves": ("tse_lib.bin.curves", "compare trainings in one page"),
    "check": ("tse_lib.bin.check", "check an experiment's configuration, data and model before it is trained"),
    "infer": ("tse_lib.bin.infer", "run a model over a set of mixtures"),
    "score": ("tse_lib.bin.score", "score estimates against their references"),
    "results": ("tse_lib.bin.results", "collect scores in RESULTS.md and a report"),
    "extract": ("tse_lib.bin.extract", "extract one speaker from a recording"),
    "enroll": ("tse_lib.bin.enroll", "save what a model makes of a speaker's recordings"),
    "calibrate": ("tse_lib.bin.calibrate", "fit how sure a model's outputs are of the speaker's presence"),
    "separate": ("tse_lib.bin.separate", "separate recordings into their sources"),
    "export": ("tse_lib.bin.export", "pack a trained model in a folder"),
    "convert": ("tse_lib.bin.convert", "read a public checkpoint"),
    "models": ("tse_lib.bin.models", "list the models with their size and cost"),
    "doctor": ("tse_lib.bin.doctor", "show what this machine and environment can do"),
}

USAGE_EXIT, MISSING_EXIT, BAD_DATA_EXIT = 2, 3, 4


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(help_text())
        return 0 if argv else USAGE_EXIT
    if argv[0] == "--version":
        print(version())
        return 0
    verb, *rest = argv
    if verb not in VERBS:
        import difflib

        near = difflib.get_close_matches(verb, VERBS, 1)
        print(
            f"tse: error: no verb {verb!r}{f'; did you mean {near[0]!r}?' if near else ''}; see tse --help",
            file=sys.stderr,
        )
        return USAGE_EXIT
    return run(verb, rest)


def run(verb: str, argv: list[str]) -> int:
    """Call a verb; what it raises for its user becomes one line and an exit code that recipes pass on."""
    warnings.formatwarning = lambda message, *_: f"tse {verb}: warning: {message}\n"  # no line of our code below it
    try:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # file names need not be UTF-8, nor fit the terminal's
        # argparse names the program after the file otherwise.
        sys.argv = [f"tse {verb}", *argv]
        code = importlib.import_module(VERBS[verb][0]).main(argv) or 0
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `tse … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ValueError, OSError, ModuleNotFoundError) as error:
        if os.environ.get("TSE_DEBUG", "0") not in ("", "0"):
            traceback.print_exc()
        close_bars()
        print(f"tse {verb}: error: {one_line(error)}", file=sys.stderr)
        if isinstance(error, ValueError):
            return BAD_DATA_EXIT
        return MISSING_EXIT if isinstance(error, FileNotFoundError) else 1


def close_bars() -> None:
    """A progress bar that the error interrupted ends its line now, so that the error has a line of its own."""
    bars = getattr(sys.modules.get("tqdm"), "tqdm", None)
    for bar in list(getattr(bars, "_instances", ())):
        bar.close()


def one_line(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"{error}; tse doctor lists the optional parts and how to install them"
    if isinstance(error, OSError) and error.strerror:
        name = error.filename2 or error.filename  # of a renaming the name that was asked for, not the temporary one
        return f"{name}: {error.strerror}" if name else error.strerror
    lines = [line.strip() for line in str(error).splitlines()]
    return "; ".join(line for line in lines if line) or type(error).__name__


def help_text() -> str:
    verbs = "\n".join(f"  {verb:<10}{text}" for verb, (_, text) in VERBS.items())
    return f"""usage: tse VERB [options]

{verbs}

tse VERB --help shows the options of a verb. Exit codes: 2 usage, 3 missing file, 4 bad data, 1 else;
75: train was asked to stop and has saved.
TSE_DEBUG=1 shows the traceback of an error."""


def version() -> str:
    from importlib import metadata

    try:
        return metadata.version("tse-lib")
    except metadata.PackageNotFoundError:
        return "not installed"


def leave(code: int) -> NoReturn:
    """End this process.

    One of several ends without Python's own tidying up: threads of torch's process group may outlive the group, and
    one that asks for the interpreter while that ends aborts the process (exit 134) after all its work was done.
    """
    if "WORLD_SIZE" in os.environ:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    leave(main())
