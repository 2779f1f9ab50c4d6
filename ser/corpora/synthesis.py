"""The demo corpus: 24 synthetic voices speak two statements in 8 emotions, in files named like
those of RAVDESS.

No recording is involved: a source-filter synthesiser sends glottal pulses and noise through formant
resonators. How each emotion changes the voice is one row of `MANNERS`; who speaks is `voice`; what
is said is `STATEMENTS`.

Sources of the rows of `MANNERS`:
    Banse and Scherer (1996), J. Pers. Soc. Psychol. 70: 614-636
        pitch, energy and spectrum of 14 emotions, 12 actors
    Cahn (1989), Generating expression in synthesized speech, MIT
        rules for synthesis, surprise among them
    Juslin and Laukka (2003), Psychol. Bull. 129: 770-814
        a review: anger, fear, happiness, sadness, tenderness
    Murray and Arnott (1993), J. Acoust. Soc. Am. 93: 1097-1108
        rules for synthesis, disgust among them
    Scherer (2003), Speech Commun. 40: 227-256
        a review of paradigms and acoustic profiles
They agree on most directions; the sizes below are ours, chosen so that telling the emotions apart
is neither trivial nor hopeless.
"""

import itertools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.signal import lfilter, sosfilt

from ser import audio, corpus
from ser.run import parallel

RATE = 48_000  # Hz, as RAVDESS


class Manner(NamedTuple):
    """A way of speaking, in a phonetician's units."""

    pitch: float  # mean, semitones above the voice's habitual pitch
    range: float  # of the accents, semitones from valley to peak
    glide: float  # of the last third of the statement, semitones: + rises, - falls
    tempo: float  # syllables per second, % above neutral
    loudness: float  # level of the whole statement, dB above neutral
    tilt: float  # of the glottal source, dB lost at 3 kHz: small is tense, large is lax and dull
    jitter: float  # mean deviation of a cycle's length from that of the pitch, %
    breath: float  # level of aspiration noise, dB relative to the glottal source


MANNERS = {  #           pitch range glide tempo loud. tilt jitter breath
    "neutral": Manner(    0.0,  4.0, -2.0,    0,  0.0, 11.0,  0.6, -30.0),
    # Tenderness: low, slow, soft, dull, regular.
    "calm": Manner(      -1.0,  3.0, -1.0,  -12, -7.0, 17.0,  0.2, -24.0),
    # High, wide, fast, fairly loud, very regular.
    "happy": Manner(      5.0, 11.0,  2.0,   12,  5.0,  7.0,  0.4, -32.0),
    # Low, narrow, falling, slow, soft, dull, irregular.
    "sad": Manner(       -2.5,  2.0, -5.0,  -28, -9.0, 20.0,  2.0, -14.0),
    # High, wide, fast, loud, bright, irregular.
    "angry": Manner(      5.0,  8.0, -1.0,   18, 12.0,  1.0,  1.4, -34.0),
    # Very high, narrow, fastest, soft, very irregular.
    "fearful": Manner(    8.0,  2.5,  1.0,   26, -2.0, 15.0,  3.0, -20.0),
    # Very low, slow, falling, grumbling.
    "disgust": Manner(   -4.0,  5.5, -5.0,  -22,  0.0,  6.0,  2.4, -27.0),
    # High, wide, with a steep rise at the end.
    "surprised": Manner(  7.0,  8.0,  9.0,    0,  4.0, 10.0,  0.6, -26.0),
}  # fmt: skip
# A clip lies a share of the way from neutral to its row, drawn from STRENGTH (some are underplayed,
# some overplayed), and strays from there by up to STRAY.
STRENGTH = (0.6, 1.15)
STRAY = Manner(           1.2,  1.2,  1.5,    7,  2.0,  2.5,  0.3,   2.5)  # fmt: skip
NEUTRAL_LEVEL = -33.0  # RMS of neutral speech, dB relative to full scale
ROOM_LEVEL = -78.0  # RMS of the noise of the room, which pauses consist of, likewise
SILENCE = 0.2  # share of a clip of mean length, half of it before the speech and half after
STEREO = 0.03  # share of the clips that have two identical channels, as a few of RAVDESS have


class Sound(NamedTuple):
    """A vowel or consonant."""

    formants: tuple[float, ...]  # Hz, in a vocal tract of 17.5 cm
    voicing: float = 1.0  # share of the excitation that is glottal; the rest is noise
    level: float = 0.0  # dB relative to a vowel
    length: float = 1.0  # relative to a short vowel


