"""The model card of a fine-tuned model: trained on what, how good on whom, under which licence, and
not for what."""

import pandas as pd

from ser import scoring
from ser.corpus import EMOTIONS
from ser.params import Params

DATA = {
    "ravdess": """\
RAVDESS speech (Livingstone and Russo 2018, PLoS ONE 13(5): e0196391), CC BY-NC-SA 4.0: not for
commercial use. Whether a model trained on it may go further than the data is for you to clear.""",
    "demo": """\
a SYNTHETIC demo corpus, made by a program. The figures say nothing about human speech.""",
}
TRIM = """\
import librosa

samples, _ = librosa.effects.trim(samples, top_db={:g})  # as in training
"""
TEXT = """\
---
license: {licence}
library_name: transformers
pipeline_tag: audio-classification
language: en
tags: [speech-emotion-recognition, audio-classification]
---

# Emotion in speech, fold {fold}

Tells apart {emotions} in one utterance of English speech, 16 kHz mono.

```python
from transformers import pipeline
{trim}
pipeline("audio-classification", "FOLDER")({{"raw": samples, "sampling_rate": 16000}})
```

**Training.** {protocol}. Actors {trained}.
**Data.** {data}
**Figures.** On the {clips} clips of actors {held_out}, none of whom it was trained on:
accuracy {accuracy}, unweighted average recall {uar}; one of eight by chance is 12.5 %.
In brackets: 95 % bounds, a t interval over these actors, who are few.

{recalls}

**Limits.** Acted emotions, two sentences, North American English, few voices. What an actor shows
is not what a person feels: not for judging people, and untested on children, other languages,
noise, telephones and spontaneous speech. Clips of other length or level than the corpus's may be
misjudged.
"""


def write(predictions: pd.DataFrame, actors: list[int], protocol: str, settings: Params) -> str:
    """The card, as Markdown.

    Args:
        predictions: of the held-out clips, with the columns of predictions.csv.
        actors: that the model was trained on.
        protocol: what was trained, in one line.
    """
    figures, emotions = scoring.bounded(predictions), scoring.by_emotion(predictions)
    rows = [f"| {row.emotion} | {row.recall:.0%} |" for row in emotions.itertuples()]
    return TEXT.format(
        licence="cc-by-nc-sa-4.0" if settings.corpus == "ravdess" else "other",
        fold=predictions["fold"].iloc[0],
        emotions=", ".join(EMOTIONS),
        trim=TRIM.format(settings.trim_db) if settings.trim_db else "",
        protocol=protocol,
        trained=", ".join(map(str, actors)),
        data=DATA[settings.corpus],
        clips=len(predictions),
        held_out=", ".join(map(str, sorted(set(predictions["actor"])))),
        accuracy=scoring.as_text(figures, "accuracy", "{:.1f} %"),
        uar=scoring.as_text(figures, "uar", "{:.1f} %"),
        recalls="\n".join(["| emotion | recall |", "|---|---|", *rows]),
    )
