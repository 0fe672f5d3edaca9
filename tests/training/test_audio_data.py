import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch

from tests.training.sounds import tone, write_sounds
from vqtok.data.modalities import MODALITIES
from vqtok.errors import ConfigError, InputError
from vqtok.models.audio import read_waveform
from vqtok.training.audio_data import (
    AUDIO_SUFFIXES,
    AudioStore,
    RandomExcerpts,
    collate_excerpts,
    loudness,
)

RATE = 16_000


def test_the_files_of_a_folder_are_those_that_tokenize_takes():
    assert MODALITIES["audio"].suffixes == AUDIO_SUFFIXES


@pytest.mark.parametrize("memory_mb", [0, 100])
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_sounds_are_read_as_a_tokenizer_reads_them(tmp_path, rate, memory_mb):
    folder = write_sounds(tmp_path / "sounds", rate=rate, seconds=0.3)

    store = AudioStore(folder, RATE, memory_mb=memory_mb)

    assert len(store) == 3
    for index, sound in enumerate(store):
        wanted = read_waveform(folder / f"{index}.wav", RATE, 1)
        assert store.lengths[index] == wanted.shape[-1] == sound.shape[-1]
        assert (sound - wanted).abs().max() <= 0.5 / 32_767 + 1e-6


def test_every_channel_is_a_sound_of_its_own_to_a_mono_tokenizer(tmp_path):
    folder = write_sounds(tmp_path / "stereo", count=2, channels=2, seconds=0.1)

    mono, stereo = AudioStore(folder, RATE), AudioStore(folder, RATE, channels=2)

    assert (len(mono), len(stereo)) == (4, 2)
    assert torch.equal(torch.cat([mono[2], mono[3]]), stereo[1])


def test_a_mono_sound_is_not_doubled_for_a_stereo_tokenizer(tmp_path):
    folder = write_sounds(tmp_path / "mono", count=1)

    with pytest.raises(InputError, match=r"0\.wav has 1 channels, the tokenizer takes 2"):
        AudioStore(folder, RATE, channels=2)


def test_rows_of_parquet_are_sounds(tmp_path):
    rows = []
    for seed in range(3):
        file = io.BytesIO()
        soundfile.write(file, tone(0.1 * (seed + 1), seed=seed), RATE, format="FLAC")
        rows.append({"bytes": file.getvalue(), "path": None})
    pq.write_table(pa.table({"sound": rows}), tmp_path / "a.parquet")

    store = AudioStore(tmp_path / "a.parquet", RATE, column="sound", limit=2)

    assert store.lengths.tolist() == [1600, 3200]


def test_a_broken_sound_is_named(tmp_path):
    (tmp_path / "broken.wav").write_bytes(b"RIFF nothing more")

    with pytest.raises(InputError, match=r"broken\.wav"):
        AudioStore(tmp_path, RATE)


def test_a_source_without_sounds_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="found none"):
        AudioStore(tmp_path, RATE)
    with pytest.raises(ConfigError, match="does not exist"):
        AudioStore(tmp_path / "nowhere", RATE)


class Ramps:
    """A store of sounds whose samples say which sound and which sample they are."""

    def __init__(self, *lengths):
        self.lengths = np.array(lengths, np.int64)

    def excerpt(self, index, start, samples):
        whole = 0.1 * (index + 1) + torch.arange(int(self.lengths[index])) / 1e6
        return whole[None, start : start + samples]

    def __getitem__(self, index):
        return self.excerpt(index, 0, int(self.lengths[index]))


@pytest.mark.parametrize("mix", [0.0, 0.5])
def test_a_sample_depends_on_seed_and_number_only(mix):
    store = Ramps(3000, 500, 7000)
    options = {"crop": 400, "gain_db": (-12.0, 6.0), "mix": mix}
    long, short = (RandomExcerpts(store, n, seed=3, **options) for n in (100, 40))
    other = RandomExcerpts(store, 40, seed=4, **options)

    forward = [short[i] for i in range(40)]
    backward = [long[i] for i in reversed(range(40))][::-1]

    assert all(torch.equal(a, b) for a, b in zip(forward, backward, strict=True))
    assert not any(torch.equal(a, other[i]) for i, a in enumerate(forward))