# Vowels: men of Peterson and Barney (1952), J. Acoust. Soc. Am. 24: 175-184. Consonants: rough
# averages of textbook values.
SOUNDS = {
    "i": Sound((390, 1990, 2550)),
    "a": Sound((730, 1090, 2440), length=1.4),
    "o": Sound((570, 840, 2410), length=1.4),
    "u": Sound((640, 1190, 2390), length=0.7),
    "r": Sound((490, 1350, 1690), level=-3.0),
    "n": Sound((280, 1300, 2700), level=-9.0, length=0.8),
    "b": Sound((200, 900, 2300), level=-22.0, length=0.7),
    "d": Sound((200, 1700, 2600), level=-22.0, length=0.7),
    "z": Sound((4500, 5800, 7200), voicing=0.3, level=-13.0),
    "s": Sound((4500, 5800, 7200), voicing=0.0, level=-12.0, length=1.2),
    "t": Sound((3200, 4400, 5600), voicing=0.0, level=-16.0, length=0.5),
    "k": Sound((1600, 2600, 3600), voicing=0.0, level=-16.0, length=0.5),
}
# Kids are talking by the door, dogs are sitting by the door.
STATEMENTS = ("kidzartokinbaidudor", "dodzarsitinbaidudor")
UPPER_FORMANTS = np.arange(3500, 8000, 1000)  # Hz: a uniform tube of 17.5 cm, closed at one end
# Share of a statement by which neighbouring sounds reach into each other: less than half of the
# shortest sound.
JOINT = 0.012
RINGING = 0.04  # seconds in which a resonator's ringing dies away
OPEN_QUOTIENT = 0.6  # share of a cycle in which the glottis is open


class Voice(NamedTuple):
    """A speaker."""

    pitch: float  # habitual, Hz
    tract: float  # length of the vocal tract, cm
    tempo: float  # relative to the average speaker
    level: float  # dB relative to the average speaker


def voice(actor: int) -> Voice:
    """The voice of an actor, 1 to 24: odd numbers are men, even are women, no two alike.

    Men speak at 95 to 143 Hz through 16.7 to 18.5 cm, women at 170 to 255 Hz through 14 to 15.8 cm.
    """
    # Multiples of an irrational number, modulo 1, spread evenly.
    pitch, tract, tempo, level = actor * np.sqrt([2, 3, 5, 7]) % 1
    lowest, longest = (95, 18.5) if actor % 2 else (170, 15.8)
    return Voice(lowest * 1.5**pitch, longest - 1.8 * tract, 0.88 + 0.24 * tempo, 4 * level - 2)


# Relative time that a statement takes, on average: what makes a clip of mean length as long as
# asked for.
MEAN_SLOWNESS = float(
    np.mean(
        [
            1 / (voice(a).tempo * (1 + m.tempo / 100))
            for a, m in itertools.product(corpus.ACTORS, MANNERS.values())
        ]
    )
)


def glottis(f0: np.ndarray, manner: Manner, rng: np.random.Generator) -> np.ndarray:
    """Derivative of the flow through the glottis, RMS 1, shape (n,).

    Args:
        f0: pitch, Hz, shape (n,).

    The KLGLOTT88 pulse and the one-pole low-pass that tilts its spectrum: Klatt and Klatt (1990),
    J. Acoust. Soc. Am. 87: 820-857.
    """
    cycle = (np.cumsum(f0) / RATE).astype(int)
    f0 = f0 * (1 + manner.jitter / 100 * rng.uniform(-2, 2, cycle[-1] + 1)[cycle])
    opening = np.cumsum(f0) / RATE % 1 / OPEN_QUOTIENT
    pulses = np.where(opening < 1, 2 * opening - 3 * opening**2, 0)
    loss, cosine = 10 ** (manner.tilt / 10), np.cos(2 * np.pi * 3000 / RATE)
    pole = (loss - cosine - np.sqrt((loss - cosine) ** 2 - (loss - 1) ** 2)) / (loss - 1)
    return unit(lfilter([1 - pole], [1, -pole], pulses))


def resonators(formants: np.ndarray) -> np.ndarray:
    """Second-order sections, shape (n, 6), for n formants in Hz.

    The cascade of Klatt (1980), J. Acoust. Soc. Am. 67: 971-995.
    """
    # Bandwidths of 60 Hz at 500 Hz, 180 Hz at 3500 Hz.
    radius = np.exp(-np.pi * (40 + 0.04 * formants) / RATE)
    a1, a2 = -2 * radius * np.cos(2 * np.pi * formants / RATE), radius**2
    zero = np.zeros_like(a1)
    return np.stack([1 + a1 + a2, zero, zero, zero + 1, a1, a2], axis=1)


