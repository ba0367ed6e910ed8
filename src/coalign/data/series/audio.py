"""Sound: samples from a file, log-mel energies and cepstra, computed with torch alone.

.wav, .flac and .ogg are read by soundfile (extra: `audio`), anything else, a video's sound track included, by PyAV
(extra: `video`).
"""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from coalign.data.videos.decode import import_av, open_media
from coalign.errors import InputError
from coalign.files import reader

RATE = 16_000
LEAST_RATE, MOST_RATE = 1000, 768_000
WINDOW, STEP = 0.025, 0.010
"""Seconds of a window, and from one to the next."""
_LONGEST = 1 << 29  # samples: nine hours at 16 kHz
MELS = 40
_SOUND_SUFFIXES = (".wav", ".flac", ".ogg", ".aif", ".aiff")


@reader
def read_sound(path: Path, rate: int = RATE) -> Float[Tensor, " n"]:
    """One channel of samples in [-1, 1] at `rate` a second.

    Raises:
        InputError: There is no such file, it holds no sound, or what reads it is not installed.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    wave, own_rate = _by_soundfile(path) if path.suffix.lower() in _SOUND_SUFFIXES else _by_av(path)
    return resampled(wave, own_rate, rate)


def resampled(wave: Float[Tensor, " n"], own_rate: int, rate: int) -> Float[Tensor, " m"]:
    """The samples at another rate, with what is too high for it taken out (polyphase, Kaiser window)."""
    if own_rate == rate:
        return wave
    from scipy.signal import resample_poly

    if not LEAST_RATE <= own_rate <= MOST_RATE:
        raise InputError(f"a sound of {own_rate} samples a second is not read; {LEAST_RATE} to {MOST_RATE} are")
    shared = math.gcd(own_rate, rate)
    made: Any = resample_poly(wave.numpy(), rate // shared, own_rate // shared)
    return torch.from_numpy(np.ascontiguousarray(made, dtype=np.float32))


def _by_soundfile(path: Path) -> tuple[Tensor, int]:
    try:
        import soundfile  # pyright: ignore[reportMissingImports, reportMissingTypeStubs]
    except ImportError:
        raise InputError(f"{path}: reading sound needs soundfile: pip install 'coalign[audio]'") from None
    try:
        if soundfile.info(str(path)).frames > _LONGEST:
            raise InputError(f"{path}: claims to be longer than {_LONGEST} samples")
        samples, rate = soundfile.read(str(path), dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError) as error:
        raise InputError(f"{path}: is no readable sound ({error})") from None
    return torch.from_numpy(np.ascontiguousarray(samples.mean(1))), int(rate)


def _by_av(path: Path) -> tuple[Tensor, int]:
    av = import_av()
    try:
        with open_media(path) as container:
            if not container.streams.audio:
                raise InputError(f"{path}: has no sound track")
            track = container.streams.audio[0]
            rate = int(track.rate)
            to_floats = av.AudioResampler(format="flt", layout="mono", rate=rate)
            parts = [
                made.to_ndarray().reshape(-1) for frame in container.decode(track) for made in to_floats.resample(frame)
            ]
    except (av.FFmpegError, OSError) as error:
        raise InputError(f"{path}: its sound cannot be read ({error})") from None
    joined = np.concatenate(parts) if parts else np.zeros(0)
    return torch.from_numpy(np.ascontiguousarray(joined, dtype=np.float32)), rate


def log_mel(wave: Float[Tensor, " n"], rate: int = RATE, mels: int = MELS) -> Float[Tensor, "t {mels}"]:
    """Logarithms of the energies in `mels` bands, every 10 ms over 25 ms (Hann window); none for less than a window.

    Bands are triangles of equal width on the mel scale m = 2595 log10(1 + f / 700) (HTK), from 20 Hz to half the rate,
    each with the peak 1; energies below 1e-6 count as that.
    """
    size, hop = round(WINDOW * rate), round(STEP * rate)
    if len(wave) < size:
        return wave.new_zeros(0, mels)
    points = 2 ** math.ceil(math.log2(size))
    frames = wave.unfold(0, size, hop) * torch.hann_window(size, periodic=False)
    power = torch.fft.rfft(frames, points).abs().square()
    return (power @ mel_bands(points, rate, mels)).clamp(min=1e-6).log()


def mfcc(energies: Float[Tensor, "t m"], count: int = 13) -> Float[Tensor, "t {count}"]:
    """The first cepstral coefficients of log-mel energies: their cosine transform (DCT-II, orthonormal)."""
    bands = energies.shape[1]
    k, n = torch.arange(count)[None], torch.arange(bands)[:, None]
    basis = torch.cos(math.pi * k * (n + 0.5) / bands) * math.sqrt(2 / bands)
    basis[:, 0] /= math.sqrt(2)
    return energies @ basis


@cache
def mel_bands(points: int, rate: int, mels: int) -> Float[Tensor, "f {mels}"]:
    """The weight of every frequency in every band."""
    low, high = (2595 * math.log10(1 + f / 700) for f in (20.0, rate / 2))
    edges = 700 * (10 ** (torch.linspace(low, high, mels + 2, dtype=torch.float64) / 2595) - 1)
    frequencies = torch.linspace(0, rate / 2, points // 2 + 1, dtype=torch.float64)[:, None]
    rising = (frequencies - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequencies) / (edges[2:] - edges[1:-1])
    return torch.minimum(rising, falling).clamp(min=0).float()


def frame_times(count: int, begin: float = 0.0) -> Float[Tensor, "t 2"]:
    """When each of `count` frames of `log_mel` begins and ends, in seconds."""
    starts = begin + STEP * torch.arange(count, dtype=torch.float64)
    return torch.stack([starts, starts + WINDOW], 1)
