"""Open a page in the browser to record one's voice, or drop a file, and see each model's answer.

    python -m commands.app [--model NAME|FOLDER ...] [--host ADDRESS]

The page has the waveform and a player, each model's probabilities as bars, those of a file of more
than a minute along time, and says what the models know. It needs Gradio (`make app` installs it)
and no network, is served to this machine alone unless --host says otherwise, and ends with Ctrl-C.
Nothing is kept: a recording is deleted within an hour, all of them when the page ends.

Reads:  the models in data/models, or those named
"""

import argparse
import os
import socket
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

from ser import audio, corpus
from ser.run import errors
from ser.trained import models, windows

if TYPE_CHECKING:
    import gradio
    from matplotlib.figure import Figure

KEPT = 3600  # seconds for which a recording can be listened to again
WINDOW, STEP = 4, 2  # seconds, of a recording that is too long to be answered as a whole

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


def loaded(names: list[str]) -> tuple[dict[str, models.Trained], list[str]]:
    """The models of these names, and a line on each that is broken, which stderr has, too.

    Raises:
        UserError: all are.
    """
    trained, failures = {}, []
    for name in names:
        try:
            trained[name] = models.load(name)
        except errors.UserError as error:
            failures.append(str(error))
    if not trained:
        raise errors.UserError("; ".join(failures))
    for failure in failures:
        print(f"app: {failure}", file=sys.stderr)
    return trained, failures


def answer(
    model: models.Trained, path: str
) -> tuple["dict[str, float] | Figure | None", list[str]]:
    """A model's answer on a recording: a probability per label, or, of more than a minute, their
    picture along time, as far as there are any; and lines on what could not be read, or why there
    is no answer."""
    found, notes = windows.hear(model, path)
    lines = [f"{path}: {note}" for note in notes]
    if not isinstance(found, errors.UserError):
        return dict(zip(model.labels, found.tolist(), strict=True)), lines
    if not isinstance(found, audio.LengthError):
        return None, [*lines, str(found)]
    long: list[windows.Answer] = []
    notes = [f"more than a minute, so in windows of {WINDOW} s, every {STEP} s"]
    try:
        long.extend(windows.answers(model, path, WINDOW, STEP, notes))
    except errors.UserError as error:
        lines = [str(error)]
    lines += [f"{path}: {note}" for note in notes]
    return windows.draw(long, model.labels, Path(path).name) if long else None, lines


def paragraphs(lines: Iterable[str]) -> str:
    """Lines as HTML, each once."""
    return Markup("").join(Markup("<p>{}</p>").format(line) for line in dict.fromkeys(lines))


def build(trained: dict[str, models.Trained], failures: list[str]) -> "gradio.Blocks":
    """The page on which these models answer, by their names, and which says what is wrong with
    others."""
    import gradio

    with gradio.Blocks(title="Your own voice", delete_cache=(60, KEPT)) as page:
        text = paragraphs([*knowledge(trained), *failures])
        gradio.HTML(Markup("<h1>Your own voice</h1>") + text)
        recording = gradio.Audio(
            sources=["upload", "microphone"],
            type="filepath",
            label="Drop a file, or take the microphone below",
            buttons=[],
        )
        remarks = gradio.HTML(elem_id="remarks")
        with gradio.Row():
            bars = [gradio.Label(label=name) for name in trained]
        plots = [gradio.Plot(label=name, visible=False) for name in trained]

        def show(path: str | None) -> Iterator[dict]:
            """What stands on the page for a recording, model by model; None: it was taken away."""
            shown: dict = {bar: gradio.Label(None, visible=True) for bar in bars}
            shown |= {plot: gradio.Plot(None, visible=False) for plot in plots} | {remarks: ""}
            yield shown
            lines: list[str] = []
            for bar, plot, model in zip(bars, plots, trained.values(), strict=True):
                if path is None:
                    break
                found, more = answer(model, path)
                if isinstance(found, dict):
                    shown[bar] = found
                elif found:
                    shown |= {
                        bar: gradio.Label(visible=False),
                        plot: gradio.Plot(found, visible=True),
                    }
                lines += [line.replace(path, Path(path).name) for line in more]
                yield shown | {remarks: paragraphs(lines)}

        recording.change(show, recording, [remarks, *bars, *plots], api_visibility="private")
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
        page = build(*loaded(names))
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
