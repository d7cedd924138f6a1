"""The browser of the tests tells what is wrong with a page."""

from __future__ import annotations

from pathlib import Path

from tests.browser import DESKTOP, PHONE, Browser

POLICY = "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; script-src 'unsafe-inline'\">"


def written(folder: Path, body: str, head: str = "") -> str:
    path = folder / "a page.html"
    path.write_text(f'<!DOCTYPE html><html><head><meta charset="utf-8">{head}</head><body>{body}</body></html>')
    return path.as_uri()


def test_a_page_without_fault_has_no_complaints(browser: Browser, tmp_path: Path) -> None:
    with browser.page(written(tmp_path, "<p>Grüße</p>")) as page:
        assert page.evaluate("document.body.innerText") == "Grüße"
        assert page.complaints == []
        assert page.requests == []


def test_errors_of_scripts_and_of_the_console_are_complaints(browser: Browser, tmp_path: Path) -> None:
    with browser.page(written(tmp_path, "<script>console.error('oh'); nothing.there()</script>")) as page:
        told = " ".join(page.complaints)
    assert "oh" in told
    assert "nothing is not defined" in told


def test_what_the_policy_refuses_is_a_complaint_and_each_request_is_told(browser: Browser, tmp_path: Path) -> None:
    picture = (tmp_path / "x.png").as_uri()
    with browser.page(written(tmp_path, f'<img src="{picture}">', POLICY)) as page:
        assert any("Content Security Policy" in complaint for complaint in page.complaints)
    with browser.page(written(tmp_path, f'<img src="{picture}">')) as page:
        assert page.requests == [picture]


def test_sizes_schemes_and_media(browser: Browser, tmp_path: Path) -> None:
    url = written(tmp_path, "<p>x</p>", '<meta name="viewport" content="width=device-width">')
    dark, printed = ("matchMedia('(prefers-color-scheme: dark)').matches", "matchMedia('print').matches")
    with browser.page(url, PHONE, dark=True) as page:
        assert page.evaluate(f"[innerWidth, {dark}, {printed}]") == [PHONE[0], True, False]
        page.show(DESKTOP, media="print")
        assert page.evaluate(f"[innerWidth, {dark}, {printed}]") == [DESKTOP[0], False, True]
        page.screenshot(tmp_path / "x.png")
        assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
        assert page.pdf().startswith(b"%PDF")
