"""Computed noises: each function makes `num_samples` of one kind from a generator; the level is set by the caller.

All draw their own colour, speed or pitch, so that two clips of one kind are not the same room.
"""

from collections.abc import Callable, Sequence

import numpy as np

from tse_lib import audio

Draws = np.random.Generator
Speech = Sequence[str]  # paths that babble and speech-shaped noise are made of


def white(draws: Draws, sample_rate: int, num_samples: int, speech: Speech) -> np.ndarray:
    return draws.standard_normal(num_samples)


def pink(draws: Draws, sample_rate: int, num_samples: int, speech: Speech) -> np.ndarray:
    return _coloured(draws, sample_rate, num_samples, lambda freqs: freqs**-0.5)


def brown(draws: Draws, sample_rate: int, num_samples: int, speech: Speech) -> np.ndarray:
    return _coloured(draws, sample_rate, num_samples, lambda freqs: 1 / freqs)


def babble(draws: Draws, sample_rate: int, num_samples: int, speech: Speech) -> np.ndarray:
    """6 to 12 voices that talk without end, each somewhat nearer or farther."""
    mixed = np.zeros(num_samples)
    for _ in range(draws.integers(6, 13)):
        voice = np.zeros(0)
        while len(voice) < 2 * num_samples:
            voice = np.concatenate([voice, audio.read(speech[int(draws.integers(len(speech)))])[0]])
        start = draws.integers(num_samples)
        mixed += voice[start : start + num_samples] * 10 ** (draws.uniform(-6, 0) / 20)
    return mixed


def speech_shaped(draws: Draws, sample_rate: int, num_samples: int, speech: Speech) -> np.ndarray:
    """Stationary, with the long-term spectrum of babble."""
    spectrum = np.abs(np.fft.rfft(babble(draws, sample_rate, num_samples, speech)))
    smooth = np.convolve(spectrum, np.hanning(301) / np.hanning(301).sum(), mode="same")
    return np.fft.irfft(smooth * np.exp(2j * np.pi * draws.random(len(smooth))), num_samples)


def hum(draws: Draws, sample_rate: int, num_samples: int, speech: Speech) -> np.ndarray:
    """Mains at 50 or 60 Hz with harmonics, over a little pink noise."""
    mains = draws.choice([50.0, 60.0])
    tones = _harmonics(draws, np.full(num_samples, mains), sample_rate, 24, 0.6)
    return tones + 0.2 * tones.std() * _unit(pink(draws, sample_rate, num_samples, speech))


def engine(draws: Draws, sample_rate: int, num_samples: int, speech: Speech) -> np.ndarray:
    """A motor whose speed wanders, with its rumble."""
    speed = draws.uniform(25, 90) * (1 + 0.15 * _slow(draws, sample_rate, num_samples, 0.4))
    tones = _harmonics(draws, speed, sample_rate, 30, 0.8)
    return _unit(tones) + 0.5 * _unit(brown(draws, sample_rate, num_samples, speech))


def wind(draws: Draws, sample_rate: int, num_samples: int, speech: Speech) -> np.ndarray:
    """Low noise in gusts."""
    corner = draws.uniform(150, 500)
    body = _coloured(draws, sample_rate, num_samples, lambda freqs: 1 / (1 + (freqs / corner) ** 2))
    return body * np.exp(1.2 * _slow(draws, sample_rate, num_samples, 0.8))


def rain(draws: Draws, sample_rate: int, num_samples: int, speech: Speech) -> np.ndarray:
    """Many drops over a high hiss."""
    drops = _struck(draws, sample_rate, num_samples, per_second=draws.uniform(60, 200), decay_s=0.004)
    hiss = _coloured(draws, sample_rate, num_samples, lambda freqs: freqs / (freqs + 1500))
    return _unit(drops) + 0.5 * _unit(hiss)


def ticking(draws: Draws, sample_rate: int, num_samples: int, speech: Speech) -> np.ndarray:
    """A clock, in a quiet room."""
    period = sample_rate / draws.uniform(1.5, 5)
    click = _ring(draws, sample_rate, 0.02)
    clip = np.zeros(num_samples + len(click))
    for number in range(int(num_samples / period)):
        position = round((number + 0.5) * period)
        clip[position : position + len(click)] += click * (1.0 if number % 2 else 0.7)
    return _unit(clip[:num_samples]) + 0.05 * _unit(pink(draws, sample_rate, num_samples, speech))


