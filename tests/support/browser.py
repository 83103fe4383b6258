"""A real browser: Debian's Chromium, driven by Playwright, which downloads none of its own."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Literal

from playwright.sync_api import Browser, ConsoleMessage, Dialog, Page, Request, sync_playwright

from tests.support.daemon import DEADLINE_SECONDS
from tests.support.require import require_chromium

Scheme = Literal["light", "dark"]

_DEADLINE_MS: Final = DEADLINE_SECONDS * 1000

#: Reports violations of any directive of the page's policy to the console.
_REPORT_VIOLATIONS: Final = """
document.addEventListener("securitypolicyviolation", (event) =>
  console.error(`policy violated: ${event.violatedDirective} ${event.blockedURI} ${event.sample}`));
"""

#: Returns the texts whose contrast to their background is below that of WCAG 2.2, level AA.
_LOW_CONTRAST: Final = """
() => {
  const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => {
    const [red, green, blue] = numbers(color).map((part) => {
      const share = part / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const isOpaque = (color) => (numbers(color)[3] ?? 1) > 0;
  const found = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.textContent.trim() || !element.checkVisibility()) continue;
    let behind = element;
    while (behind && !isOpaque(getComputedStyle(behind).backgroundColor)) {
      behind = behind.parentElement;
    }
    const style = getComputedStyle(element);
    const text = light(element.closest("svg") ? style.fill : style.color);
    const back = light(getComputedStyle(behind ?? document.body).backgroundColor);
    const contrast = (Math.max(text, back) + 0.05) / (Math.min(text, back) + 0.05);
    if (contrast < 4.5) found.push(`${contrast.toFixed(2)}: ${texts.currentNode.textContent}`);
  }
  return found;
}
"""


@dataclass
class Visit:
    """A page that is open in the browser, and all that went wrong in it."""

    page: Page
    faults: list[str] = field(default_factory=list)
    """Dialogs, uncaught errors, violations of the policy, requests that leave the daemon."""

    def low_contrast(self) -> list[str]:
        """Return the visible texts that are hard to read, with their contrast."""
        found: list[str] = self.page.evaluate(_LOW_CONTRAST)
        return found

    def overflow_pixels(self) -> int:
        """Return how much wider than the window the page is."""
        wider: int = self.page.evaluate("document.documentElement.scrollWidth - innerWidth")
        return wider


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Run a browser for a block."""
    program = require_chromium()
    # Chromium's own sandbox refuses root.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=arguments)
        with contextlib.closing(browser):
            yield browser


@contextlib.contextmanager
def visit(
    browser: Browser, address: str, *, width: int = 1280, scheme: Scheme = "light"
) -> Iterator[Visit]:
    """Open the page at ``address`` in a new profile for a block, and fail if it has faults."""
    origin = f"http://{address}/"
    with contextlib.closing(
        browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme=scheme,
            timezone_id="UTC",
            locale="en-GB",
        )
    ) as context:
        context.set_default_timeout(_DEADLINE_MS)
        context.add_init_script(_REPORT_VIOLATIONS)
        opened = Visit(context.new_page())

        def on_console(message: ConsoleMessage) -> None:
            # Chromium reports requests that fail, too: a page that lost its daemon has some.
            if "policy" in message.text.lower():
                opened.faults.append(message.text)

        def on_request(request: Request) -> None:
            if not request.url.startswith(origin):
                opened.faults.append(f"request to {request.url}")

        def on_dialog(dialog: Dialog) -> None:
            opened.faults.append(f"dialog: {dialog.message}")
            dialog.dismiss()

        opened.page.on("console", on_console)
        opened.page.on("pageerror", lambda error: opened.faults.append(str(error)))
        opened.page.on("dialog", on_dialog)
        context.on("request", on_request)
        opened.page.goto(origin)
        yield opened
    assert not opened.faults, opened.faults
