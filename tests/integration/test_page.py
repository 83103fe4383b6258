"""The control page in a real browser: content, actions and hostile names."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.browser import Scheme, Visit, chromium, visit
from tests.support.daemon import DEADLINE_SECONDS, Daemon, drop
from tests.support.page import address_of, with_page
from wasmdrop.page.model import MAX_JOBS, MAX_MODULES

expect.set_options(timeout=DEADLINE_SECONDS * 1000)

SCRIPT: Final = "<script>document.title=1</script>"
PICTURE: Final = "<img src=x onerror=alert(1)>"

#: Directories of hostile producers: markup, direction overrides, invisible characters, line breaks,
#: emoji, stacked accents, and the longest name.
DIRECTORIES: Final = (
    PICTURE,
    "\u202egnp.exe",
    "zero\u200bwidth\u2066",
    "two\nlines\t",
    "\N{PARTY POPPER}\N{WOMAN}\u200d\N{ROCKET}",
    "z" + "\u0301" * 60,
    "שלום",
    "w" * 200,
    "x" * 60 + " " + "y" * 60,
)

#: Elements of a page that is quick on any device: as it opens, and with all rows shown.
FEW_ELEMENTS: Final = 1500
MAX_ELEMENTS: Final = 6000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Give a browser for all tests."""
    with chromium() as browser:
        yield browser


