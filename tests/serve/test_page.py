"""The page in a real Chromium, over a real server: what a person does with it, and what a model must not be able to do with it.

The tiny model writes noise, so what an answer holds is made sure of by the form that is asked of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hatchling.builders.wheel import WheelBuilder

from quire.serve.page import files
from tests.serve.browser import ALT, SHIFT, Browser, binary
from tests.serve.conftest import ROOT, Running, start
from tests.small import write_model

IDLE = "!document.querySelector('#send').hidden"
KEY = "a-key-of-the-page-123"
WORD = {"form-kind": "regex", "form-text": "[a-z]{12}"}
LONG = {"form-kind": "regex", "form-text": "[a-z ]{900}"}


class Page:
    """The page as a person has it before them."""

    def __init__(self, browser: Browser, url: str) -> None:
        self.browser, self.url = browser, url
        self.run, self.until, self.click = browser.run, browser.until, browser.click

    def open(self, system: str = "", **settings: Any) -> Page:
        """Anew, in a browser that has never been here, with these settings."""
        self.browser.open(self.url)
        self.run("localStorage.clear()")
        self.set({name.replace("__", "-"): value for name, value in settings.items()})
        self.browser.look(1200, 800)
        self.reload()
        if system:
            self.fill("#system", system)
        return self

    def set(self, settings: dict[str, Any]) -> None:
        self.run(f"localStorage.setItem('quire.settings', {json.dumps(json.dumps(settings))})")

    def reload(self) -> None:
        self.browser.open(self.url)
        self.until("document.querySelector('#model').options.length")

    def fill(self, selector: str, text: str) -> None:
        """As by hand: events of input and change."""
        self.run(
            f"(() => {{ const field = document.querySelector({json.dumps(selector)}); field.value = {json.dumps(text)};"
            "for (const kind of ['input', 'change']) field.dispatchEvent(new Event(kind, { bubbles: true })); })()"
        )

    def choose(self, model: str) -> None:
        self.fill("#model", model)

    def say(self, text: str, wait: bool = True) -> str:
        self.run("document.querySelector('#say').focus()")
        self.browser.type(text)
        self.browser.press("Enter")
        return self.answer() if wait else ""

    def begun(self, act: str) -> None:
        """Does this as soon as an answer has begun: from here it might be too late for a tiny model."""
        self.run(
            "new MutationObserver((_, own) => { if (document.querySelector('.assistant .text')?.textContent) { own.disconnect();"
            f" {act} }} }}).observe(document.querySelector('#turns'), {{ childList: true, subtree: true }})"
        )

    def answer(self) -> str:
        """The last answer, when it is whole."""
        self.until(IDLE)
        return self.turns()[-1]

    def turns(self) -> list[str]:
        """The text of each turn."""
        found: list[str] = self.run(
            "[...document.querySelectorAll('#turns > li')].map((li) => li.querySelector('.text')?.textContent ?? '')"
        )
        return found

    def roles(self) -> list[str]:
        found: list[str] = self.run("[...document.querySelectorAll('#turns > li')].map((li) => li.classList[0])")
        return found

    def button(self, name: str) -> None:
        """Presses the last button of this name in the conversation."""
        self.run(f"[...document.querySelectorAll('main button')].filter((one) => one.textContent === {json.dumps(name)}).at(-1).click()")

    def notice(self) -> str:
        return str(self.run("document.querySelector('#notice').textContent"))

    def body(self) -> Any:
        """Of the last answer that was asked for."""
        return json.loads(next(body for url, body in reversed(self.browser.asked) if url.endswith("/completions")))

    @property
    def focus(self) -> str:
        return str(self.run("document.activeElement.id || document.activeElement.textContent"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if binary() is None:
        pytest.skip("there is no Chromium; the page is tested in a real one: apt-get install chromium")
    made = Browser()
    yield made
    made.close()


@pytest.fixture
def page(browser: Browser, server: Running) -> Iterator[Page]:
    """Nothing may be complained of in the console, and nothing asked of another host, whatever is done."""
    browser.console.clear()
    browser.asked.clear()
    yield Page(browser, server.url + "/")
    told = [line for line in browser.console if "status of 400" not in line]  # what the server refuses, the browser notes
    assert told == []
    assert all(url.startswith(server.url) for url, _ in browser.asked), browser.asked


@pytest.fixture(scope="module")
def locked(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One model with so long a context that its answers do not end by themselves, and room for no other beside it."""
    root = tmp_path_factory.mktemp("locked")
    words = (f"chat={write_model(root / 'chat', template=True, context=16384)}", f"base={folders['base']}", "--budget", "1")
    running = start(root, *words, key=KEY, QUIRE_API_KEY=KEY)
    yield running
    running.stop()


