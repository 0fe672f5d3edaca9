"""Makes a folder of training recordings, mono FLAC, out of what a Debian machine has.

    python scripts/make_audio_data.py OUT [--minutes midi=30 fsdd=0] [--shared /work/shared/data]

Real speech in many languages (prompts of telephone exchanges, children's games, a voice's
recordings), real and rendered music, a little synthetic speech. The same seed and packages give
the same files. A source whose package is missing is left out with a warning that names it;
OUT/sources.json says what came from where, how long it is and under which licence.

Kept out, to measure on: the folder speech16k and the test split of fsdd.
"""

import argparse
import itertools
import json
import logging
import random
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch

from vqtok.errors import InputError
from vqtok.models.audio import read_audio, resample

logger = logging.getLogger("make_audio_data")

FILE_SECONDS = 45
PAUSE_SECONDS = (0.05, 0.35)
SOUND_FONT = Path("/usr/share/sounds/sf2/FluidR3_GM.sf2")
SUFFIXES = {".wav", ".ogg", ".opus", ".flac"}
G722_HZ = 16_000

Clips = Iterator[np.ndarray]  # float32 [T]


@dataclass
class Source:
    """A kind of recordings.

    Attributes:
        minutes: at most so much is taken.
        needs: what to install when it is missing.
        voices: options to groups of clips; the files of a group are put together.
    """

    kind: str
    minutes: float
    needs: str
    licence: str
    voices: Callable[[argparse.Namespace, random.Random], dict[str, Clips]]


def mono(item, rate: int) -> np.ndarray:
    """Any sound to float32 [T], the mean of its channels, at `rate`."""
    waveform, its_rate = read_audio(item)
    return resample(torch.from_numpy(waveform).mean(0), its_rate, rate).numpy()


# Recordings in Debian packages.


def g722_clips(files: Sequence[Path], rate: int) -> Clips:
    """Headerless G.722; a hundred files a process, since starting ffmpeg takes the longest."""
    for start in range(0, len(files), 100):
        part = files[start : start + 100]
        with tempfile.TemporaryDirectory() as folder:
            command = ["ffmpeg", "-v", "error", "-nostdin"]
            for file in part:
                command += ["-f", "g722", "-i", str(file)]
            for index in range(len(part)):
                command += ["-map", str(index), "-f", "s16le", f"{folder}/{index}"]
            subprocess.run(command, check=True)
            for index in range(len(part)):
                pcm = np.fromfile(f"{folder}/{index}", np.int16)
                if pcm.size:
                    yield mono((pcm, G722_HZ), rate)


def file_clips(files: Sequence[Path], rate: int) -> Clips:
    for file in files:
        try:
            yield mono(file, rate)
        except InputError as error:
            logger.warning("left out: %s", error)


def folders_of(pattern: str, decode=file_clips):
    """Voices from the folders of /usr/share that match; their files in a random order."""

    def voices(options: argparse.Namespace, rng: random.Random) -> dict[str, Clips]:
        if decode is g722_clips and shutil.which("ffmpeg") is None:
            logger.warning("no ffmpeg to read G.722 with: apt-get install ffmpeg")
            return {}
        found = {}
        for folder in sorted(Path("/usr/share").glob(pattern)):
            suffixes = {".g722"} if decode is g722_clips else SUFFIXES
            files = sorted(f for f in folder.rglob("*") if f.suffix in suffixes)
            rng.shuffle(files)
            if files:
                found[folder.name] = decode(files, options.rate)
        return found

    return voices


def fsdd_voices(options: argparse.Namespace, rng: random.Random) -> dict[str, Clips]:
    """Spoken digits at 8 kHz, by speaker: the training split alone."""
    file = options.shared / "fsdd" / "train.parquet" if options.shared else None
    if file is None or not file.exists():
        return {}
    import pyarrow.parquet as pq

    takes: dict[str, list[bytes]] = {}
    for row in pq.read_table(file, columns=["audio", "speaker"]).to_pylist():
        takes.setdefault(str(row["speaker"]), []).append(row["audio"]["bytes"])
    for speaker in takes.values():
        rng.shuffle(speaker)
    return {s: (mono(take, options.rate) for take in takes[s]) for s in sorted(takes)}


# Synthetic speech.