def address(daemon: Daemon) -> str:
    """Return the address of the page of a daemon that runs, as text."""
    return ":".join(map(str, address_of(daemon)))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Give a daemon whose producers chose names and messages to harm the page."""
    daemon = with_page(tmp_path_factory.mktemp("hostile"))
    with daemon.running():
        for directory in DIRECTORIES:
            daemon.submit(f"{directory}/input.json", {"args": [7]})
        daemon.submit(f"input-{SCRIPT.replace('/', '')}.json", {"entry": "fail"})
        daemon.submit("input-key.json", {SCRIPT: 1})
        yield daemon


def section(page: Page, name: str) -> Any:
    """Return the part of the page below a heading."""
    return page.get_by_role("region", name=re.compile(f"^{name}"))


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "dark")])
def test_page_with_hostile_names_shows_them_as_text(
    browser: Browser, hostile: Daemon, width: int, scheme: Scheme
) -> None:
    """Nothing executes, no policy is violated, no request leaves, and the layout holds."""
    with visit(browser, address(hostile), width=width, scheme=scheme) as opened:
        page = opened.page
        expect(page.get_by_role("status").first).to_have_text("Ready")
        expect(page.locator("#about")).to_contain_text(str(hostile.shared))
        results = section(page, "Last results")
        results.get_by_role("button", name="Show all").click()
        for shown in (f"{PICTURE}/input.json", "\\u202egnp.exe", "zero\\u200bwidth\\u2066", "שלום"):
            expect(results.get_by_text(shown)).to_be_visible()
        expect(results.get_by_text(SCRIPT.replace("/", ""))).to_be_visible()
        expect(results.get_by_text(f'"{SCRIPT}"', exact=False)).to_be_visible()
        expect(results.locator("script, img")).to_have_count(0)
        expect(section(page, "Failures by code").get_by_text("trap", exact=True)).to_be_visible()
        expect(section(page, "Modules").get_by_text("module.wasm")).to_be_visible()
        assert opened.overflow_pixels() <= 0
        assert opened.low_contrast() == []
        # Also the light of a row is its own: stacked accents are cut at its edge.
        expect(page.locator("tbody .clip").first).to_have_css("overflow", "hidden")


def test_page_shows_the_details_of_a_job(browser: Browser, hostile: Daemon) -> None:
    """By the keyboard alone, and the focus returns to the row."""
    marker = hostile.marker(f"input-{SCRIPT.replace('/', '')}.json")
    assert marker is not None
    with visit(browser, address(hostile)) as opened:
        page = opened.page
        button = page.get_by_role("button", name=marker["job"])
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to running jobs")).to_be_focused()
        button.focus()
        expect(button).to_have_css("outline-style", "solid")
        page.keyboard.press("Enter")
        dialog = page.get_by_role("dialog")
        expect(dialog.get_by_text("trap", exact=True)).to_be_visible()
        expect(dialog).to_contain_text("unreachable")  # the first of several lines
        expect(dialog).not_to_contain_text("\\u{a}")
        page.keyboard.press("Escape")
        expect(dialog).to_be_hidden()
        expect(button).to_be_focused()


def test_plot_has_a_table_of_its_values(browser: Browser, hostile: Daemon) -> None:
    """For screen readers."""
    with visit(browser, address(hostile)) as opened:
        page = opened.page
        plot = page.get_by_role(
            "img", name=re.compile("^Jobs a second, the last 5 minutes. ok: 0 to ")
        )
        expect(plot).to_be_visible()
        page.locator("#plot-jobs summary").click()
        rows = page.get_by_role("table", name=re.compile("^Jobs a second")).get_by_role("row")
        expect(rows.nth(5)).to_be_visible()  # below the heading, a row for each minute


def test_cancel_button_ends_a_job_after_one_question(browser: Browser, tmp_path: Path) -> None:
    """One that runs and one that waits; the row is there until the results have the job."""
    daemon = with_page(tmp_path, WASMDROP_WORKERS="1", TIMEOUT_SEC="3600")
    with daemon.running(), visit(browser, address(daemon), width=390) as opened:
        page = opened.page
        content = {"entry": "spin", "timeout_sec": 3600}
        drop(daemon.shared / "a/input.json", content)
        drop(daemon.shared / "a/input-b.json", content)
        cancel = page.get_by_role("button", name="Cancel the job of a/input.json")
        cancel.click()
        page.get_by_role("dialog").get_by_role("button", name="Keep the job").click()
        expect(cancel).to_be_focused()
        cancel.click()
        page.get_by_role("dialog").get_by_role("button", name="Cancel the job").click()
        marker = daemon.wait_for("a/input.json", json.dumps(content).encode())
        assert marker["code"] == "cancelled"
        expect(cancel).to_have_count(0)
        results = section(page, "Last results")
        expect(results.get_by_text("cancelled", exact=True)).to_be_visible()
        # The other one was waiting for its worker.
        page.get_by_role("button", name="Cancel the job of a/input-b.json").click()
        page.get_by_role("dialog").get_by_role("button", name="Cancel the job").click()
        assert (
            daemon.wait_for("a/input-b.json", json.dumps(content).encode())["code"] == "cancelled"
        )


def test_page_says_that_the_daemon_is_away_and_recovers(browser: Browser, tmp_path: Path) -> None:
    """In one line, with the last state below it; without a reload, also of a restarted daemon."""
    daemon = with_page(tmp_path).start()
    daemon.environment["WASMDROP_HTTP"] = address(daemon)
    with visit(browser, address(daemon)) as opened:
        page = opened.page
        expect(page.get_by_text("Ready", exact=True)).to_be_visible()
        page.evaluate("window.isSame = true")
        daemon.stop()
        line = page.get_by_role("alert")
        expect(line).to_have_text(re.compile(r"^No answer from the daemon since \d\d:\d\d:\d\d\."))
        expect(page.get_by_role("status").first).to_have_text("Unknown")
        expect(section(page, "Running")).to_be_visible()
        with daemon.running():
            expect(line).to_be_hidden()
            daemon.submit("input.json", {"args": [7]})
            expect(section(page, "Last results").get_by_text("ok", exact=True)).to_be_visible()
            assert page.evaluate("window.isSame")


def test_page_with_a_token_needs_a_login(browser: Browser, tmp_path: Path) -> None:
    """A wrong token is refused; a logout ends the session, also for pages that are open."""
    token = tmp_path / "token"
    token.write_text("0123456789abcdef" * 2 + "\n")
    token.chmod(0o600)
    daemon = with_page(tmp_path, WASMDROP_PAGE_TOKEN_FILE=str(token))
    with daemon.running(), visit(browser, address(daemon), width=390) as opened:
        page = opened.page
        page.get_by_label("Token").fill("wrong")
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("alert")).to_have_text("Wrong token.")
        assert opened.low_contrast() == []
        page.get_by_label("Token").fill(token.read_text().strip())
        page.keyboard.press("Enter")
        expect(page.get_by_text("Ready", exact=True)).to_be_visible()
        assert page.evaluate("document.cookie") == ""
        other = page.context.new_page()
        other.goto(page.url)
        expect(other.get_by_text("Ready", exact=True)).to_be_visible()
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_label("Token")).to_be_visible()
        expect(other.get_by_label("Token")).to_be_visible()


def test_page_with_the_largest_answer_stays_small(browser: Browser, hostile: Daemon) -> None:
    """All lists have a bound, and the reader has to ask for more than their first rows."""
    with visit(browser, address(hostile)) as opened:
        page = opened.page
        expect(page.get_by_text("Ready", exact=True)).to_be_visible()
        page.route("**/api/v1/overview", lambda route: route.fulfill(json=largest(opened)))
        expect(page.get_by_role("heading", name="Waiting: 99,950 jobs")).to_be_visible()
        assert page.locator("*").count() < FEW_ELEMENTS
        for button in page.locator("button.more:visible").all():
            button.click()
        expect(section(page, "Modules").locator("tbody tr")).to_have_count(MAX_MODULES)
        assert page.locator("*").count() < MAX_ELEMENTS


def largest(opened: Visit) -> dict[str, Any]:
    """Return an overview with as many entries as there may be, made of a real one."""
    overview: dict[str, Any] = opened.page.request.get(f"{opened.page.url}api/v1/overview").json()
    (ended, *_), (module, *_) = overview["ended"], overview["modules"]
    waiting = {**ended, "open_seconds": 90, "state": "queued", "why": "x" * 500}
    waiting |= {"running_seconds": None, "is_remote": False, "is_cancelled": False}

    def many(entry: dict[str, Any], key: str, number: int) -> list[dict[str, Any]]:
        return [{**entry, key: f"{at}{os.urandom(8).hex()}"} for at in range(number)]

    failures = {**ended, "count": 3, "codes": {"trap": 3}, "sha256": "x"}
    overview["jobs"] |= {"queued": 99_950}
    return overview | {
        "queued": many(waiting, "job", MAX_JOBS),
        "running": many(waiting, "job", MAX_JOBS),
        "ended": many(ended, "job", MAX_JOBS),
        "modules": many(module, "sha256", MAX_MODULES),
        "failures_by_module": many(failures, "sha256", MAX_MODULES),
    }


#: Calls of :file:`format.js` and :file:`plot.js` with their results.
TEXTS: Final = {
    "harmless('a\\u202eb\\u200bc\\n\\ud800')": "a\\u{202e}b\\u{200b}c\\u{a}\\u{d800}",
    "harmless('\\u{1f389}\\u2764\\ufe0f \\u05e9')": "\U0001f389\u2764\ufe0f \u05e9",
    "harmless('x'.repeat(5000)).length": 401,
    "harmless(null)": "",
    "harmlessLines('a\\nb\\u202e')": "a\nb\\u{202e}",
    "duration(0.0004)": "< 1 ms",
    "duration(0.00352)": "3.52 ms",
    "duration(12.34)": "12.3 s",
    "duration(125)": "2 min 05 s",
    "elapsed(7325)": "2 h 02 min",
    "elapsed(100000)": "1 d 3 h",
    "duration(null)": "\N{EN DASH}",
    "size(1536)": "1.5 KiB",
    "size(1023.9 * 1024)": "1 MiB",
    "count(100000)": "100,000",
    "counted(1, 'job')": "1 job",
    "clock(0)": "00:00:00",
    "linearAxis(0.9).ticks": [0, 0.5, 1],
    "linearAxis(95000).ticks.at(-1)": 100000,
    "logAxis(0.003, 0.004).ticks": [0.001, 0.01],
    "logAxis(0.001, 1).ticks": [0.001, 0.01, 0.1, 1],
}


def test_texts_of_the_page_are_readable(browser: Browser, hostile: Daemon) -> None:
    """Numbers, durations, sizes, axes, and names with invisible characters."""
    names = ", ".join(sorted({call.partition("(")[0] for call in TEXTS}))
    source = f"""async () => {{
      const modules = ["format", "plot"].map((name) => import(`/static/${{name}}.js`));
      const {{ {names} }} = Object.assign({{}}, ...(await Promise.all(modules)));
      return [{", ".join(TEXTS)}];
    }}"""
    with visit(browser, address(hostile)) as opened:
        found = opened.page.evaluate(source)
    assert dict(zip(TEXTS, found, strict=True)) == TEXTS
