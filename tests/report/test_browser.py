"""The page in a real browser, without a network: all that people do with it works."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import made_up
import pandas as pd
import pytest
from axe_playwright_python.sync_playwright import Axe
from conftest import CHROMIUM
from playwright.sync_api import Browser, Page, expect, sync_playwright
from ruamel.yaml import YAML
from test_page import write

from ser.corpus import EMOTIONS

pytestmark = [pytest.mark.slow, pytest.mark.browser]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with results and their page."""
    folder = made_up.make(tmp_path_factory.mktemp("results"))
    write(folder)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu", "--autoplay-policy=no-user-gesture-required"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


class Opened:
    """The page, opened, with its requests and complaints."""

    def __init__(self, browser: Browser, path: Path, hash: str = "", **options: object):
        self.page: Page = browser.new_page(
            **{"viewport": {"width": 1280, "height": 900}, **options}
        )
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(f"file://{path}{hash}")
        expect(self.page.locator("#count")).not_to_be_empty(timeout=60_000)

    @property
    def count(self) -> int:
        """The number of clips that the filter lets through, as the page says."""
        return int((self.page.text_content("#count") or "").split()[0])

    def choose(self, **values: str) -> None:
        for name, value in values.items():
            self.page.locator(f"#filter [name={name}]").select_option(value)

    def cells(self, column: int) -> list[str]:
        """The texts in a column of the rows shown."""
        return self.page.locator(f"#table tbody td:nth-child({column})").all_inner_texts()


@pytest.fixture
def opened(browser: Browser, results: Path) -> Opened:
    return Opened(browser, results / "report/index.html")


def predictions(results: Path, model: str) -> pd.DataFrame:
    table = pd.read_csv(results / f"data/predictions/{model}/predictions.csv")
    return table.assign(right=table["actual"] == table["predicted"])


def test_it_opens_without_a_request_or_a_complaint(opened, results):
    opened.page.locator("#table audio").first.scroll_into_view_if_needed()
    elsewhere = [url for url in opened.requests if not url.startswith(("blob:", "data:"))]
    assert elsewhere == [f"file://{results / 'report/index.html'}"]
    assert opened.complaints == []
    assert opened.count == 96
    assert opened.page.locator("#table audio").count() == 20
    assert opened.page.locator(".chart svg").count() == 4


def test_filters_let_their_clips_through(opened, results):
    svm, probe = predictions(results, "svm"), predictions(results, "probe")
    opened.choose(model="probe", verdict="wrong")
    assert opened.count == (~probe["right"]).sum() > 0
    opened.choose(emotion="sad")
    assert opened.count == (~probe["right"] & (probe["actual"] == "sad")).sum()
    opened.page.click("text=Show all")
    expect(opened.page.locator("#count")).to_contain_text("96 of 96")
    opened.page.check("[name=disagree]")
    assert opened.count == (svm["predicted"] != probe["predicted"]).sum() > 0
    opened.page.click("text=Show all")
    opened.page.fill("[name=from]", "60")
    sure = svm[list(EMOTIONS)]
    assert opened.count == pytest.approx((sure.max(axis=1) >= 0.6).sum(), abs=1)
    opened.page.click("text=Show all")
    opened.choose(gender="female", actor="12")
    assert opened.count == 8 and set(opened.cells(2)) == {"12"}
    opened.page.click("text=Show all")
    opened.page.fill("[name=search]", "fearful")
    assert opened.count == 12 and set(opened.cells(4)) == {"fearful"}
    assert opened.complaints == []


def test_order_by_a_column_and_by_confidence(opened):
    header = opened.page.locator("#table thead th").nth(1)
    header.click()
    expect(header).to_have_attribute("aria-sort", "ascending")
    assert set(opened.cells(2)[:8]) == {"1"}
    header.click()
    expect(header).to_have_attribute("aria-sort", "descending")
    assert set(opened.cells(2)[:8]) == {"12"}
    opened.choose(order="sure")
    shown = [int(text.split()[2]) for text in opened.cells(7)]
    assert shown == sorted(shown, reverse=True) and shown[0] > shown[-1]


def test_a_cell_leads_to_its_clips_and_a_link_to_the_same(opened, browser, results):
    cell = opened.page.locator(".confusion a[href*='model=probe']").nth(3)
    clips = int(cell.inner_text())
    cell.click()
    expect(opened.page.locator("#count")).to_contain_text(f"{clips} of 96")
    expect(opened.page.locator("#clips")).to_be_in_viewport()
    opened.choose(order="unsure")
    address = opened.page.url
    assert "model=probe" in address and "order=unsure" in address
    names = opened.cells(1)
    again = Opened(browser, results / "report/index.html", "#" + address.partition("#")[2])
    assert again.count == clips and again.cells(1) == names
    assert again.page.locator("[name=model]").input_value() == "probe"


