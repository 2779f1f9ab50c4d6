"""Published corpora whose file names say who speaks and with what emotion."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ser.corpora import ravdess
from ser.run.errors import UserError

DEMOGRAPHICS = "VideoDemographics.csv"  # published beside CREMA-D


@dataclass(frozen=True)
class Corpus:
    """A published corpus.

    Attributes:
        title: with its licence and source.
        clips: how many were published.
        pattern: of a file's path, from the start of a folder's or the file's name on.
        facts: label, speaker and further columns from the pattern's groups.
    """

    title: str
    clips: int
    pattern: str
    facts: Callable[[dict[str, str]], dict[str, object]]


def emodb(groups: dict[str, str]) -> dict[str, object]:
    """Burkhardt, Paeschke, Rolfes, Sendlmeier and Weiss (2005), Interspeech, "A database of German
    emotional speech"."""
    labels = {
        "W": "anger", "L": "boredom", "E": "disgust", "A": "fear", "F": "happiness",
        "T": "sadness", "N": "neutral",
    }  # fmt: skip
    men = ("03", "10", "11", "12", "15")
    return {
        "label": labels[groups["emotion"]],
        "speaker": groups["speaker"],
        "gender": "male" if groups["speaker"] in men else "female",
        "sentence": groups["text"],
    }


def crema_d(groups: dict[str, str]) -> dict[str, object]:
    """Cao, Cooper, Keutmann, Gur, Nenkova and Verma (2014), IEEE Trans. Affective Comput. 5(4)."""
    labels = {
        "ANG": "anger", "DIS": "disgust", "FEA": "fear", "HAP": "happiness", "NEU": "neutral",
        "SAD": "sadness",
    }  # fmt: skip
    levels = {"LO": "low", "MD": "medium", "HI": "high", "XX": "unspecified", "X": "unspecified"}
    return {
        "label": labels[groups["emotion"]],
        "speaker": groups["speaker"],
        "sentence": groups["text"],
        "intensity": levels[groups["level"]],
    }


def tess(groups: dict[str, str]) -> dict[str, object]:
    """Pichora-Fuller and Dupuis (2020), Borealis, "Toronto emotional speech set"."""
    labels = {"angry": "anger", "happy": "happiness", "sad": "sadness", "ps": "surprise"}
    emotion, older = groups["emotion"].lower(), groups["speaker"] != "YAF"  # one says OA
    return {
        "label": labels.get(emotion, emotion),
        "speaker": "OAF" if older else "YAF",
        "gender": "female",
        "age": "older" if older else "younger",
    }


def savee(groups: dict[str, str]) -> dict[str, object]:
    """Haq and Jackson (2009), AVSP, "Speaker-dependent audio-visual emotion recognition"."""
    labels = {
        "a": "anger", "d": "disgust", "f": "fear", "h": "happiness", "n": "neutral",
        "sa": "sadness", "su": "surprise",
    }  # fmt: skip
    return {
        "label": labels[groups["emotion"]],
        "speaker": groups["speaker"],
        "gender": "male",
        "sentence": groups["emotion"] + groups["number"],
    }


def of_ravdess(groups: dict[str, str]) -> dict[str, object]:
    """Livingstone and Russo (2018), PLoS ONE 13(5): e0196391."""
    facts = ravdess.describe(groups["name"])
    return {name: value for name, value in facts.items() if name != "clip"}


CORPORA = {
    "emodb": Corpus(
        "EmoDB (Berlin), German; CC0-1.0 as audEERING publish it",
        535,
        r"(?P<speaker>0[389]|1[0-6])(?P<text>[ab]\d\d)(?P<emotion>[WLEAFTN])[a-z]\.\w+",
        emodb,
    ),
    "crema-d": Corpus(
        "CREMA-D, English; Open Database License",
        7442,
        r"(?P<speaker>10\d\d)_(?P<text>[A-Z]{3})_(?P<emotion>ANG|DIS|FEA|HAP|NEU|SAD)"
        r"_(?P<level>LO|MD|HI|XX?)\.\w+",
        crema_d,
    ),
    "tess": Corpus(
        "TESS (Toronto), English, two women; CC BY-NC-ND 4.0",
        2800,
        r"(?P<speaker>OAF|YAF|OA)_(?P<word>\w+)_"
        r"(?P<emotion>(?i:angry|disgust|fear|happy|neutral|ps|sad))\.\w+",
        tess,
    ),
    "savee": Corpus(
        "SAVEE (Surrey), English, four men; free for research, asked for from its authors",
        480,
        r"(?P<speaker>DC|JE|JK|KL)[_/](?P<emotion>sa|su|a|d|f|h|n)(?P<number>\d\d)\.\w+",
        savee,
    ),
    "ravdess": Corpus(
        "RAVDESS speech, English; CC BY-NC-SA 4.0",
        1440,
        r"(?P<name>03-01-0[1-8]-0[12]-0[12]-0[12]-\d\d)\.\w+",
        of_ravdess,
    ),
}


def table(corpus: Corpus, folder: Path) -> pd.DataFrame:
    """The rows of metadata.csv for the recordings in a folder, sorted by file name; a recording
    that lies there twice, under another folder, stands there once.

    Raises:
        UserError: there are none.
    """
    pattern = re.compile(rf"(?:^|/){corpus.pattern}$")
    rows: dict[str, dict[str, object]] = {}
    for path in sorted(folder.rglob("*")):
        file = path.relative_to(folder).as_posix()
        if (match := pattern.search(file)) and path.is_file():
            row = {"file_name": file, **corpus.facts(match.groupdict())}
            rows.setdefault(match[0].strip("/"), row)
    if not rows:
        raise UserError(f"{folder}: no recording whose name is one of {corpus.title}")
    found = pd.DataFrame(rows.values())
    genders = folder / DEMOGRAPHICS
    if corpus.facts is crema_d and genders.exists():
        people = pd.read_csv(genders, dtype=str).set_index("ActorID")["Sex"].str.lower()
        found["gender"] = found["speaker"].map(people)
    return found
