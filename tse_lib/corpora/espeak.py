"""Speech from espeak-ng, the formant synthesiser, through the optional wheel `espeakng-loader`.

espeak-ng is GPL software. Nothing of it is in this repository: the wheel, which a user installs on their own account
(`pip install -e .[mini]`), brings the shared library and its data, and this file talks to it through ctypes, in a
process of its own (this same file, run as a script: that is why it imports the standard library only).

The process of its own is also what makes the audio repeatable: the library keeps state from one sentence to the next
(phases, flutter, random numbers), so each list of sentences starts from a fresh copy of it.
"""

import ctypes
import importlib
import json
import struct
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

SAMPLE_RATE = 22050
_SYNCHRONOUS, _DONT_EXIT, _UTF8 = 2, 0x8000, 1  # espeak_AUDIO_OUTPUT, espeak_Initialize's option, espeak_Synth's flag
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4  # espeak_PARAMETER


@dataclass(frozen=True)
class Voice:
    """A voice of espeak-ng and its settings.

    Attributes:
        name: `<language>+<variant>`, as in `en-us+f3`.
        pitch, pitch_range: 0 to 99, 50 is the variant's own.
        words_per_minute: 80 to 450.
    """

    name: str
    pitch: int = 50
    pitch_range: int = 50
    words_per_minute: int = 175


def installed() -> tuple[str, str]:
    """Paths of the library and of its data.

    Raises:
        ValueError: the wheel is not installed.
    """
    try:
        loader = importlib.import_module("espeakng_loader")
    except ImportError:
        raise ValueError("the mini corpus needs the speech synthesiser espeak-ng: pip install -e .[mini]") from None
    return loader.get_library_path(), loader.get_data_path()


def speak(voice: Voice, texts: list[str]) -> list[bytes]:
    """16-bit mono samples at 22 050 Hz for each text: the same bytes whenever voice and texts are the same.

    Raises:
        ValueError: espeak-ng is not installed, or cannot do it.
    """
    library, data = installed()
    variant = voice.name.partition("+")[2]  # the library itself goes on without a variant that it does not know
    if variant and not (Path(data) / "voices" / "!v" / variant).is_file():
        raise ValueError(f"espeak-ng has no variant '{variant}' (voice '{voice.name}'); update espeakng-loader")
    job = {"library": library, "data": data, "voice": asdict(voice), "texts": texts}
    result = subprocess.run([sys.executable, "-I", "-S", __file__], input=json.dumps(job).encode(), capture_output=True)
    if result.returncode:
        reason = result.stderr.decode(errors="replace").strip().splitlines()[-1:] or [f"exit code {result.returncode}"]
        raise ValueError(f"espeak-ng, voice '{voice.name}': {reason[0]}")
    spoken, position = [], 0
    for _ in texts:
        (size,) = struct.unpack_from("<I", result.stdout, position)
        spoken.append(result.stdout[position + 4 : position + 4 + size])
        position += 4 + size
    return spoken


def _main() -> None:
    """The child process: a job as JSON on stdin, then for each text a byte count and the samples on stdout."""
    job = json.load(sys.stdin)
    library = ctypes.CDLL(job["library"])
    library.espeak_ng_SetRandSeed.argtypes = [ctypes.c_long]
    if library.espeak_Initialize(_SYNCHRONOUS, 0, job["data"].encode(), _DONT_EXIT) != SAMPLE_RATE:
        sys.exit(f"cannot be started from {job['data']}; reinstall espeakng-loader")
    pieces: list[bytes] = []

    def keep(samples: int | None, count: int, _: int | None) -> int:
        if samples and count:
            pieces.append(ctypes.string_at(samples, 2 * count))
        return 0

    callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)(keep)
    library.espeak_SetSynthCallback(callback)
    voice = job["voice"]
    if library.espeak_SetVoiceByName(voice["name"].encode()) != 0:
        sys.exit("no such voice")
    settings = {_RATE: voice["words_per_minute"], _PITCH: voice["pitch"], _RANGE: voice["pitch_range"], _VOLUME: 50}
    for parameter, value in settings.items():
        library.espeak_SetParameter(parameter, value, 0)
    library.espeak_ng_SetRandSeed(1)
    for text in job["texts"]:
        pieces.clear()
        data = text.encode()
        if library.espeak_Synth(data, len(data) + 1, 0, 1, 0, _UTF8, None, None) != 0 or not pieces:
            sys.exit(f"could not speak {text!r}")
        samples = b"".join(pieces)
        sys.stdout.buffer.write(struct.pack("<I", len(samples)) + samples)


if __name__ == "__main__":
    _main()
