"""A real Chromium (Debian's). Screenshots go to the folder that CRLHF_SCREENSHOTS names."""

import os
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from tests.web.conftest import PASSWORD, serve

__all__ = ["serve"]

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}
LAPTOP = {"viewport": {"width": 1280, "height": 800}}


@pytest.fixture(scope="session")
def chromium():
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


@pytest.fixture
def enter(chromium):
    """``enter(server, name, role)`` makes an account by an invite link and returns its page."""
    contexts = []

    def start(server, name, role="annotator", **options):
        contexts.append(
            chromium.new_context(base_url=server.url, **({} if "viewport" in options else LAPTOP), **options)
        )
        page = contexts[-1].new_page()
        page.set_default_timeout(20_000)
        page.problems = []
        page.on("console", lambda message: page.problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.goto(f"/invite/{server.lead.invite(role)}")
        page.get_by_label("Name").fill(name)
        page.get_by_label("Password").fill(PASSWORD)
        page.keyboard.press("Enter")
        page.wait_for_url("**/work" if role == "annotator" else "**/lead")
        return page

    yield start
    for context in contexts:
        context.close()


@pytest.fixture
def picture():
    """``picture(page, name)`` keeps a screenshot where they are wanted."""
    folder = os.environ.get("CRLHF_SCREENSHOTS")

    def take(page, name):
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            page.screenshot(path=Path(folder) / f"web-{name}.png")

    return take
