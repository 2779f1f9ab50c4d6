"""The figures of all models that have been scored, as a Markdown table with their protocol.

Reads: metrics/svm.json, metrics/w2v.json, metrics/compare.json, whichever are there
"""

import json
from pathlib import Path

NAMES = {"svm": "MFCC + SVM", "w2v": "wav2vec 2.0"}


def lines(folder: Path) -> list[str]:
    """The table, and a line on each model's protocol, from the JSON files in `folder`."""
    found = {
        name: json.loads((folder / f"{name}.json").read_text())
        for name in NAMES
        if (folder / f"{name}.json").exists()
    }
    rows = ["| model | clips | accuracy | UAR | macro-F1 |", "|---|---|---|---|---|"]
    for name, figures in found.items():
        accuracy, uar = (
            f"{figures[rate]:.1%} [{figures[f'{rate}_low']:.1%}, {figures[f'{rate}_high']:.1%}]"
            for rate in ("accuracy", "uar")
        )
        rows.append(
            f"| {NAMES[name]} | {figures['clips']} | {accuracy} | {uar} | {figures['macro_f1']:.1%} |"
        )
    rows += ["", "In brackets: 95 % bounds, a bootstrap over actors. Chance is 12.5 %."]
    rows += [f"{NAMES[name]}: {figures['protocol']}." for name, figures in found.items()]
    if (folder / "compare.json").exists():
        pair = json.loads((folder / "compare.json").read_text())
        difference, low, high = (
            100 * pair[f"accuracy_difference{bound}"] for bound in ("", "_low", "_high")
        )
        rows.append(
            f"Difference: {difference:+.1f} points of accuracy [{low:+.1f}, {high:+.1f}], paired over actors."
        )
    return rows
