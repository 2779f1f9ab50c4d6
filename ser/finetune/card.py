"""The model card of a fine-tuned model: training data, figures, licence and limits."""

import pandas as pd

from ser import corpus as corpora
from ser import scoring, tables

LICENCES = {"ravdess": "cc-by-nc-sa-4.0"}
SOURCES = {
    "ravdess": """\
Livingstone and Russo (2018), PLoS ONE 13(5): e0196391, CC BY-NC-SA 4.0: no commercial use.
Whether a model trained on it may go further than the data is for you to clear.""",
    "demo": """\
It is made by a program. The figures say nothing about human speech.""",
}
OWN_SOURCE = """\
A folder of recordings. Whether a model trained on them may be passed on depends on their licence,
and on what those who speak in them have agreed to."""
LIMITS = {
    "ravdess": "Acted emotions, two sentences, North American English, few voices.",
    "demo": "Synthetic voices.",
}
OWN_LIMITS = "Few voices, in the circumstances of these recordings."
TRIM = """
samples, _ = librosa.effects.trim(samples, top_db={:g})  # as in training"""
PIPELINE = """\
from transformers import pipeline

pipeline("audio-classification", "FOLDER")({"raw": samples, "sampling_rate": 16000})"""
OWN = """\
import torch
from ser.finetune import trained  # of the project that made this model

encoder = trained.load(Path("FOLDER"))
inputs = torch.from_numpy(encoder.prepare(samples))[None]
encoder(inputs, torch.tensor([inputs.shape[1]])).softmax(-1)  # in the order above"""
NOT_PIPELINE = """
`python -m commands.predict --model FOLDER CLIP` does the same. transformers' pipeline does not:
{}.
"""
TEXT = """\
---
license: {licence}
library_name: transformers
pipeline_tag: audio-classification
tags: [speech-emotion-recognition, audio-classification]
---

# Emotion in speech, fold {fold}

Tells apart {labels} in one utterance.

```python
{imports}
samples, _ = librosa.load("CLIP", sr=16000){trim}
{call}
```
{note}
**Training.** {protocol}. Speakers {trained}.

**Data.** {corpus}. {source}

**Figures.** On the {clips} clips of speakers {held_out}, none of whom it was trained on:
accuracy {accuracy}, unweighted average recall {uar}; chance is {chance:.1%}, always the most
frequent label {majority:.1%}.
In brackets: 95 % bounds, a t interval over these speakers, who are few.

| label | clips | recall |
|---|---|---|
{recalls}

**Limits.** {limits} What a speaker shows is not what a person feels: not for judging people, and
untested on other languages, noise, telephones and whatever else the corpus has not. Clips of other
length or level than the corpus's may be misjudged.
"""


def write(
    predictions: pd.DataFrame,
    speakers: list[int] | list[str],
    protocol: str,
    corpus: str,
    trim_db: float | None,
    not_pipeline: str | None,
) -> str:
    """The card, as Markdown.

    Args:
        predictions: of the held-out clips, with the columns of predictions.csv.
        speakers: that the model was trained on.
        protocol: what was trained, in one line.
        corpus: as in params.yaml.
        trim_db: silence is cut off both ends of a clip, dB under the peak; None: it is not.
        not_pipeline: why transformers' pipeline gives another answer; None if it gives the same.
    """
    figures = scoring.bounded(predictions)
    recalls = [
        f"| {row.label} | {row.clips} | {row.recall:.0%} |"
        for row in scoring.by_label(predictions).itertuples()
    ]
    return TEXT.format(
        licence=LICENCES.get(corpus, "other"),
        fold=predictions["fold"].iloc[0],
        labels=", ".join(tables.labels(predictions)),
        imports="from pathlib import Path\n\nimport librosa" if not_pipeline else "import librosa",
        trim=TRIM.format(trim_db) if trim_db else "",
        call=OWN if not_pipeline else PIPELINE,
        note=NOT_PIPELINE.format(not_pipeline) if not_pipeline else "",
        protocol=protocol,
        trained=", ".join(map(str, speakers)),
        corpus=corpora.title(corpus),
        source=SOURCES.get(corpus, OWN_SOURCE),
        limits=LIMITS.get(corpus, OWN_LIMITS),
        **scoring.baseline(predictions),
        clips=len(predictions),
        held_out=", ".join(map(str, sorted(set(predictions["speaker"])))),
        accuracy=scoring.as_text(figures, "accuracy", "{:.1f} %"),
        uar=scoring.as_text(figures, "uar", "{:.1f} %"),
        recalls="\n".join(recalls),
    )
