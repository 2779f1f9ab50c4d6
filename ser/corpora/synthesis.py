"""The demo corpus: 24 synthetic voices say two statements in 8 emotions, in files named like those
of RAVDESS.

No recording is involved: every pulse of a glottis rings at the formants of a vowel, and noise makes
breath and consonants. How each emotion changes the voice is one row of `MANNERS`. Their directions
follow two reviews, Juslin and Laukka (2003), Psychol. Bull. 129: 770-814, and Scherer (2003),
Speech Commun. 40: 227-256; the sizes are ours, chosen so that telling the emotions apart is neither
trivial nor hopeless.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from ser import audio
from ser.corpora import ravdess
from ser.run import parallel

RATE = 48_000  # Hz, as RAVDESS
STEREO = 0.03  # share of the clips that have two identical channels, as a few of RAVDESS have


class Manner(NamedTuple):
    """A way of speaking."""

    pitch: float  # mean, semitones above the voice's habitual pitch
    range: float  # of the accents, semitones from valley to peak
    glide: float  # of the last third of the statement, semitones: + rises, - falls
    tempo: float  # syllables per second, % above neutral
    loudness: float  # dB above neutral
    tilt: float  # of the pulses, dB lost per octave: small is tense, large is lax and dull
    breath: float  # level of noise, dB relative to the voice


MANNERS = {  #           pitch range glide tempo loud. tilt breath
    "neutral": Manner(    0.0,  4.0, -2.0,    0,  0.0,  6.0, -30.0),
    # Low, soft, dull, slow.
    "calm": Manner(      -1.0,  3.0, -1.0,  -12, -7.0,  9.0, -24.0),
    # High, wide, fast, fairly loud.
    "happy": Manner(      5.0, 11.0,  2.0,   12,  5.0,  4.5, -32.0),
    # Low, narrow, falling, slow, soft, dull, breathy.
    "sad": Manner(       -2.5,  2.0, -5.0,  -28, -9.0, 11.0, -14.0),
    # High, wide, fast, loud, bright.
    "angry": Manner(      5.0,  8.0, -1.0,   18, 12.0,  2.0, -34.0),
    # Very high, narrow, fastest, soft.
    "fearful": Manner(    8.0,  2.5,  1.0,   26, -2.0,  8.0, -20.0),
    # Very low, falling, slow.
    "disgust": Manner(   -4.0,  5.5, -5.0,  -22,  0.0,  4.0, -27.0),
    # High, with a steep rise at the end.
    "surprised": Manner(  7.0,  8.0,  9.0,    0,  4.0,  6.0, -26.0),
}  # fmt: skip
# A clip lies a share of the way from neutral to its row, drawn from STRENGTH (some are underplayed,
# some overplayed), and strays from there by up to STRAY.
STRENGTH = (0.6, 1.15)
STRAY = Manner(           1.2,  1.2,  1.5,    7,  2.0,  1.2,   2.5)  # fmt: skip

# Formants in Hz of men's vowels: Peterson and Barney (1952), J. Acoust. Soc. Am. 24: 175-184.
VOWELS = {
    "i": (390, 1990, 2550),
    "a": (730, 1090, 2440),
    "o": (570, 840, 2410),
    "u": (640, 1190, 2390),
}
# Kids are talking by the door, dogs are sitting by the door.
STATEMENTS = ("iaoiauo", "oaiiauo")


class Voice(NamedTuple):
    """A speaker."""

    pitch: float  # habitual, Hz
    formants: float  # relative to `VOWELS`: a shorter vocal tract has higher ones
    tempo: float  # relative to the average speaker
    level: float  # dB relative to the average speaker


def voice(speaker: int) -> Voice:
    """The voice of a speaker, 1 to 24: odd numbers are men, even are women, no two alike."""
    # Multiples of an irrational number, modulo 1, spread evenly.
    pitch, formants, tempo, level = speaker * np.sqrt([2, 3, 5, 7]) % 1
    lowest, longest = (95, 0.95) if speaker % 2 else (170, 1.1)
    return Voice(lowest * 1.5**pitch, longest + 0.12 * formants, 0.88 + 0.24 * tempo, 4 * level - 2)


def direct(emotion: str, rng: np.random.Generator) -> Manner:
    """Draw how a clip renders an emotion: near the line from neutral to the emotion's row."""
    neutral, full = np.array(MANNERS["neutral"]), np.array(MANNERS[emotion])
    stray = rng.uniform(-1, 1, len(STRAY)) * STRAY
    return Manner(*neutral + rng.uniform(*STRENGTH) * (full - neutral) + stray)


