"""A real browser without a window, for pages: Chromium by Playwright, where both are there."""

import contextlib
import importlib.util
import shutil

import pytest

WIDTHS = {"desktop": 1280, "phone": 390}
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(
    CHROMIUM is None or importlib.util.find_spec("playwright") is None, reason="needs Chromium and Playwright"
)


@contextlib.contextmanager
def opened(path, device="desktop", scheme="light"):
    """A page open from its file, offline; fails at its end if anything was complained of or asked of a network."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        size = {"width": WIDTHS[device], "height": 844}
        context = browser.new_context(viewport=size, color_scheme=scheme, offline=True)
        page, complaints, asked = context.new_page(), [], []
        page.on("console", lambda message: complaints.append(message.text) if message.type != "log" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.resolve().as_uri())
        yield page
        browser.close()
    assert complaints == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []


def overflow(page):
    """Pixels by which a page is wider than its window."""
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