# -- answers -----------------------------------------------------------------------------------------------------------------------


def test_an_answer_is_shown_as_it_comes(page: Page) -> None:
    page.open(**LONG, max_tokens=120)
    page.run(  # counted in the page: a tiny model may have ended before the driver asks twice
        "(() => { const seen = (window.seen = new Set());"
        " const look = () => seen.add(document.querySelector('.assistant .text')?.textContent.length);"
        " new MutationObserver(look).observe(document.querySelector('#turns'), { childList: true, subtree: true }) })()"
    )
    page.say("hello")
    assert page.run("window.seen.size") > 3 and page.roles() == ["user", "assistant"]
    assert page.body()["messages"] == [{"role": "user", "content": "hello"}] and page.focus == "say"
    assert "120 written" in page.run("document.querySelector('#count').textContent")
    assert "Cut after 120 tokens" in page.browser.text()


@pytest.mark.parametrize("how", ["Escape", "button"])
def test_what_is_stopped_is_kept_and_frees_the_request(page: Page, server: Running, how: str) -> None:
    page.open(**LONG)
    left = counted(server, 'quire_requests_total{model="chat",reason="left"}')
    key = "document.activeElement.dispatchEvent(new KeyboardEvent('keydown', { key: 'Escape', bubbles: true }))"
    page.begun(key if how == "Escape" else "document.querySelector('#stop').click()")
    said = page.say("hello")
    assert 0 < len(said) < 500 and "Stopped." in page.browser.text() and page.focus == "say"
    end = time.monotonic() + 5
    while counted(server, 'quire_requests_total{model="chat",reason="left"}') == left:
        assert time.monotonic() < end
    assert counted(server, 'quire_running{model="chat"}') == 0
    page.reload()
    page.click("#conversations button")
    assert page.turns() == ["hello", said]


def counted(server: Running, name: str) -> float:
    found = re.search(re.escape(name) + r" (\S+)", server.client.get("/metrics").text)
    return 0.0 if found is None else float(found[1])


def test_answering_again_and_editing(page: Page) -> None:
    page.open(**WORD)
    first = page.say("one")
    page.say("two")
    page.button("Answer again")
    assert page.answer() and page.roles() == ["user", "assistant"] * 2 and page.turns()[:3] == ["one", first, "two"]
    page.browser.press("r", ALT)
    page.until(f"document.querySelector('#stop').hidden === false || {IDLE}")
    assert page.answer() and page.roles() == ["user", "assistant"] * 2
    page.browser.press("e", ALT)
    page.until("document.activeElement.ariaLabel === 'Your message'")
    page.browser.press("Escape")
    page.until("document.activeElement.id === 'say'")
    assert page.turns()[2] == "two" and len(page.turns()) == 4
    page.browser.press("e", ALT)
    page.until("document.activeElement.ariaLabel === 'Your message'")
    page.run("document.activeElement.select()")
    page.browser.type("three")
    page.browser.press("Enter")
    assert page.answer() and page.turns()[:3] == ["one", first, "three"]
    assert [turn["content"] for turn in page.body()["messages"]] == ["one", first, "three"]


def test_system_prompt_and_sampling_reach_the_model(page: Page) -> None:
    page.open(system="Be brief.", max_tokens="9", seed="5", temperature="1.5", top_k="40", logprobs=False)
    first = page.say("hello")
    page.button("Answer again")
    assert page.answer() == first
    body = page.body()
    assert body["messages"][0] == {"role": "system", "content": "Be brief."} and body["top_k"] == 40 and "logprobs" not in body
    assert "9 written" in page.run("document.querySelector('#count').textContent")
    assert page.run("document.querySelectorAll('.token').length") == 0
    page.fill("#seed", "6")
    page.button("Answer again")
    assert page.answer() != first
    page.open(form__kind="regex", form__text="abc[x-z]{20}", stops="bc|q")
    assert page.say("hello") == "a"
    page.open(temperature="5")
    page.say("hello")
    assert "temperature" in page.notice() and page.roles() == ["user"]
    page.fill("#temperature", "")
    page.fill("#max_tokens", "2")
    page.button("Answer")
    page.answer()
    assert page.roles() == ["user", "assistant"]


