"""Sound, read, turned into mels and cut into windows: on synthetic sound always, on the real files beside the repository where they exist."""
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import librosa
import numpy as np
import pandas as pd
import pytest
import soundfile as sf
import torch
from rfcx_kit.problems import Problems, SoundProblem
from rfcx_kit.sound.audio import read_audio, write_audio
from rfcx_kit.sound.mel import LogMel, MelConfig, check_band
from rfcx_kit.sound.windows import coverage, sliding_windows, split_and_pad, stitch

REAL = Path(__file__).resolve().parents[2] / "shared" / "data"
real = pytest.mark.skipif(not REAL.exists(), reason="the real recordings are not beside the repository")
BAD = {"garbled.flac": "garbled", "hdronly.wav": "no samples", "nan.wav": "NaN", "short.wav": "too short", "silent.wav": "silent",
       "text.wav": "not a sound file", "trunc.flac": "truncated", "zero.wav": "empty file"}


def librosa_mel(wave, c=MelConfig()):
    power = librosa.feature.melspectrogram(y=wave, sr=c.sample_rate, n_fft=c.n_fft, hop_length=c.hop_length, n_mels=c.n_mels, fmin=c.f_min, fmax=c.f_max)
    return 10 * np.log10(np.maximum(power, 1e-10))


def report(paths, workers):
    problems = Problems()
    def read(path):
        try: read_audio(path)
        except SoundProblem as e: problems.add(e.problem)
    with ThreadPoolExecutor(workers) as pool: list(pool.map(read, paths))
    return problems.rows


@real
def test_bad_files_make_the_same_report_for_any_workers():
    paths = [*(REAL / "bad").iterdir(), REAL / "bad" / "gone.flac"]
    rows = report(paths, 1)
    assert rows == report(paths[::-1], 4)
    assert {Path(p.path).name: p.reason.split(":")[0] for p in rows} == BAD | {"gone.flac": "missing"}


@real
def test_real_recordings_equal_librosa():
    paths = sorted((REAL / "rfcx").rglob("*.flac"))[:4] + sorted((REAL / "field" / "backgrounds").glob("*"))[:2] + [REAL / "boxes" / "spinetail.wav"]
    log_mel = LogMel()
    for path in paths:
        wave = read_audio(path)[:20 * 32_000]
        assert np.abs(log_mel(torch.from_numpy(wave)).numpy() - librosa_mel(wave)).max() < 0.01, path


@real
def test_coverage_of_the_confirmed_calls():
    tp = pd.read_csv(REAL / "rfcx" / "train_tp.csv")
    shares = [coverage(tp, sliding_windows(3751, *w)) for w in ((512, 49), (256, 23), (512, 256))]
    assert [round(100 * s, 1) for s in shares] == [78.7, 52.0, 92.5]
    check_band(MelConfig(), tp)
    check_band(MelConfig(), pd.read_csv(REAL / "rfcx" / "train_fp.csv"))
    with pytest.raises(ValueError, match="labels reach out of the mel band"): check_band(MelConfig(f_max=13_000), tp)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize("rate", [48_000, 44_100, 22_050, 32_000])
def test_a_part_is_the_part_of_the_whole(tmp_path, suffix, rate):
    rng = np.random.default_rng(rate)
    sf.write(tmp_path / f"a.{suffix}", 0.2 * rng.standard_normal((5 * rate, 2)), rate)
    whole = read_audio(tmp_path / f"a.{suffix}")
    assert len(whole) == 5 * 32_000 and whole.dtype == np.float32
    for start in rng.uniform(0, 4.5, 8):
        part = read_audio(tmp_path / f"a.{suffix}", start=start, seconds=1.0)
        first = round(start * 32_000)
        assert np.abs(part - whole[first:first + len(part)]).max() < 1e-4
        assert len(part) == min(round((start + 1) * 32_000), len(whole)) - first


def test_a_part_costs_a_part(tmp_path, monkeypatch):
    write_audio(tmp_path / "long.flac", np.random.default_rng(0).uniform(-1, 1, 60 * 32_000), 32_000)
    decoded, read = [], sf.SoundFile.read
    monkeypatch.setattr(sf.SoundFile, "read", lambda self, frames=-1, **k: decoded.append(frames) or read(self, frames, **k))
    assert len(read_audio(tmp_path / "long.flac", start=50, seconds=1)) == 32_000
    assert sum(decoded) < 1.2 * 32_000


