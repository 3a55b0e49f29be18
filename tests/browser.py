"""A real browser without a network: what the tests of pages share."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from pipeline import require_program
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Starts Chromium, and ends it with the block."""
    path = require_program("chromium", "chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def open_page(browser: Browser, url: str, expected: Sequence[str] = (), **options: Any) -> Iterator[Page]:
    """Opens a page; once the block has run, nothing but files and this server was asked, and nothing was reported.

    Reports of the console that hold one of `expected` are as they should be.
    """
    context: BrowserContext = browser.new_context(**options)
    requests: list[str] = []
    reports: list[str] = []
    context.on("request", lambda request: requests.append(request.url))
    context.on("console", lambda message: reports.append(message.text))
    context.on("weberror", lambda error: reports.append(str(error.error)))
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.goto(url)
    yield page
    context.close()
    local = ("file://", "data:", "blob:", url)
    assert [request for request in requests if not request.startswith(local)] == []
    unexpected = [report for report in reports if not any(text in report for text in expected)]
    assert not unexpected, unexpected


def list_violations(page: Page) -> list[str]:
    """Lists what axe finds against the page as it stands now."""
    violations = Axe().run(page).response["violations"]
    return [f"{each['id']}: {node['html'][:200]}" for each in violations for node in each["nodes"]]
