"""The model card: its figures are those of the predictions, and it says whose data they are."""

import pytest
from test_scoring import predictions

from ser import scoring
from ser.finetune import card


def test_figures_have_the_bounds_that_all_figures_have():
    table = predictions(0.6, speakers=4)
    figures = scoring.bounded(table)
    text = card.write(table, [5, 6, 7, 8], "trained so", "ravdess", None, None)
    for name in ("accuracy", "uar"):
        values = [100 * figures[key] for key in (name, f"{name}_low", f"{name}_high")]
        assert "{:.1f} % [{:.1f} %, {:.1f} %]".format(*values) in text
    assert "240 clips of speakers 1, 2, 3, 4" in text
    assert "Speakers 5, 6, 7, 8" in text


def test_a_single_speaker_has_no_bounds():
    table = predictions(0.6, speakers=1)
    text = card.write(table, [2], "trained so", "ravdess", None, None)
    assert f"accuracy {100 * scoring.bounded(table)['accuracy']:.1f} %, " in text


@pytest.mark.parametrize(
    ("corpus", "licence", "data"),
    [("ravdess", "cc-by-nc-sa-4.0", "CC BY-NC-SA 4.0"), ("demo", "other", "SYNTHETIC")],
)
def test_data_and_licence(corpus, licence, data):
    text = card.write(predictions(0.6, speakers=4), [5], "trained so", corpus, None, None)
    assert text.startswith(f"---\nlicense: {licence}\n")
    assert data in text.partition("**Data.**")[2].partition("**Figures.**")[0]