def typing(draws: Draws, sample_rate: int, num_samples: int, speech: Speech) -> np.ndarray:
    """Keys struck at random, in a quiet room."""
    keys = _struck(draws, sample_rate, num_samples, per_second=draws.uniform(4, 9), decay_s=0.02)
    return _unit(keys) + 0.05 * _unit(pink(draws, sample_rate, num_samples, speech))


def fan(draws: Draws, sample_rate: int, num_samples: int, speech: Speech) -> np.ndarray:
    """Blades: pink noise that swells a few times a second, and their tone."""
    blades = draws.uniform(8, 30)
    swell = 1 + 0.5 * np.sin(2 * np.pi * blades * np.arange(num_samples) / sample_rate)
    tone = _harmonics(draws, np.full(num_samples, 4 * blades), sample_rate, 6, 1.0)
    return swell * _unit(pink(draws, sample_rate, num_samples, speech)) + 0.3 * _unit(tone)


def alarm(draws: Draws, sample_rate: int, num_samples: int, speech: Speech) -> np.ndarray:
    """Two tones in turn, now and then silent, in a quiet room."""
    seconds = np.arange(num_samples) / sample_rate
    low, step, rate = draws.uniform(400, 900), draws.uniform(1.1, 1.6), draws.uniform(1, 4)
    pitch = np.where((seconds * rate) % 1 < 0.5, low, low * step)
    sounding = (seconds * rate / 6 + draws.random()) % 1 < 0.7
    tone = _harmonics(draws, pitch, sample_rate, 3, 0.7) * sounding
    return _unit(tone) + 0.05 * _unit(pink(draws, sample_rate, num_samples, speech))


NOISES: dict[str, Callable[[Draws, int, int, Speech], np.ndarray]] = {
    "white": white,
    "pink": pink,
    "brown": brown,
    "babble": babble,
    "speech_shaped": speech_shaped,
    "hum": hum,
    "engine": engine,
    "wind": wind,
    "rain": rain,
    "ticking": ticking,
    "typing": typing,
    "fan": fan,
    "alarm": alarm,
}


def _unit(wave: np.ndarray) -> np.ndarray:
    return wave / max(float(wave.std()), 1e-12)


def _coloured(
    draws: Draws, sample_rate: int, num_samples: int, magnitude: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Gaussian noise with that magnitude over frequency; nothing below 30 Hz."""
    spectrum = np.fft.rfft(draws.standard_normal(num_samples))
    freqs = np.fft.rfftfreq(num_samples, 1 / sample_rate)
    return np.fft.irfft(spectrum * np.where(freqs < 30, 0, magnitude(np.maximum(freqs, 30))), num_samples)


def _slow(draws: Draws, sample_rate: int, num_samples: int, hertz: float) -> np.ndarray:
    """A smooth random curve of unit variance that moves about `hertz` times a second."""
    spectrum = np.fft.rfft(draws.standard_normal(num_samples))
    freqs = np.fft.rfftfreq(num_samples, 1 / sample_rate)
    return _unit(np.fft.irfft(spectrum * np.exp(-((freqs / hertz) ** 2)), num_samples))


def _harmonics(draws: Draws, pitch: np.ndarray, sample_rate: int, count: int, slope: float) -> np.ndarray:
    """Tones at 1, 2, … `count` times `pitch` (Hz, a value a sample) that fall by `number ** -slope`, each ± 6 dB."""
    phase = 2 * np.pi * np.cumsum(pitch) / sample_rate
    tones = np.zeros(len(pitch))
    for number in range(1, count + 1):
        gain, offset = number**-slope * 10 ** (draws.uniform(-6, 6) / 20), draws.uniform(0, 2 * np.pi)
        if number * pitch.max() < sample_rate / 2:
            tones += gain * np.sin(number * phase + offset)
    return tones


def _ring(draws: Draws, sample_rate: int, decay_s: float) -> np.ndarray:
    """Something small that is struck: a decaying tone with noise."""
    seconds = np.arange(round(5 * decay_s * sample_rate)) / sample_rate
    tone = np.sin(2 * np.pi * draws.uniform(0.15, 0.4) * sample_rate * seconds)
    return np.exp(-seconds / decay_s) * (tone + 0.5 * draws.standard_normal(len(seconds)))


def _struck(draws: Draws, sample_rate: int, num_samples: int, per_second: float, decay_s: float) -> np.ndarray:
    count = draws.poisson(per_second * num_samples / sample_rate)
    clip = np.zeros(num_samples + round(5 * decay_s * sample_rate) + 1)
    for position in draws.integers(num_samples, size=count):
        ring = _ring(draws, sample_rate, decay_s)
        clip[position : position + len(ring)] += ring * 10 ** (draws.uniform(-12, 0) / 20)
    return clip[:num_samples]
