"""The corpus: names of labels, and the facts in a RAVDESS file name."""

import re
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from ser.run.errors import UserError

# In the order of RAVDESS's codes 01 to 08. Labels, probabilities and confusion matrices all use
# this order.
EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
ACTORS = range(1, 25)
CLIPS = 1440

# What stands beside figures, by the value of `corpus` in params.yaml.
TITLES = {"ravdess": "RAVDESS speech", "demo": "SYNTHETIC demo corpus, not RAVDESS"}

# Modality (03 = audio only), channel (01 = speech), label, intensity, statement, repetition and
# speaker.
NAME = re.compile(r"03-01-(0[1-8])-(0[12])-(0[12])-(0[12])-(0[1-9]|1\d|2[0-4])")


def describe(clip: str) -> dict[str, str | int]:
    """The facts in the name of a clip, such as `03-01-05-02-01-01-12`.

    Args:
        clip: a RAVDESS file name without folder and ending.

    Returns:
        clip; speaker (1 to 24); gender (male, female); label (one of `EMOTIONS`); intensity
        (normal, strong); statement and repetition (1 or 2).

    Raises:
        UserError: the name is not that of an audio-only speech clip, or claims a strong neutral,
            which RAVDESS has not.

    Source: Livingstone and Russo (2018), PLoS ONE 13(5): e0196391, "Filename convention".
    """
    match = NAME.fullmatch(clip)
    if not match:
        raise UserError(
            f"{clip}: not the name of a RAVDESS speech clip; expected 03-01-EE-II-SS-RR-AA: "
            "label 01-08, intensity, statement, repetition 01-02, speaker 01-24"
        )
    label, intensity, statement, repetition, speaker = map(int, match.groups())
    if label == 1 and intensity == 2:
        raise UserError(f"{clip}: neutral has no strong intensity; expected 03-01-01-01-…")
    return {
        "clip": clip,
        "speaker": speaker,
        "gender": "male" if speaker % 2 else "female",
        "label": EMOTIONS[label - 1],
        "intensity": ("normal", "strong")[intensity - 1],
        "statement": statement,
        "repetition": repetition,
    }


def files(folder: str | Path) -> list[Path]:
    """The WAV files in a folder and in those within it, sorted.

    Raises:
        UserError: there are none.
    """
    paths = sorted(Path(folder).rglob("*.wav"))
    if not paths:
        raise UserError(f"{folder}: holds no WAV files; run `dvc repro` in the project's folder")
    return paths


def table(paths: Iterable[str | Path]) -> pd.DataFrame:
    """One row per clip, sorted by clip, with the columns of `describe`."""
    return pd.DataFrame([describe(Path(path).stem) for path in paths]).sort_values(
        "clip", ignore_index=True
    )
