import math

import numpy as np
import pytest
import torch
from scipy.fft import dct

from coalign.data.series.audio import RATE, frame_times, log_mel, mel_bands, mfcc, read_sound, resampled
from coalign.errors import InputError

soundfile = pytest.importorskip("soundfile")


def tone(hertz, seconds=0.5, rate=RATE):
    return torch.sin(2 * math.pi * hertz * torch.arange(round(seconds * rate)) / rate)


def test_a_tone_is_loudest_in_its_band():
    for hertz in (200.0, 1000.0, 4000.0):
        energies = log_mel(tone(hertz))
        assert energies.shape == (48, 40)  # (8000 - 400) // 160 + 1
        edges = np.linspace(2595 * math.log10(1 + 20 / 700), 2595 * math.log10(1 + RATE / 2 / 700), 42)[1:-1]
        expected = np.abs(edges - 2595 * math.log10(1 + hertz / 700)).argmin()
        assert (energies.argmax(1) - expected).abs().max() <= 1


def test_one_frame_by_the_plain_formula():
    wave = torch.randn(400, generator=torch.Generator().manual_seed(0))
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)
    power = np.abs(np.fft.rfft(wave.numpy() * window, 512)) ** 2
    expected = np.log(np.maximum(power @ mel_bands(512, RATE, 40).numpy(), 1e-6))
    np.testing.assert_allclose(log_mel(wave)[0].numpy(), expected, atol=1e-4)
    np.testing.assert_allclose(mfcc(log_mel(wave)).numpy(), dct(expected[None], norm="ortho")[:, :13], atol=1e-3)


def test_bands_are_triangles_that_overlap_halfway():
    bands = mel_bands(2048, RATE, 20)
    assert bands.max() <= 1
    assert bands.min() == 0
    assert (bands.max(0).values > 0.9).all()
    inside = (bands > 0).sum(1)[20:-20]
    assert inside.max() <= 2


def test_silence_and_less_than_a_window():
    assert log_mel(torch.zeros(399)).shape == (0, 40)
    assert log_mel(torch.zeros(0)).shape == (0, 40)
    assert bool(log_mel(torch.zeros(4000)).isfinite().all())
    assert mfcc(torch.zeros(0, 40)).shape == (0, 13)
    assert frame_times(2, 1.0).tolist() == [[1.0, 1.025], [1.01, 1.035]]


def test_another_rate_and_two_channels(tmp_path):
    wave = tone(440.0, rate=44100).numpy()
    soundfile.write(tmp_path / "a.wav", np.stack([wave, wave], 1), 44100)
    read = read_sound(tmp_path / "a.wav")
    torch.testing.assert_close(read[500:-500], tone(440.0)[500:-500], atol=2e-2, rtol=0)
    assert resampled(read, RATE, RATE) is read


def test_what_is_no_sound_is_named(tmp_path):
    (tmp_path / "x.wav").write_bytes(b"no sound")
    (tmp_path / "x.mp3").write_bytes(b"no sound")
    for name, message in (("x.wav", "no readable sound"), ("x.mp3", "cannot be read"), ("y.wav", "no such file")):
        with pytest.raises(InputError, match=message) as error:
            read_sound(tmp_path / name)
        assert name in str(error.value)