def test_a_sound_is_heard_in_proportion_to_its_length():
    excerpts = RandomExcerpts(Ramps(1000, 3000, 6000), 3000, 100, seed=0)

    heard = [round(10 * float(excerpts[i][0, 0])) - 1 for i in range(3000)]

    shares = np.bincount(heard, minlength=3) / 3000
    assert shares == pytest.approx([0.1, 0.3, 0.6], abs=0.04)


def test_a_short_sound_is_heard_whole_with_silence_around_it():
    excerpts = RandomExcerpts(Ramps(60), 50, 100, seed=0)

    starts = set()
    for i in range(50):
        sound = excerpts[i][0]
        (places,) = sound.nonzero(as_tuple=True)
        assert sound.shape == (100,)
        assert torch.equal(sound[places], Ramps(60)[0][0])
        starts.add(int(places[0]))
    assert len(starts) > 10


def test_gain_covers_its_range_and_stops_at_full_scale(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(1.0, level=0.2), RATE, "FLOAT")
    store = AudioStore(tmp_path, RATE)
    quiet = RandomExcerpts(store, 200, RATE, seed=0, gain_db=(-12.0, 6.0))
    loud = RandomExcerpts(store, 5, RATE, seed=0, gain_db=(40.0, 40.0))

    level = loudness(store[0])
    gains = [20 * np.log10(loudness(quiet[i]) / level) for i in range(200)]

    assert min(gains) == pytest.approx(-12, abs=0.5)
    assert max(gains) == pytest.approx(6, abs=0.5)
    assert np.mean(gains) == pytest.approx(-3, abs=1)
    assert all(float(loud[i].abs().max()) == pytest.approx(1) for i in range(5))


def test_silence_is_drawn_again_and_a_silent_source_still_gives_samples(tmp_path):
    sound = np.concatenate([np.zeros(4 * RATE, np.float32), tone(1.0)])
    soundfile.write(tmp_path / "a.wav", sound, RATE)
    soundfile.write(tmp_path / "silent.flac", sound[:RATE], RATE)
    excerpts = RandomExcerpts(AudioStore(tmp_path / "a.wav", RATE), 300, 800, seed=0)
    nothing = RandomExcerpts(AudioStore(tmp_path / "silent.flac", RATE), 3, 800, seed=0)

    silent = sum(loudness(excerpts[i]) < 0.003 for i in range(300))

    assert silent / 300 < 0.8**8 + 0.1  # one in five places sounds, eight are tried
    assert loudness(nothing[0]) == 0


def test_a_mixture_holds_both_sounds(tmp_path):
    for name, hz in (("a", 300.0), ("b", 2000.0)):
        soundfile.write(tmp_path / f"{name}.wav", tone(1.0, hz=hz), RATE)
    excerpts = RandomExcerpts(AudioStore(tmp_path, RATE), 60, RATE // 2, seed=0, mix=1.0)

    both = 0
    for i in range(60):
        energy = torch.fft.rfft(excerpts[i][0]).abs()
        both += bool(energy[150] > 50 and energy[1000] > 50)
    assert 15 < both < 45  # half of the pairs are of two different sounds


def test_a_batch_is_what_the_model_takes():
    excerpts = RandomExcerpts(Ramps(900), 4, 100, seed=0)

    batch = collate_excerpts([excerpts[i] for i in range(4)])

    assert list(batch) == ["input_values"]
    assert (batch["input_values"].shape, batch["input_values"].dtype) == (
        (4, 1, 100),
        torch.float32,
    )


@pytest.mark.parametrize(
    "options", [{"length": 0}, {"crop": 0}, {"gain_db": (1.0, 0.0)}, {"mix": 1.5}]
)
def test_excerpts_that_cannot_be_are_refused(options):
    with pytest.raises(ConfigError, match="excerpts want"):
        RandomExcerpts(Ramps(900), **{"length": 1, "crop": 8, "seed": 0} | options)


def test_a_sample_beyond_the_run_is_refused():
    with pytest.raises(IndexError):
        RandomExcerpts(Ramps(900), 4, 100, seed=0)[4]