SENTENCES = """The birch canoe slid on the smooth planks. Glue the sheet to the dark blue
background. It's easy to tell the depth of a well. These days a chicken leg is a rare dish. Rice is
often served in round bowls. The juice of lemons makes fine punch. Four hours of steady work faced
us. A large size in stockings is hard to sell. The boy was there when the sun rose. A rod is used to
catch pink salmon. The source of the huge river is the clear spring. Kick the ball straight and
follow through."""
LANGUAGES = ("en-us", "en-gb", "de", "fr-fr", "es", "it", "pt-br", "ru", "pl", "nl", "sv", "cs",
             "tr", "fi", "hu", "el", "hi", "id", "sw", "vi")  # fmt: skip
VARIANTS = ("", "+m1", "+m3", "+m7", "+f1", "+f2", "+f3", "+f4", "+croak", "+whisper")
FLITE_VOICES = ("slt", "awb", "rms", "kal16")


def sentences(options: argparse.Namespace) -> list[str]:
    file = options.shared / "text" / "tinyshakespeare.txt" if options.shared else None
    text = file.read_text(encoding="utf-8") if file and file.exists() else SENTENCES
    parts = [" ".join(part.split()) for part in text.replace("\n\n", ". ").split(".")]
    return [part for part in parts if 20 < len(part) < 200]


def spoken(program: str, arguments: Callable[[random.Random, str, Path], list[str]]):
    """Voices of a speech synthesizer: without end, a sentence at a time."""

    def clips(options: argparse.Namespace, rng: random.Random) -> Clips:
        lines = sentences(options)
        with tempfile.TemporaryDirectory() as folder:
            wav = Path(folder) / "a.wav"
            while True:
                command = [program, *arguments(rng, rng.choice(lines), wav)]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
                yield mono(wav, options.rate)

    def voices(options: argparse.Namespace, rng: random.Random) -> dict[str, Clips]:
        return {program: clips(options, rng)} if shutil.which(program) else {}

    return voices


def espeak_arguments(rng: random.Random, line: str, wav: Path) -> list[str]:
    voice = rng.choice(LANGUAGES) + rng.choice(VARIANTS)
    speed, pitch = rng.randint(110, 230), rng.randint(15, 85)
    return ["-v", voice, "-s", str(speed), "-p", str(pitch), "-w", str(wav), line]


def flite_arguments(rng: random.Random, line: str, wav: Path) -> list[str]:
    stretch = f"duration_stretch={rng.uniform(0.8, 1.3):.2f}"
    return ["-voice", rng.choice(FLITE_VOICES), "--setf", stretch, "-t", line, "-o", str(wav)]


# Rendered music.

TICKS = 480  # a beat
SCALES = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10), (0, 2, 3, 5, 7, 9, 10))
PROGRESSIONS = ((0, 4, 5, 3), (0, 3, 4, 0), (5, 3, 0, 4), (0, 5, 1, 4), (0, 2, 3, 4), (1, 4, 0, 0))
DRUMS = 9  # the channel
Note = tuple[int, int, int, int, int]  # start and length in ticks, channel, key, velocity


