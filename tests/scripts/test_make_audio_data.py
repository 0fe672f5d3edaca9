"""The recordings' maker, without the packages that it takes recordings from."""

import importlib.util
import json
import random
from pathlib import Path

import numpy as np
import pytest
import soundfile

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_audio_data.py"


@pytest.fixture
def script(monkeypatch):
    spec = importlib.util.spec_from_file_location("make_audio_data", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(__import__("sys").modules, "make_audio_data", module)
    spec.loader.exec_module(module)
    return module


def read_variable(data, place):
    value = 0
    while True:
        byte, place = data[place], place + 1
        value = value << 7 | byte & 127
        if byte < 128:
            return value, place


def events_of(song):
    """A format 0 file back to [(tick, message)]; every byte is accounted for."""
    assert song[:14] == b"MThd\x00\x00\x00\x06\x00\x00\x00\x01\x01\xe0"
    assert song[14:18] == b"MTrk"
    track = song[22:]
    assert int.from_bytes(song[18:22], "big") == len(track)
    place, tick, events = 0, 0, []
    while place < len(track):
        wait, place = read_variable(track, place)
        tick += wait
        status = track[place]
        size = 3 + track[place + 2] if status == 0xFF else 2 if status >> 4 == 0xC else 3
        events.append((tick, track[place : place + size]))
        place += size
    return events


@pytest.mark.parametrize("seed", range(5))
def test_a_song_is_a_midi_file_in_which_every_note_ends(script, seed):
    events = events_of(script.random_song(random.Random(seed)))

    assert events[-1][1] == b"\xff\x2f\x00"
    assert [m[:2] for t, m in events if t == 0 and m[0] == 0xFF] == [b"\xff\x51"]
    assert all(byte < 128 for _, message in events if message[0] != 0xFF for byte in message[1:])
    notes = [m for _, m in events if m[0] >> 4 in (8, 9)]
    starts = sum(m[0] >> 4 == 9 for m in notes)
    assert len(notes) == 2 * starts > 200


def test_the_same_seed_is_the_same_song(script):
    first, again, other = (script.random_song(random.Random(seed)) for seed in (1, 1, 2))

    assert first == again != other


@pytest.mark.parametrize("value", [0, 127, 128, 480, 16_383, 16_384, 2**27])
def test_lengths_are_written_as_midi_reads_them(script, value):
    data = script.variable_length(value)

    assert read_variable(data, 0) == (value, len(data))


def test_clips_become_recordings_of_about_one_length_and_all_of_them_is_kept(script):
    rate = 100
    clips = [np.full(n * rate, 0.5, np.float32) for n in (20, 1, 30, 400, 3)]

    made = list(script.joined(iter(clips), 10_000, rate, random.Random(0)))
    limited = list(script.joined(iter(clips), 60, rate, random.Random(0)))

    assert sum((sound != 0).sum() for sound in made) == 454 * rate
    assert all(45 <= len(sound) / rate < 45 + 91 for sound in made[:-1])
    assert sum((sound != 0).sum() for sound in limited) == 60 * rate


def test_what_is_missing_is_left_out_with_its_package_named(script, tmp_path, caplog, monkeypatch):
    def voices(options, rng):
        return {"one": iter([np.full(options.rate * 2, 2.0, np.float32)] * 3)}

    sources = {
        "here": script.Source("speech", 1, "a", "CC0", voices),
        "gone": script.Source("music", 1, "package-x", "CC0", lambda options, rng: {}),
    }
    monkeypatch.setattr(script, "SOURCES", sources)
    monkeypatch.setattr("sys.argv", ["make_audio_data.py", str(tmp_path / "out"), "--rate", "8000"])

    assert script.main() == 0

    report = json.loads((tmp_path / "out" / "sources.json").read_text())
    sound, rate = soundfile.read(tmp_path / "out" / "speech" / "here-0000.flac")
    assert rate == 8000
    assert report["here"]["seconds"] == pytest.approx(len(sound) / rate, abs=0.1)
    assert np.abs(sound).max() == pytest.approx(1, abs=1e-4)
    assert (report["gone"]["seconds"], report["gone"]["from"]) == (0, "package-x")
    assert "gone is left out: it needs package-x" in caplog.text


@pytest.mark.parametrize("choice", ["midi", "midi=x", "violin=3"])
def test_amounts_that_cannot_be_are_refused(script, tmp_path, monkeypatch, choice, capsys):
    monkeypatch.setattr("sys.argv", ["x", str(tmp_path / "out"), "--minutes", choice])

    with pytest.raises(SystemExit):
        script.main()
    assert "SOURCE=MINUTES" in capsys.readouterr().err


def test_copies_at_other_speeds_are_shorter_or_longer_and_higher_or_lower(script, tmp_path):
    (tmp_path / "speech").mkdir()
    time = np.arange(16_000) / 16_000
    soundfile.write(tmp_path / "speech" / "a.flac", 0.5 * np.sin(2 * np.pi * 200 * time), 16_000)
    options = script.argparse.Namespace(out=tmp_path, speeds=[80, 125], rate=16_000)

    seconds = script.add_speeds(options)

    assert seconds == pytest.approx(1 / 0.8 + 1 / 1.25)
    for percent in (80, 125):
        copy, rate = soundfile.read(tmp_path / "speech" / f"a-{percent}.flac")
        pitch = np.abs(np.fft.rfft(copy)).argmax() * rate / len(copy)
        assert len(copy) == 16_000 * 100 // percent
        assert pitch == pytest.approx(200 * percent / 100, rel=0.01)
