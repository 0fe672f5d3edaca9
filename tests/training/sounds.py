"""Small sounds, made here."""

import numpy as np
import soundfile


def tone(seconds, rate=16_000, hz=440.0, seed=0, level=0.3):
    """A tone with overtones and a little noise: float32 [T]."""
    time = np.arange(int(seconds * rate)) / rate
    sound = sum(np.sin(2 * np.pi * hz * k * time) / k for k in (1, 2, 3))
    noise = np.random.default_rng(seed).standard_normal(time.size)
    return (level * (0.5 * sound + 0.02 * noise)).astype(np.float32)


def write_sounds(folder, count=3, seconds=1.0, rate=16_000, channels=1):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        parts = [tone(seconds, rate, 200.0 * (number + c + 1), number) for c in range(channels)]
        soundfile.write(folder / f"{number}.wav", np.stack(parts, 1), rate, "FLOAT")
    return folder
