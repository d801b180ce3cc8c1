"""Generated programs are hostile text: in every page they are shown, and do nothing."""

import html
import random
import re

from playwright.sync_api import expect

from crlhf_ray.feedback.desk.highlight import highlighted
from crlhf_ray.visible import visible
from tests.browser.conftest import PHONE, PLAIN, line
from tests.desk.conftest import work

OVERRIDE = "\u202e"  # right-to-left override: shows what follows backwards
LINES = (
    '    x = "<script>alert(1)</script><img src=x onerror=alert(1)>"',
    f'    if level != "user{OVERRIDE} # admin":',
    "\t\treturn\ta",
    "    y = '\x1b[2J\x07\u200b'",
    "    z = " + "'" + "w" * 240 + "'",
    "    # </code></pre> &amp; ${7*7} {{ 7*7 }}",
    "    return '</script>'",
)
TO_REVIEW = (0, 1, 2, 3, 4, 6)


def test_hostile_programs_are_shown_as_they_are_and_do_nothing(serve, enter, picture):
    server = serve(queue=PLAIN)
    server.publish([work(1, LINES, TO_REVIEW)])
    dialogs = []
    lead = enter(server, "boss", "lead")
    lead.on("dialog", lambda dialog: dialogs.append(dialog.message))
    for path, row in (("/work", ".row .source"), (f"/lead/programs/{work(1).item_id}", "#lines .source")):
        lead.goto(path)
        expect(lead.locator(row)).to_have_count(len(LINES))
        shown = lead.locator(row).all_text_contents()
        assert shown == [visible(text) for text in LINES]
        assert r"user\u202e # admin" in shown[1]
        assert lead.locator("main img, main script:not([type])").count() == 0
        assert lead.locator(row).first.evaluate("(one) => getComputedStyle(one).unicodeBidi") == "isolate"
        assert lead.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    lead.goto("/work")
    lead.keyboard.press("m")
    lead.keyboard.type("<b onclick=alert(1)>bold</b>")
    lead.keyboard.press("Control+Enter")
    expect(line(lead, 0).locator(".said")).to_have_text("“<b onclick=alert(1)>bold</b>”")
    picture(lead, "hostile")
    assert dialogs == []


def test_long_lines_wrap_on_a_phone(serve, enter):
    server = serve(queue=PLAIN)
    server.publish([work(1, LINES, TO_REVIEW)])
    page = enter(server, "ann", **PHONE)
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert page.evaluate("byId('lines').scrollWidth <= byId('lines').clientWidth")


def text_of(lines):
    return html.unescape(re.sub("<[^>]*>", "", "\n".join(lines)))


def test_whatever_the_text_is_it_has_as_many_lines_as_it_has_and_says_the_same():
    draw = random.Random(1)
    parts = [*"\n\r\t'\"\\#x (){}é@\x00\x0b\x0c\x1c\x85", '"""', "def ", "f'{", OVERRIDE, "\ufeff", "\u2028", "\ud800"]
    for _ in range(3000):
        source = "".join(draw.choices(parts, k=draw.randrange(25)))
        lines, _ = highlighted(source)
        assert len(lines) == source.count("\n") + 1
        assert text_of(lines) == visible(source)


def test_the_first_line_does_not_repeat_the_end_of_the_prompt():
    prompt = 'def f(x):\n    """Twice x."""'
    assert text_of(highlighted(prompt, "\n    return 2 * x")[1]) == "\n    return 2 * x"
    assert text_of(highlighted("x = 'a" + OVERRIDE, "b'\ny")[1]) == "b'\ny"