def test_cut_sound_is_truncated_wherever_it_is_cut(tmp_path):
    write_audio(tmp_path / "a.flac", np.random.default_rng(0).uniform(-1, 1, 4 * 32_000), 32_000)
    write_audio(tmp_path / "a.wav", np.random.default_rng(0).uniform(-1, 1, 4 * 32_000), 32_000)
    for name in ("a.flac", "a.wav"):
        data = (tmp_path / name).read_bytes()
        for share in (0.3, 0.6, 0.95, 0.999):
            (tmp_path / f"cut-{name}").write_bytes(data[:int(share * len(data))])
            with pytest.raises(SoundProblem) as e: read_audio(tmp_path / f"cut-{name}")
            assert e.value.problem.reason == "truncated" and abs(e.value.problem.offset - 4 * share) <= 1.1


def test_streamed_wav_of_unknown_length_is_sound(tmp_path):
    write_audio(tmp_path / "a.wav", np.random.default_rng(0).uniform(-1, 1, 32_000), 32_000)
    data = bytearray((tmp_path / "a.wav").read_bytes())
    data[4:8] = data[40:44] = b"\xff" * 4 # what a recorder writes that does not know when it will end
    (tmp_path / "a.wav").write_bytes(data)
    assert len(read_audio(tmp_path / "a.wav")) == 32_000


def test_mel_of_synthetic_sound_equals_librosa():
    t, rng = np.arange(4 * 32_000) / 32_000, np.random.default_rng(0)
    for wave in (rng.standard_normal(t.size) * 0.1, 0.9 * np.sin(2 * np.pi * (500 * t + 1500 * t**2)), 0.5 * np.sin(1900 * t) + 1e-5 * np.sin(31_000 * t),
                 np.where(np.arange(t.size) % 7001 == 0, 0.9, 0), np.sin(2 * np.pi * 440 * t) * (t > 2), 0 * t):
        wave = wave.astype(np.float32)
        assert np.abs(LogMel()(torch.from_numpy(wave)).numpy() - librosa_mel(wave)).max() < 0.01


def test_mel_is_float32_whatever_happens_around_it():
    log_mel, wave = LogMel(), torch.randn(2, 50_000)
    expected = log_mel(wave)
    for kind in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", kind): assert torch.equal(log_mel(wave), expected)
        assert torch.equal(torch.nn.Sequential(LogMel()).to(kind)[0](wave), expected)
    assert log_mel(wave.double()).dtype == torch.float32


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_mel_on_the_gpu():
    wave = 0.1 * torch.randn(4, 60 * 32_000)
    log_mel = LogMel()
    expected = log_mel(wave)
    with torch.autocast("cuda", torch.float16): found = LogMel().half().cuda()(wave.cuda())
    assert found.dtype == torch.float32 and found.shape == (4, 128, 3751) and (found.cpu() - expected).abs().max() < 0.01


def test_windows_lose_nothing():
    rng = np.random.default_rng(1)
    for _ in range(200):
        n, window = rng.integers(1, 5000), rng.integers(1, 700)
        windows = sliding_windows(n, window, rng.integers(0, window))
        x = rng.standard_normal((2, n)).astype(np.float32)
        parts = split_and_pad(x, windows, np.nan)
        assert parts.shape == (len(windows), 2, window)
        for how in ("max", "mean"): assert np.allclose(stitch(parts, windows, n, how), x, atol=1e-6)


def test_mel_travels_in_a_checkpoint(tmp_path):
    model, wave = torch.nn.Sequential(LogMel()), torch.randn(30_000)
    torch.save(model.state_dict(), tmp_path / "a.pt")
    blank = torch.nn.Sequential(LogMel(filters=torch.zeros(128, 1025)))
    blank.load_state_dict(torch.load(tmp_path / "a.pt", weights_only=True))
    assert torch.equal(blank(wave), model(wave))
    assert torch.equal(pickle.loads(pickle.dumps(model))(wave), model(wave)) # to worker processes
