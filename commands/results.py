"""Print the figures of all models that have been scored, as a Markdown table with their protocol.

    python -m commands.results

The last thing that `make repro` prints.

Reads: metrics/MODEL.json, MODEL_folds.csv and MODEL_protocol.txt of each scored model;
       metrics/compare.json, if it is there
"""

from pathlib import Path

from ser.report import summary
from ser.run import errors


@errors.one_line
def main() -> None:
    """Print the table of the workspace."""
    print("\n".join(summary.lines(Path("metrics"))))


if __name__ == "__main__":
    main()