def test_a_mark_of_a_chart_leads_to_its_clips(opened):
    opened.page.locator(".chart a[*|href='#emotion=angry']").first.click()
    expect(opened.page.locator("#count")).to_contain_text("12 of 96")
    assert set(opened.cells(4)) == {"angry"}


def test_players_play_one_at_a_time(opened):
    first, second = (opened.page.locator("#table audio").nth(number) for number in (0, 1))
    first.evaluate("player => player.play()")
    opened.page.wait_for_function("() => document.querySelector('#table audio').currentTime > 0.1")
    second.evaluate("player => player.play()")
    assert first.evaluate("player => player.paused")
    assert first.evaluate("player => player.duration") == pytest.approx(0.6, abs=0.1)


def test_the_keyboard_alone_will_do(opened):
    keyboard = opened.page.keyboard
    keyboard.press("Tab")
    expect(opened.page.locator(".skip")).to_be_focused()
    keyboard.press("Enter")
    for _ in range(3):  # model, says, and is
        keyboard.press("Tab")
    expect(opened.page.locator("[name=verdict]")).to_be_focused()
    keyboard.type("wr")
    expect(opened.page.locator("#count")).to_contain_text("has 0 of them right")
    assert "verdict=wrong" in opened.page.url
    for _ in range(40):
        keyboard.press("Tab")
        if opened.page.evaluate("document.activeElement.tagName") == "AUDIO":
            break
    keyboard.press("Space")
    opened.page.wait_for_function("() => document.activeElement.currentTime > 0")


def test_a_phone_scrolls_one_way_only(browser, results):
    phone = Opened(browser, results / "report/index.html", viewport={"width": 390, "height": 800})
    assert phone.page.evaluate("document.documentElement.scrollWidth") == 390
    row = phone.page.locator("#table tbody tr").first
    assert row.bounding_box()["width"] <= 390
    assert "acted: neutral" in row.evaluate(
        "row => [...row.cells].map(cell => getComputedStyle(cell, '::before').content"
        ".replaceAll('\"', '') + cell.textContent).join(' ')"
    )


def test_at_night_the_page_is_dark(browser, results):
    night = Opened(browser, results / "report/index.html", color_scheme="dark")
    body, label = night.page.locator("body"), night.page.locator(".chart svg text").first
    ink = body.evaluate("body => getComputedStyle(body).color")
    paper = body.evaluate("body => getComputedStyle(body).backgroundColor")
    light, dark = (sum(map(int, colour[4:-1].split(","))) for colour in (ink, paper))
    assert light > 600 and dark < 120
    assert label.evaluate("text => getComputedStyle(text).fill") == ink


@pytest.mark.parametrize(
    "title",
    [
        "<img/src='x'/onerror='hacked=1'>",
        "</script><script>hacked=1</script><b onclick='hacked=1'>a & b &lt;",
    ],
)
def test_a_title_is_text_wherever_it_stands(browser, results, tmp_path, title):
    """Of a model or an experiment, who may be anyone's."""
    folder = Path(shutil.copytree(results, tmp_path / "titled"))
    values = YAML().load(folder / "params.yaml")
    values["models"]["svm"] = title
    YAML().dump(values, folder / "params.yaml")
    shown = Opened(browser, write(folder, "--no-audio"))
    assert title in shown.page.locator("#table thead th").all_inner_texts()
    assert shown.page.evaluate("typeof hacked") == "undefined"
    assert shown.complaints == []


@pytest.mark.parametrize(
    "markup", ["<img src=x onerror='hacked=1'>", "<iframe srcdoc='<script>top.hacked=1</script>'>"]
)
def test_no_script_runs_but_the_page_s_own(opened, markup):
    with opened.page.expect_console_message():  # that the policy forbids it
        opened.page.evaluate("text => document.body.insertAdjacentHTML('beforeend', text)", markup)
    assert opened.page.evaluate("typeof hacked") == "undefined"


@pytest.mark.parametrize(
    "screen",
    [{}, {"color_scheme": "dark"}, {"viewport": {"width": 390, "height": 800}}],
    ids=["desktop", "dark", "phone"],
)
def test_axe_has_nothing_serious_against_it(browser, results, screen):
    opened = Opened(browser, results / "report/index.html", **screen)
    answer = Axe().run(opened.page).response
    assert len(answer["passes"]) > 20
    serious = [
        (problem["id"], [node["html"] for node in problem["nodes"]][:3])
        for problem in answer["violations"]
        if problem["impact"] in ("serious", "critical")
    ]
    assert not serious