def speak(
    vowels: str, speaker: Voice, manner: Manner, seconds: float, rng: np.random.Generator
) -> np.ndarray:
    """Samples of a statement between two silences, shape (n,), full scale 1.

    Args:
        vowels: one for each syllable, keys of `VOWELS`.
        seconds: length of the statement; it is a quarter longer with the silences.
    """
    time = np.arange(round(1.25 * seconds * RATE)) / RATE / seconds - 0.125  # 0 to 1: speech
    spoken = np.clip(time, 0, 1)
    accents = manner.range / 2 * np.sin(2 * np.pi * (2.5 * spoken + rng.uniform()))
    semitones = manner.pitch + accents + manner.glide * np.clip(3 * spoken - 2, 0, 1)
    pitch = speaker.pitch * 2 ** (semitones / 12)
    cycle = np.cumsum(pitch) / RATE % 1  # 0 at a pulse of the glottis, 1 at the next
    centres = (np.arange(len(vowels)) + 0.5) / len(vowels)
    voiced = np.sin(2 * np.pi * cycle)
    for track in np.transpose([VOWELS[vowel] for vowel in vowels]):
        formant = speaker.formants * np.interp(spoken, centres, track)
        ringing = (1 - cycle) * np.exp(-250 * cycle / pitch)  # a bandwidth of 80 Hz
        strength = (formant / 500) ** (-manner.tilt / 6)
        voiced += strength * ringing * np.sin(2 * np.pi * formant * cycle / pitch)
    noise = np.diff(rng.standard_normal(time.size + 1))  # more of it in the treble
    opening = np.abs(np.sin(np.pi * len(vowels) * spoken))  # of the mouth: shut between syllables
    speech = opening * (unit(voiced) + 10 ** (manner.breath / 20) * noise)
    speech += 0.1 * (1 - opening) ** 4 * ((time > 0) & (time < 1)) * noise  # consonants
    level = 10 ** ((manner.loudness + speaker.level - 33) / 20)
    return level * unit(speech) + 1e-4 * rng.standard_normal(time.size)


def unit(samples: np.ndarray) -> np.ndarray:
    """Scale to an RMS of 1."""
    return samples / np.sqrt(np.mean(samples**2))


def clip(job: tuple[Path, float]) -> None:
    """Synthesise the clip that a file name asks for, seeded by that name.

    Args:
        job: its path, and the mean length of the corpus's clips in seconds.
    """
    path, seconds = job
    content = ravdess.describe(path.stem)
    rng = np.random.default_rng([int(field) for field in path.stem.split("-")])
    speaker, manner = voice(int(content["speaker"])), direct(str(content["label"]), rng)
    # Of a neutral statement of average tempo; most emotions are slower.
    length = 0.77 * seconds / (speaker.tempo * (1 + manner.tempo / 100))
    vowels = STATEMENTS[int(content["statement"]) - 1]
    samples = np.rint(speak(vowels, speaker, manner, length, rng) * 2**15).astype(np.int16)
    audio.write(
        path, np.stack([samples, samples], axis=1) if rng.uniform() < STEREO else samples, RATE
    )


def write(folder: Path, takes: int, seconds: float) -> None:
    """Write the corpus: Actor_XX/03-01-EE-01-SS-RR-AA.wav, 48 kHz PCM_16, mono or stereo.

    24 speakers, 8 emotions, and `takes` clips of each speaker and emotion. The same bytes for the
    same arguments, whatever the number of cores.

    Args:
        folder: made if it is not there; must not hold a corpus yet.
        takes: clips per speaker and emotion, 1 to 4: statements 1 and 2, then both repeated.
        seconds: mean length of a clip.
    """
    jobs = []
    for speaker in ravdess.ACTORS:
        home = folder / f"Actor_{speaker:02}"
        home.mkdir(parents=True)
        for emotion in range(1, 1 + len(ravdess.EMOTIONS)):
            for repetition, statement in ((1, 1), (1, 2), (2, 1), (2, 2))[:takes]:
                name = f"03-01-{emotion:02}-01-{statement:02}-{repetition:02}-{speaker:02}.wav"
                jobs.append((home / name, seconds))
    parallel.over(clip, jobs, "synthesise")
