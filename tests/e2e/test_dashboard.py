"""The dashboard in a real browser, over a real server. Without Chromium and Playwright only the server's side is tested."""

import shutil
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from support.server_process import ServerProcess

pytestmark = pytest.mark.e2e

KEY = "secret"
AUTHORISED = {"Authorization": f"Bearer {KEY}"}
OPTIONS = ("--dtype", "float32", "--num-blocks", "128", "--workers", "1P+1D", "--api-key", KEY)
SWITCHES = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess(*OPTIONS) as process:
        yield process


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("Chromium is not installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=list(SWITCHES))
        yield browser
        browser.close()


class Page:
    """A tab on the dashboard; leaving it fails the test if the page reported an error, but for those that hold ``expected``."""

    def __init__(
        self, browser: Any, url: str, *, key: str | None = KEY, expected: str | None = None, **options: Any
    ) -> None:
        self.expected = expected
        self.errors: list[str] = []
        self._context = browser.new_context(**options)
        self.page = self._context.new_page()
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda message: message.type == "error" and self.errors.append(message.text))
        if key is not None:
            self.page.add_init_script(f"sessionStorage.setItem('nanopd-api-key', '{key}')")
        self.page.goto(url)

    def __enter__(self) -> Any:
        return self.page

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._context.close()
        if kind is None:
            assert [error for error in self.errors if self.expected is None or self.expected not in error] == []


def ask(page: Any, text: str, strategy: str, max_tokens: int = 8) -> None:
    page.locator(f"input[value={strategy}]").check(force=True)
    page.fill("#max-tokens", str(max_tokens))
    page.fill("#prompt", text)
    page.press("#prompt", "Enter")


def test_a_chat_streams_and_shows_its_path(server: ServerProcess, browser: Any) -> None:
    with Page(browser, server.url) as page:
        page.wait_for_selector("#connection[data-state=live]")
        assert page.locator(".worker h3").all_text_contents() == ["prefill-0", "decode-0"]

        ask(page, "Name three primary colours.", "disaggregated")

        page.wait_for_selector("#messages .path .phases [data-stage=decode]")
        assert "prefill-0 → decode-0" in page.locator("#messages .path").inner_text()
        assert page.locator("#messages .message:not(.user) .text").inner_text().strip() != ""
        page.wait_for_selector("#request-detail .stage-row[data-stage=prefill]")
        assert "prefill-0 → decode-0" in page.locator("#request-detail h3").inner_text()
        assert page.locator("#decisions li").count() >= 1
        assert page.locator(".chip.yours").count() == 1


def test_text_is_never_markup(server: ServerProcess, browser: Any) -> None:
    with Page(browser, server.url) as page:
        ask(page, "<img src=x onerror=\"document.title='broken'\"><b>bold</b>", "collocated")
        page.wait_for_selector("#messages .path .phases")
        assert page.locator("#messages img, #messages .user b").count() == 0
        assert "<b>bold</b>" in page.locator("#messages .user").inner_text()
        assert page.title() != "broken"


def test_the_page_asks_for_the_key(server: ServerProcess, browser: Any) -> None:
    with Page(browser, server.url, key=None, expected="401") as page:
        page.fill("#key", "wrong")
        page.press("#key", "Enter")
        page.wait_for_selector("#key-error:not(:empty)")
        page.fill("#key", KEY)
        page.press("#key", "Enter")
        page.wait_for_selector("#connection[data-state=live]")


def test_a_phone_in_the_dark(server: ServerProcess, browser: Any) -> None:
    phone = {"width": 360, "height": 740}
    with Page(browser, server.url, viewport=phone, color_scheme="dark", is_mobile=True, has_touch=True) as page:
        page.wait_for_selector("#connection[data-state=live]")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert max(int(part) for part in background.strip("rgb()").split(",")) < 64


def test_requests_are_picked_with_the_keyboard(server: ServerProcess, browser: Any) -> None:
    for text in ("one", "two"):
        body = {"prompt": text, "max_tokens": 2}
        httpx.post(f"{server.url}/v1/completions", json=body, headers=AUTHORISED, timeout=60).raise_for_status()
    with Page(browser, server.url) as page:
        page.wait_for_selector("#request-list [role=option] >> nth=1")
        page.focus("#request-list")
        page.keyboard.press("ArrowDown")
        assert page.locator("[role=option]").nth(1).get_attribute("aria-selected") == "true"
        assert page.locator("#follow").get_attribute("aria-pressed") == "false"


def test_everything_has_a_name(server: ServerProcess, browser: Any) -> None:
    with Page(browser, server.url) as page:
        page.wait_for_selector("#connection[data-state=live]")
        nameless = page.evaluate(
            """[...document.querySelectorAll("button, input, textarea, svg[role=img], a, section, aside, nav")]
               .filter((node) => !(node.ariaLabel || node.getAttribute("aria-label") || node.labels?.length || node.textContent.trim()
                                   || node.getAttribute("aria-labelledby")))
               .map((node) => node.outerHTML.slice(0, 80))"""
        )
        assert nameless == []


def test_an_open_page_does_not_hold_up_the_shutdown() -> None:
    with ServerProcess(*OPTIONS, "--drain-timeout-s", "300") as server:
        frames: list[str] = []
        is_open = threading.Event()

        def read() -> None:
            with httpx.stream("GET", f"{server.url}/dashboard/events", headers=AUTHORISED, timeout=60) as stream:
                for line in stream.iter_lines():
                    frames.append(line)
                    is_open.set()

        reader = threading.Thread(target=read)
        reader.start()
        assert is_open.wait(30)
        assert server.terminate(timeout_s=60) == 0  # the drain's limit is far beyond
        reader.join(30)
        assert not reader.is_alive()