def test_a_base_model_goes_on_with_the_text(page: Page) -> None:
    page.open(max_tokens=8, logprobs=True)
    page.choose("base")
    assert "goes on with your text" in page.browser.text()
    first = page.say("def parse")
    assert page.browser.asked[-1][0].endswith("/v1/completions") and page.body()["model"] == "base"
    page.say("_line")
    assert page.body()["prompt"] == "def parse" + first + "_line"
    assert page.run("document.querySelectorAll('.assistant .token').length") > 2
    assert not page.run("[...document.querySelector('#model').options].some((one) => one.value === 'bert')")


def test_what_else_a_token_might_have_been(page: Page) -> None:
    page.open(max_tokens=12, seed=1)
    page.say("hello")
    page.until("document.querySelectorAll('.token').length > 1")
    page.run("document.querySelector('.token').dispatchEvent(new MouseEvent('mouseover', { bubbles: true }))")
    rows = page.run(
        "[...document.querySelectorAll('#chances table:first-child tr')].map((row) => [row.className, row.lastChild.textContent])"
    )
    shares = [float(share.removesuffix(" %")) for _, share in rows]
    assert 5 <= len(rows) <= 6 and [name for name, _ in rows].count("said") == 1
    assert all(0 <= share <= 100 for share in shares) and 0 < sum(shares) < 101
    page.run("document.querySelector('.token').focus()")
    page.browser.press("ArrowRight")
    assert page.run("document.activeElement === document.querySelectorAll('.token')[1]")
    assert page.run("document.activeElement.getAttribute('aria-describedby')") == "chances"
    page.browser.press("Escape")
    assert page.run("document.querySelector('#chances').hidden")


# -- forms and tools ---------------------------------------------------------------------------------------------------------------


def test_answers_have_the_form_that_is_asked_for(page: Page) -> None:
    schema = {"type": "object", "properties": {"yes": {"type": "boolean"}}, "required": ["yes"], "additionalProperties": False}
    page.open(form__kind="json", form__text=json.dumps(schema))
    assert isinstance(json.loads(page.say("well?"))["yes"], bool)
    page.fill("#form-kind", "choice")
    page.fill("#form-text", "red\ngreen")
    assert page.say("colour?") in ("red", "green")
    page.fill("#form-kind", "regex")
    page.fill("#form-text", "[0-9]{3}-[0-9]{2}")
    assert re.fullmatch(r"\d{3}-\d\d", page.say("number?"))
    page.fill("#form-kind", "json")
    page.say("broken?")
    assert page.notice().startswith("The schema: ")


def test_an_alternative_without_a_chance_is_not_listed_and_harms_nobody(server: Running) -> None:
    """JSON has no number for the logarithm of zero, and a form forbids all but a few tokens: the page asks for both, always."""
    form = {"structured_outputs": {"regex": "ab"}, "logprobs": True, "top_logprobs": 20}
    answer = server.post("/v1/chat/completions", {"model": "chat", "messages": [{"role": "user", "content": "hello"}], **form})
    assert answer.status_code == 200, answer.text
    [choice] = answer.json()["choices"]
    facts = choice["logprobs"]["content"]
    assert choice["message"]["content"] == "ab" and all(1 <= len(fact["top_logprobs"]) < 20 for fact in facts)


def test_tools_are_called_and_given_their_results(page: Page) -> None:
    unit = {"type": "object", "properties": {"unit": {"enum": ["C", "F"]}}, "required": ["unit"], "additionalProperties": False}
    tool = {"type": "function", "function": {"name": "weather", "parameters": unit}}
    page.open(tools=json.dumps([tool]), tool_choice="required", max_tokens="150")
    page.say("how warm is it?")
    assert re.search(r'weather\(\{"unit": ?"[CF]"\}\)', page.run("document.querySelector('.assistant pre').textContent"))
    page.fill("#tool_choice", "none")
    page.fill("#max_tokens", "5")
    calls = page.run("document.querySelectorAll('.assistant pre').length")  # as many as the model's noise happens to make
    page.button("Give the results")
    for number in range(calls):
        page.until(f"document.activeElement.ariaLabel === 'Result {number + 1} of {calls}: weather'")
        page.browser.type("21")
        page.browser.press("Enter")
    page.until(f"document.querySelectorAll('#turns > li').length === {calls + 3}")
    page.answer()
    _, call, *results = page.body()["messages"]
    assert results == [{"role": "tool", "content": "21", "tool_call_id": one["id"]} for one in call["tool_calls"]]
    assert page.roles() == ["user", "assistant", *["tool"] * calls, "assistant"]
    page.fill("#tools", json.dumps(tool))
    page.say("and now?")
    assert "no list" in page.notice()


