"""The folds of the fine-tuning as one model: those that params.yaml names, and no other."""

import json

import made_up
import workplace
from dvc.utils.hydra import apply_overrides


def test_folds_that_are_named_no_more_are_removed(tmp_path):
    """DVC leaves their outputs, and `predict` averages all models that there are."""
    folder = made_up.make(tmp_path)
    apply_overrides(folder / "params.yaml", ["folds=[0,2]"])
    for fold, rows in made_up.predictions(0.7, 0).groupby("fold"):
        (folder / f"data/models/w2v/fold_{fold}").mkdir(parents=True)
        place = folder / f"data/w2v/fold_{fold}"
        place.mkdir(parents=True)
        rows.to_csv(place / "predictions.csv", index=False)
        (place / "protocol.txt").write_text("made up\n")
        (place / "run.json").write_text(json.dumps({"device": "abacus"}))
        for name in ("curve", "epochs"):
            (place / f"{name}.csv").write_text("epoch,loss\n1,2.0\n")
    workplace.run(folder, "gather")
    for place in ("data/w2v", "data/models/w2v"):
        assert {path.name for path in (folder / place).iterdir()} == {"fold_0", "fold_2"}
    gathered = (folder / "data/predictions/w2v/predictions.csv").read_text()
    assert gathered.count("\n") == 1 + 64