def speak(
    statement: str,
    speaker: Voice,
    manner: Manner,
    seconds: float,
    silence: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Samples of a spoken statement, shape (n,), full scale 1.

    Args:
        statement: keys of `SOUNDS`.
        seconds: length of the statement.
        silence: seconds before it, and after it.
    """
    time = np.arange(round((seconds + 2 * silence) * RATE)) / RATE - silence
    progress = np.clip(time / seconds, 0, 1)
    accents = manner.range / 2 * np.sin(2 * np.pi * (2.5 * progress + rng.uniform()))
    semitones = manner.pitch + accents + manner.glide * np.clip(3 * progress - 2, 0, 1)
    voiced = glottis(speaker.pitch * 2 ** (semitones / 12), manner, rng)
    noise = rng.standard_normal(time.size)
    voiced += 10 ** (manner.breath / 20) * noise

    sounds = [SOUNDS[key] for key in statement]
    borders = np.cumsum([0, *(sound.length for sound in sounds)])
    borders *= seconds / borders[-1]
    joint = JOINT * seconds
    speech = np.zeros_like(time)
    for sound, start, end in zip(sounds, borders[:-1], borders[1:], strict=True):
        part = slice(*np.searchsorted(time, [start - joint, end + joint + RINGING]))
        window = np.interp(
            time[part], [start - joint, start + joint, end - joint, end + joint], [0, 1, 1, 0]
        )
        formants = (
            np.array([*sound.formants, *UPPER_FORMANTS[sound.formants[-1] < UPPER_FORMANTS]])
            * 17.5
            / speaker.tract
        )
        excitation = sound.voicing * voiced[part] + (1 - sound.voicing) * noise[part]
        speech[part] += 10 ** (sound.level / 20) * unit(
            sosfilt(resonators(formants), window * excitation)
        )
    level = NEUTRAL_LEVEL + manner.loudness + speaker.level
    return 10 ** (level / 20) * unit(speech) + 10 ** (ROOM_LEVEL / 20) * rng.standard_normal(
        time.size
    )


def unit(samples: np.ndarray) -> np.ndarray:
    """Scale to an RMS of 1."""
    return samples / np.sqrt(np.mean(samples**2))


def direct(emotion: str, rng: np.random.Generator) -> Manner:
    """Draw how a clip renders an emotion: near the line from neutral to the emotion's row."""
    neutral, full = np.array(MANNERS["neutral"]), np.array(MANNERS[emotion])
    manner = Manner(
        *neutral
        + rng.uniform(*STRENGTH) * (full - neutral)
        + rng.uniform(-1, 1, len(STRAY)) * STRAY
    )
    return manner._replace(tilt=max(manner.tilt, 0.1))  # a low-pass filter can't brighten


def clip(job: tuple[Path, float]) -> None:
    """Synthesise the clip that a file name asks for, seeded by that name.

    Args:
        job: its path, and the mean length of the corpus's clips in seconds.
    """
    path, seconds = job
    wanted: dict[str, Any] = corpus.describe(path.stem)
    rng = np.random.default_rng([int(field) for field in path.stem.split("-")])
    speaker, manner = voice(wanted["actor"]), direct(wanted["emotion"], rng)
    length = seconds * (1 - SILENCE) / (speaker.tempo * (1 + manner.tempo / 100)) / MEAN_SLOWNESS
    silence = seconds * SILENCE / 2 * rng.uniform(0.7, 1.3)
    samples = speak(STATEMENTS[wanted["statement"] - 1], speaker, manner, length, silence, rng)
    samples = np.rint(samples * 2**15).astype(np.int16)
    audio.write(
        path, np.stack([samples, samples], axis=1) if rng.uniform() < STEREO else samples, RATE
    )


def write(folder: Path, takes: int, seconds: float) -> None:
    """Write the corpus: Actor_XX/03-01-EE-01-SS-RR-AA.wav, 48 kHz PCM_16, mono or stereo.

    24 actors, 8 emotions, and `takes` clips of each actor and emotion. The same bytes for the same
    arguments, whatever the number of cores.

    Args:
        folder: made if it is not there; must not hold a corpus yet.
        takes: clips per actor and emotion, 1 to 4: statements 1 and 2, then both repeated.
        seconds: mean length of a clip.
    """
    jobs = []
    for actor in corpus.ACTORS:
        home = folder / f"Actor_{actor:02}"
        home.mkdir(parents=True)
        for emotion in range(1, 1 + len(corpus.EMOTIONS)):
            for repetition, statement in ((1, 1), (1, 2), (2, 1), (2, 2))[:takes]:
                name = f"03-01-{emotion:02}-01-{statement:02}-{repetition:02}-{actor:02}.wav"
                jobs.append((home / name, seconds))
    parallel.over(clip, jobs, "synthesise")