def test_fenced_code_stands_apart(page: Page) -> None:
    page.open(form__kind="regex", form__text="So:\n```py\n[a-z]{8}\n```\nDone")
    page.say("code?")
    expected = page.run("document.querySelector('.assistant .text').textContent")
    assert re.fullmatch(r"So:\n[a-z]{8}\nDone", expected)
    assert re.fullmatch(r"[a-z]{8}\n", page.run("document.querySelector('.assistant pre code').textContent"))
    page.reload()
    page.click("#conversations button")
    assert page.run("document.querySelector('.assistant .text').textContent") == expected


# -- the context -------------------------------------------------------------------------------------------------------------------


def test_what_is_left_out_of_a_full_context_is_said(page: Page) -> None:
    page.open(**WORD)
    for text in ("x" * 200, "y" * 200, "z" * 200):
        page.say(text)
    assert "does not read the 2 oldest turns" in page.notice()
    assert page.run("[...document.querySelectorAll('#turns > li')].map((li) => li.classList.contains('out'))") == [True, True] + 4 * [False]
    assert "not read" in page.run("getComputedStyle(document.querySelector('.out .who > span'), '::after').content")
    assert page.body()["messages"][0]["content"] == "y" * 200
    assert page.browser.asked[-1][0].endswith("/v1/chat/completions")
    page.say("w" * 900)
    assert re.search(r"\b9\d\d\b.*\b512\b", page.notice()) and page.roles()[-1] == "user"


# -- what is kept ------------------------------------------------------------------------------------------------------------------


def test_conversations_are_kept_exported_and_taken_in(page: Page) -> None:
    page.open(system="Be kind.", **WORD)
    said = page.say("first")
    page.browser.press("n", ALT)
    assert page.turns() == [] and page.run("document.querySelector('#system').value") == ""
    page.say("second")
    kept = page.run("localStorage.getItem('quire.conversations')")
    assert "logprob" not in kept and "tokens" not in kept
    page.run("document.querySelectorAll('#conversations li')[1].firstChild.click()")
    assert page.run("document.querySelectorAll('.token').length") > 0  # until the page is closed
    page.reload()
    titles = "[...document.querySelectorAll('#conversations li')].map((li) => li.firstChild.textContent)"
    assert page.run(titles) == ["second", "first"]
    page.run("document.querySelectorAll('#conversations li')[1].firstChild.click()")
    assert page.turns() == ["first", said] and page.run("document.querySelector('#system').value") == "Be kind."
    exported = page.run(
        "new Promise((done) => { const own = URL.createObjectURL; HTMLAnchorElement.prototype.click = () => {};"
        "URL.createObjectURL = (blob) => { blob.text().then(done); return own(blob); }; document.querySelector('#export').click(); })"
    )
    rows = [json.loads(line) for line in exported.splitlines()]
    said_first = [{"role": "user", "content": "first"}, {"role": "assistant", "content": said}]
    assert rows[1]["messages"] == [{"role": "system", "content": "Be kind."}, *said_first]
    page.click("#conversations li button[aria-label='Delete: second']")
    assert page.run(titles) == ["first"] and "is deleted" in page.notice()
    page.button("Undo")
    assert page.run(titles) == ["second", "first"]
    page.open()
    take_in(page, exported)
    assert page.run(titles) == ["second", "first"]
    take_in(page, '{"messages": 5}')
    page.until("document.querySelector('#notice').textContent.startsWith('Line 1 holds no conversation')")


def take_in(page: Page, text: str) -> None:
    page.run(
        f"(() => {{ const given = new DataTransfer(); given.items.add(new File([{json.dumps(text)}], 'a.jsonl'));"
        "const field = document.querySelector('#file'); field.files = given.files; field.dispatchEvent(new Event('change')); })()"
    )
    page.until("!document.querySelector('#notice').hidden")


