"""Open a page in the browser to record one's voice, or drop a file, and see each model's answer.

    python -m commands.app [--model NAME|FOLDER ...] [--host ADDRESS]

The page has the waveform and a player, each model's probabilities as bars, and says what the models
know. It needs Gradio (`make app` installs it) and no network, is served to this machine alone
unless --host says otherwise, and ends with Ctrl-C. Nothing is kept: a recording is deleted within
an hour, all of them when the page ends.

Reads:  the models in data/models, or those named
"""

import argparse
import os
import socket
import tempfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from ser import audio, corpus
from ser.run import errors
from ser.trained import models

if TYPE_CHECKING:
    import gradio

LONGEST = 60  # seconds, as commands.predict
KEPT = 3600  # seconds for which a recording can be listened to again

# What else the page says of a corpus, by the value of `corpus` in params.yaml.
KNOWN = {
    "ravdess": ": two English sentences by 24 actors of North America",
    "demo": ": what they answer says nothing about human speech",
}


def knowledge(trained: dict[str, models.Trained]) -> Iterator[str]:
    """A line for all models of the same corpus and labels: what they know."""
    alike: dict[tuple, list[str]] = {}
    for name, model in trained.items():
        alike.setdefault((model.corpus, *model.labels), []).append(name)
    for (name, *labels), group in alike.items():
        source = f"{corpus.title(name)}{KNOWN.get(name, '')}" if name else "an unnamed corpus"
        yield (
            f"{', '.join(group)}: trained on {source}. An answer is always one of "
            f"{', '.join(labels)}."
        )


def answers(
    trained: dict[str, models.Trained], path: str
) -> tuple[list[str], list[dict[str, float] | None]]:
    """The models' answers for a recording.

    Returns:
        lines that say what could not be read of it, or why there is no answer; for each model a
        probability per label, or None.
    """
    clip = Path(path).name
    lines: list[str] = []
    found: list[dict[str, float] | None] = []
    try:
        samples, notes = audio.decode(path, limit=LONGEST)
    except errors.UserError as error:
        return [str(error).replace(path, clip)], [None for _ in trained]
    lines += [f"{clip}: {note}" for note in notes]
    for name, model in trained.items():
        try:
            probabilities = model.probabilities(samples / np.float32(2**15), clip)
            if not np.isfinite(probabilities).all():
                raise errors.UserError(f"{clip}: the model's answer is not a number")
        except errors.UserError as error:
            lines.append(f"{name}: {error}")
            found.append(None)
        else:
            found.append(dict(zip(model.labels, probabilities.tolist(), strict=True)))
    return lines, found


def paragraphs(lines: Iterable[str]) -> str:
    """Lines as HTML."""
    return Markup("").join(Markup("<p>{}</p>").format(line) for line in lines)


def build(trained: dict[str, models.Trained]) -> "gradio.Blocks":
    """The page on which these models answer, by their names."""
    import gradio

    with gradio.Blocks(title="Your own voice", delete_cache=(60, KEPT)) as page:
        gradio.HTML(Markup("<h1>Your own voice</h1>") + paragraphs(knowledge(trained)))
        recording = gradio.Audio(
            sources=["upload", "microphone"],
            type="filepath",
            label="Drop a file, or take the microphone below",
            buttons=[],
        )
        remarks = gradio.HTML(elem_id="remarks")
        with gradio.Row():
            bars = [gradio.Label(label=name) for name in trained]

        def answer(path: str | None) -> list:
            """What stands on the page for a recording; None: it was taken away."""
            lines, found = answers(trained, path) if path else ([], [None] * len(bars))
            return [paragraphs(lines), *found]

        recording.change(answer, recording, [remarks, *bars], api_visibility="private")
    return page


@errors.one_line
def main() -> None:
    """Load the models, serve the page until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--model", nargs="+", metavar="NAME", help="names in data/models, or folders; default: all"
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to serve at (default: %(default)s, this machine alone); at 0.0.0.0 whoever "
        "reaches this machine can use the page",
    )
    options = parser.parse_args()
    stored = Path("data/models")
    names = options.model or sorted(path.name for path in stored.glob("*/"))
    if not names:
        raise errors.UserError(f"{stored}: no model there; `dvc repro` makes them")
    try:
        socket.create_server((options.host, 0)).close()
    except OSError as error:
        raise errors.UserError(f"--host {options.host}: {error.strerror}") from None
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False"}
        try:
            import gradio
        except ModuleNotFoundError as error:
            raise errors.UserError(
                f"the page needs {error.name}, which is not installed: `make app`, or `pip install "
                "--no-deps --requirement requirements-app.txt`"
            ) from None
        page = build({name: models.load(name) for name in names})
        # The system's fonts: the theme's own come from the network.
        theme = gradio.themes.Default(font="system-ui", font_mono="monospace")
        _, address, _ = page.launch(
            server_name=options.host,
            share=False,
            theme=theme,
            footer_links=[],
            run_history=False,  # nor does the browser keep any
            ssr_mode=False,
            prevent_thread_lock=True,
            quiet=True,
        )
        try:
            print(f"{address} has the page; Ctrl-C ends it", flush=True)
            threading.Event().wait()
        finally:
            page.close(verbose=False)


if __name__ == "__main__":
    main()