def random_song(rng: random.Random, bars: int = 16) -> bytes:
    """A standard MIDI file: chords, bass, melody and often drums, in 4/4."""
    scale, root = rng.choice(SCALES), rng.randint(40, 51)
    chords = rng.choice(PROGRESSIONS)
    programs = [rng.randint(0, 103), rng.randint(32, 39), rng.randint(0, 103)]
    melody_step = rng.choice((240, 240, 480, 120, 160))
    broken, drums = rng.random() < 0.5, rng.random() < 0.6
    notes: list[Note] = []

    def pitch(degree: int) -> int:
        return root + 12 * (degree // 7) + scale[degree % 7]

    place = 7
    for bar in range(bars):
        start, chord = bar * 4 * TICKS, chords[bar % len(chords)]
        for index, degree in enumerate((chord, chord + 2, chord + 4)):
            for beat in range(4) if broken else (0,):
                begin = start + beat * TICKS + (index * TICKS // 3 if broken else 0)
                length = TICKS if broken else 4 * TICKS
                notes.append((begin, length, 0, pitch(degree + 7), rng.randint(45, 85)))
        for beat in (0, 2) if rng.random() < 0.7 else range(4):
            notes.append((start + beat * TICKS, TICKS, 1, pitch(chord) - 12, rng.randint(60, 100)))
        for tick in range(0, 4 * TICKS, melody_step):
            place = min(20, max(10, place + rng.choice((-2, -1, -1, 0, 1, 1, 2))))
            if rng.random() < 0.75:
                length = melody_step * rng.choice((1, 1, 2))
                notes.append((start + tick, length, 2, pitch(place), rng.randint(60, 110)))
        if drums:
            notes += drum_bar(rng, start)
    return midi_file(programs, notes, tempo_us=int(60e6 / rng.uniform(70, 150)))


def drum_bar(rng: random.Random, start: int) -> list[Note]:
    hits = [(0, 36), (960, 36), (480, 38), (1440, 38)]
    hits += [(tick, rng.choice((42, 42, 46))) for tick in range(0, 1920, 240)]
    hits += [(rng.randrange(0, 1920, 120), rng.choice((36, 38, 45, 49, 54)))]
    return [(start + tick, 60, DRUMS, key, rng.randint(50, 110)) for tick, key in hits]


def midi_file(programs: Sequence[int], notes: Sequence[Note], tempo_us: int) -> bytes:
    """Format 0: program changes, the tempo of a beat, the notes."""
    events = [(0, 0, b"\xff\x51\x03" + tempo_us.to_bytes(3, "big"))]
    events += [(0, 0, bytes([0xC0 | channel, p])) for channel, p in enumerate(programs)]
    for start, length, channel, key, velocity in notes:
        events.append((start, 2, bytes([0x90 | channel, key, velocity])))
        events.append((start + length, 1, bytes([0x80 | channel, key, 0])))  # off before on
    events.sort()
    track, now = b"", 0
    for tick, _, message in events:
        track += variable_length(tick - now) + message
        now = tick
    track += variable_length(2 * TICKS) + b"\xff\x2f\x00"
    header = b"MThd" + struct.pack(">IHHH", 6, 0, 1, TICKS)
    return header + b"MTrk" + struct.pack(">I", len(track)) + track


def variable_length(value: int) -> bytes:
    """Seven bits a byte, the highest first, the eighth bit set on all but the last."""
    out = [value & 127]
    while value := value >> 7:
        out.append(value & 127 | 128)
    return bytes(reversed(out))


def midi_voices(options: argparse.Namespace, rng: random.Random) -> dict[str, Clips]:
    """Songs without end, rendered by fluidsynth."""
    if shutil.which("fluidsynth") is None or not SOUND_FONT.exists():
        return {}

    def songs() -> Clips:
        with tempfile.TemporaryDirectory() as folder:
            wav, song = Path(folder) / "a.wav", Path(folder) / "a.mid"
            while True:
                song.write_bytes(random_song(rng))
                command = ["fluidsynth", "-ni", "-q", "-g", "0.5", "-r", "44100", "-T", "wav"]
                command += ["-F", str(wav), str(SOUND_FONT), str(song)]
                subprocess.run(
                    command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
                yield mono(wav, options.rate)

    return {"songs": songs()}


SOURCES = {
    "asterisk": Source(
        "speech", 120, "asterisk-core-sounds-{en,es,fr,it,ru}-g722",
        "CC BY-SA 3.0 (Digium)", folders_of("asterisk/sounds/*", g722_clips)),
    "festvox": Source(
        "speech", 40, "festvox-ru", "festvox-ru's own, BSD-like (Nickolay V. Shmyrev)",
        folders_of("festival/voices/*/*/wav")),
    "klettres": Source(
        "speech", 50, "klettres-data", "GPL-2+ (KDE)", folders_of("klettres/*")),
    "ktuberling": Source(
        "speech", 25, "ktuberling-data", "GPL-2+ (KDE)", folders_of("ktuberling/sounds/*")),
    "fsdd": Source(
        "speech", 6, "the folder --shared with fsdd/train.parquet", "CC BY-SA 4.0 (Jackson et al.)",
        fsdd_voices),
    "moh": Source(
        "music", 25, "asterisk-moh-opsound-g722", "CC BY-SA 3.0 (its authors, see Debian)",
        folders_of("asterisk/moh", g722_clips)),
    "midi": Source(
        "music", 18, "fluidsynth fluid-soundfont-gm", "made here; sound font MIT (Frank Wen)",
        midi_voices),
    "espeak": Source(
        "speech", 6, "espeak-ng", "made here (eSpeak NG, GPL-3+)",
        spoken("espeak-ng", espeak_arguments)),
    "flite": Source(
        "speech", 5, "flite", "made here (Flite, BSD-like)", spoken("flite", flite_arguments)),
}  # fmt: skip


def joined(clips: Clips, seconds: float, rate: int, rng: random.Random) -> Iterator[np.ndarray]:
    """Clips of one voice as recordings of about FILE_SECONDS, until `seconds` are full."""
    parts, length, left = [], 0, int(seconds * rate)
    for clip in clips:
        for start in range(0, len(clip), 2 * FILE_SECONDS * rate):
            part = clip[start : start + 2 * FILE_SECONDS * rate][:left]
            pause = np.zeros(int(rng.uniform(*PAUSE_SECONDS) * rate), np.float32)
            parts += [part, pause]
            length, left = length + len(part) + len(pause), left - len(part)
            if length >= FILE_SECONDS * rate or left <= 0:
                yield np.concatenate(parts)
                parts, length = [], 0
            if left <= 0:
                return
    if length > rate:
        yield np.concatenate(parts)


def make(name: str, source: Source, minutes: float, options: argparse.Namespace) -> float:
    """Writes a source's files; returns their seconds.

    Every voice has the same share, and what a short one lacks goes to the others.
    """
    rng = random.Random(f"{options.seed}/{name}")
    voices = source.voices(options, rng)
    if not voices:
        logger.warning("%s is left out: it needs %s", name, source.needs)
    total, left = 0.0, minutes * 60
    # voices end, synthesizers do not: these give one recording after the other
    made = {voice: joined(clips, left, options.rate, rng) for voice, clips in voices.items()}
    files = itertools.chain.from_iterable(itertools.zip_longest(*made.values()))
    for number, sound in enumerate(file for file in files if file is not None):
        if left <= 0:
            break
        folder = options.out / source.kind
        folder.mkdir(parents=True, exist_ok=True)
        peak = max(1.0, float(np.abs(sound).max()))
        soundfile.write(folder / f"{name}-{number:04d}.flac", sound / peak, options.rate)
        total, left = total + len(sound) / options.rate, left - len(sound) / options.rate
    return total


def add_speeds(options: argparse.Namespace) -> float:
    """Every recording of speech once more at each of the speeds; returns their seconds.

    Pitch goes with the speed: voices that no speaker here has.
    """
    total = 0.0
    for path in sorted((options.out / "speech").glob("*.flac")):
        for percent in options.speeds:
            sound = resample(
                torch.from_numpy(soundfile.read(path, dtype="float32")[0]), percent, 100
            )
            name = f"{path.stem}-{percent}.flac"
            soundfile.write(path.with_name(name), sound.clamp(-1, 1).numpy(), options.rate)
            total += len(sound) / options.rate
    return total


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="the folder to make")
    parser.add_argument("--minutes", nargs="*", default=[], metavar="SOURCE=MINUTES",
                        help=f"other amounts; sources: {', '.join(SOURCES)}")  # fmt: skip
    parser.add_argument("--shared", type=Path, help="a folder with fsdd/ and text/")
    parser.add_argument("--rate", type=int, default=16_000, help="Hz")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--speeds", nargs="*", type=int, default=[], metavar="PERCENT",
                        help="copies of all speech at these speeds, e.g. 80 112")  # fmt: skip
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    minutes = {name: source.minutes for name, source in SOURCES.items()}
    for choice in options.minutes:
        name, _, amount = choice.partition("=")
        if name not in SOURCES or not amount.replace(".", "", 1).isdigit():
            parser.error(f"--minutes wants SOURCE=MINUTES with {', '.join(SOURCES)}; got {choice}")
        minutes[name] = float(amount)
    if options.out.exists() and any(options.out.iterdir()):
        parser.error(f"{options.out} is not empty")
    report = {}
    for name, source in SOURCES.items():
        if minutes[name]:
            seconds = make(name, source, minutes[name], options)
            logger.info("%-10s %6.1f minutes of %s", name, seconds / 60, source.kind)
            report[name] = {"kind": source.kind, "seconds": round(seconds, 1),
                            "licence": source.licence, "from": source.needs}  # fmt: skip
    if options.speeds:
        logger.info("%-10s %6.1f minutes", "speeds", add_speeds(options) / 60)
    (options.out / "sources.json").write_text(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