def test_leaving_a_conversation_stops_its_answer_and_keeps_both_apart(page: Page) -> None:
    page.open(**LONG)
    page.begun("document.querySelector('#new').click()")
    page.say("first", wait=False)
    page.until(f"{IDLE} && document.querySelectorAll('#turns > li').length === 0")
    assert page.turns() == []
    page.click("#conversations button")
    assert page.turns()[0] == "first" and 0 < len(page.turns()[1]) < 500
    assert page.run("document.querySelectorAll('#conversations li').length") == 1


# -- what a model must not be able to do -------------------------------------------------------------------------------------------


def test_what_a_model_writes_is_never_markup(page: Page) -> None:
    evil = "<img src=x onerror=alert(1)><script>document.title='taken'</script>\n```\n<iframe src=//evil.example></iframe>\n```\n"
    page.open(form__kind="choice", form__text=evil.replace("\n", " "))
    page.say(evil)  # a person's text is none either
    assert "<img src=x onerror=alert(1)><script>" in page.turns()[1]
    page.fill("#form-kind", "regex")
    page.fill("#form-text", re.escape(evil).replace("\\\n", "\n").replace("\\ ", " "))
    assert "<iframe" in page.say("again")
    page.reload()
    page.click("#conversations button")
    assert page.run("document.querySelectorAll('main img, main script, main iframe').length") == 0
    assert page.run("document.title") == "Quire"


