"""dvc.lock is true: the committed results are those of the code and the params beside them."""

import json

import pytest
from ruamel.yaml import YAML

NOT_HERE = ("deleted", "not in cache")  # as DVC calls it
SVM = {"download", "resample", "split", "mfcc", "svm_train", "evaluate@svm"}


@pytest.mark.slow
def test_dvc_lock_describes_the_code_and_params_beside_it(project):
    """By DVC's own judgement, of all stages that have run. Data that is not here is no change.

    `dvc repro` makes it true again; where only the code's shape has changed, `dvc commit STAGE`.
    """
    locked = set(YAML(typ="safe").load((project.path / "dvc.lock").read_text())["stages"])
    assert locked >= SVM
    changed = []
    for stage, reasons in json.loads(project.run("dvc", "status", "--json").stdout).items():
        for reason in reasons if stage in locked else []:
            changes = reason if isinstance(reason, dict) else {reason: {}}
            for kind, files in changes.items():
                changed += [
                    (stage, kind, file, what)
                    for file, what in files.items() or [("", "")]
                    if not (file.startswith("data/") and what in NOT_HERE)
                ]
    assert not changed