def test_the_policy_lets_the_page_ask_this_server_alone(server: Running) -> None:
    for path in ("/", "/page/page.js", "/page/page.css"):
        answer = server.client.get(path)
        policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
        assert policy["default-src"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert server.client.get(path, headers={"If-None-Match": answer.headers["etag"]}).status_code == 304
    html = server.client.get("/").text
    assert not re.search(r"""<script(?![^>]*\ssrc=)|\son\w+=|\sstyle=|https?://""", html)
    assert server.client.get("/page/../page.py").status_code == server.client.get("/page/none.js").status_code == 404


# -- for everybody -----------------------------------------------------------------------------------------------------------------


def test_everything_is_reached_with_the_keyboard(page: Page) -> None:
    page.open(**WORD)
    page.say("hello")
    page.run("document.querySelector('a, button, input, select, textarea').focus()")
    seen = [page.focus]
    while seen[-1] != "send" and len(seen) < 40:
        page.browser.press("Tab")
        seen.append(page.focus)
    for name in ("model", "show-settings", "show-help", "new", "hello", "export", "import", "Copy", "Edit", "Answer again", "say", "send"):
        assert name in seen, (name, seen)
    assert seen[0] == "Skip to the message"
    page.browser.press("Tab", SHIFT)
    assert page.focus == "say"
    page.browser.press("s", ALT)
    assert page.focus == "system"
    page.browser.press("Escape")
    assert page.focus == "show-settings" and page.run("document.querySelector('#settings').offsetWidth") == 0
    page.run("document.querySelector('#show-help').focus()")
    page.browser.press("Enter")
    page.until("document.querySelector('#help-dialog').open")
    page.browser.press("Escape")
    page.until("!document.querySelector('#help-dialog').open")
    assert page.focus == "show-help"


def test_every_control_has_a_name(page: Page) -> None:
    page.open(**WORD, tools="[]")
    page.say("hello")
    page.browser.press("s", ALT)
    page.browser.call("Accessibility.enable")
    nodes = page.browser.call("Accessibility.getFullAXTree")["nodes"]
    page.browser.call("Accessibility.disable")
    kinds = {"button", "textbox", "combobox", "checkbox", "spinbutton", "link", "searchbox", "listbox", "dialog"}
    controls = [node for node in nodes if not node.get("ignored") and node["role"]["value"] in kinds]
    assert len(controls) > 20
    assert [node for node in controls if not node.get("name", {}).get("value", "").strip()] == []


CONTRAST = """(() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (colour) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = (parts) => parts.slice(0, 3).map((v) => ((v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, at) => sum + v * [0.2126, 0.7152, 0.0722][at], 0);
  const under = (node) => { const own = rgb(getComputedStyle(node).backgroundColor); return own[3] ? own : under(node.parentElement); };
  return [...document.querySelectorAll("body *")].filter((node) => node.checkVisibility() && node.tagName !== "OPTION" &&
    [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim())).map((node) => {
      const [a, b] = [light(rgb(getComputedStyle(node).color)), light(under(node))];
      return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), node.id || node.className || node.tagName];
    });
})()"""


@pytest.mark.parametrize("dark", [False, True])
def test_texts_stand_out_and_fit_a_phone(page: Page, dark: bool) -> None:
    page.open(form__kind="regex", form__text="[a-z]{70}\n```\n[a-z]{70}\n```\n")
    page.say("x" * 150)
    page.browser.look(1200, 800, dark)
    page.browser.press("s", ALT)
    page.run("document.querySelector('#turns > li').classList.add('out')")
    page.run("document.querySelector('.token').dispatchEvent(new MouseEvent('mouseover', { bubbles: true }))")
    page.run("Promise.all(document.getAnimations().map((one) => one.finished))")
    found = page.run(CONTRAST)
    assert len(found) > 30 and min(found)[0] >= 4.5, sorted(found)[:5]
    page.browser.press("Escape")
    page.browser.press("Escape")
    page.browser.look(360, 640, dark)
    for button in ("", "#show-list", "#show-settings"):
        if button:
            page.click(button)
        assert page.run("[document.documentElement.scrollWidth, innerWidth]") == [360, 360], button
        page.browser.press("Escape")
    assert page.run("document.querySelector('#send').getBoundingClientRect().bottom") <= 640


# -- keys, and what fails ----------------------------------------------------------------------------------------------------------


def test_a_key_is_asked_for_once(browser: Browser, locked: Running) -> None:
    page = Page(browser, locked.url + "/")
    browser.open(page.url)
    page.until("document.querySelector('#key-dialog').open")
    assert page.run("document.querySelector('#key-wrong').hidden") and page.focus == "key"
    browser.type("a-wrong-key-of-the-page")
    browser.press("Enter")
    page.until("document.querySelector('#key-dialog').open && !document.querySelector('#key-wrong').hidden")
    browser.type(KEY)
    browser.press("Enter")
    page.until("document.querySelector('#model').options.length")
    page.reload()
    assert not page.run("document.querySelector('#key-dialog').open")
    page.fill("#max_tokens", "4")
    page.say("hello")
    assert page.roles() == ["user", "assistant"]
    page.click("#forget")
    page.say("again", wait=False)
    page.until("document.querySelector('#key-dialog').open")
    browser.type(KEY)
    browser.press("Enter")
    page.until(f"document.querySelectorAll('#turns > li').length === 4 && {IDLE}")  # what was said is answered then
    assert all("401" in line for line in browser.console)


def test_a_model_that_is_put_away_is_opened_when_it_is_asked(browser: Browser, locked: Running) -> None:
    page = Page(browser, locked.url + "/")
    browser.open(page.url)
    page.run(f"localStorage.setItem('quire.key', '{KEY}')")
    page.set({"max_tokens": "4"})
    page.reload()
    page.choose("base")
    assert "context 512" in page.run("document.querySelector('#facts').textContent")  # which its folder tells
    page.say("hello")
    assert page.roles() == ["user", "assistant"] and page.body()["model"] == "base"
    assert any(url.endswith("/v1/completions") for url, _ in browser.asked)
    assert "context 512" in page.run("document.querySelector('#facts').textContent")


def test_an_answer_that_breaks_off_is_kept_and_the_error_shown(browser: Browser, locked: Running) -> None:
    page = Page(browser, locked.url + "/")
    browser.open(page.url)
    page.run(f"localStorage.setItem('quire.key', '{KEY}')")
    page.set({**LONG, "form-text": "[a-z ]{9000}"})
    page.reload()
    page.say("hello", wait=False)
    page.until("document.querySelector('.assistant .text')?.textContent.length > 5")
    for child in children(locked.process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    said = page.answer()
    assert 5 < len(said) < 9000 and "Broken off: " in browser.text() and "ended while it answered" in page.notice()
    assert said in page.run("localStorage.getItem('quire.conversations')")


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(one) for one in found]


def test_the_page_is_in_the_wheel() -> None:
    inside = {file.distribution_path for file in WheelBuilder(str(ROOT)).recurse_included_files()}
    assert {f"quire/serve/page/{name}" for name in files()} <= inside
