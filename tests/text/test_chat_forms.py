"""The usual forms of chat templates render and encode as in transformers; mutated ones stay within their budgets.

The templates beside this file are written for these tests after the public descriptions of each format.
"""

from __future__ import annotations

import json
import random
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from quire.errors import DataError, ModelError
from quire.text.template import CHATML, Template
from quire.text.tokenizer import Tokenizer
from quire.text.training import SpecialTokens, train
from quire.types import Message
from tests.text.conftest import CHAT, corpus

FORMS = {path.stem: path.read_text() for path in sorted((Path(__file__).parent / "templates").glob("*.jinja"))}
WITH_TOOLS = ("llama3_tools", "mistral_v3", "qwen25")
SPECIAL = SpecialTokens(
    {"bos": "<s>", "eos": "</s>", "pad": "<pad>"},
    tuple(token for token in CHAT.others if token not in ("<s>", "</s>"))
    + ("<|eot_id|>", "<start_of_turn>", "<end_of_turn>", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[TOOL_RESULTS]")
    + ("[/TOOL_RESULTS]", "<tool_call>", "</tool_call>"),
)

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"{name} of a place",
            "parameters": {"type": "object", "properties": {"place": {"type": "string", "description": 'é "<tag>" & \\ 东京'}}},
        },
    }
    for name in ("weather", "time")
]


def call(id: str, name: str, **arguments: Any) -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


SYSTEM = {"role": "system", "content": "  Be brief. Ελληνικά 👋🏽\n"}
USER = {"role": "user", "content": ' What\'s 2 + 2?\n\tAnd <b>3</b> & "4"? '}
ANSWER = {"role": "assistant", "content": "\n4, and 7.\n\n"}
MORE = {"role": "user", "content": "ありがとう"}
DIALOGS: list[list[dict[str, Any]]] = [
    [USER],
    [USER, ANSWER],
    [USER, ANSWER, MORE],
    [USER, ANSWER, MORE, {"role": "assistant", "content": "x"}],
    [SYSTEM, USER],
    [SYSTEM, USER, ANSWER, MORE],
    [USER, MORE],
    [SYSTEM],
    [{"role": "assistant", "content": "first"}, USER],
    [{"role": "poet", "content": "a role that no one knows"}],
]
CALLING: list[list[dict[str, Any]]] = [
    [USER],
    [SYSTEM, USER, ANSWER, MORE],
    [USER, {"role": "assistant", "content": "", "tool_calls": [call("abcdefghi", "weather", place="Tromsø", days=3, exact=None)]}],
    [
        SYSTEM,
        MORE,
        {"role": "assistant", "content": "", "tool_calls": [call("abcdefghi", "weather", place='a "b"')]},
        {"role": "tool", "content": '{"degrees": -3.5}', "tool_call_id": "abcdefghi"},
        ANSWER,
    ],
    [
        USER,
        {
            "role": "assistant",
            "content": "Both.",
            "tool_calls": [call("abcdefghi", "weather", p=[1, {"q": True}]), call("123456789", "time")],
        },
        {"role": "tool", "content": "1", "tool_call_id": "abcdefghi"},
        {"role": "tool", "content": "2", "tool_call_id": "123456789"},
    ],
    [USER, {"role": "assistant", "content": "", "tool_calls": [call("short", "time")]}],
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train("bpe", corpus(), 700, special=SPECIAL)


@pytest.fixture(scope="module")
def reference(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("forms")
    tokenizer.save(folder)
    return AutoTokenizer.from_pretrained(folder)


def compare(tokenizer: Tokenizer, reference: Any, name: str, dialog: list[dict[str, Any]], tools: Any, prompt: bool, **options: Any) -> str:
    """The text, equal to the reference's, with equal ids; or "" when both refuse."""
    import jinja2

    template = Template(FORMS[name], tokenizer.special)
    given = {"chat_template": FORMS[name], "tools": tools or None, "add_generation_prompt": prompt, **options}
    try:
        expected = reference.apply_chat_template(dialog, tokenize=False, **given)
    except jinja2.TemplateError as error:
        with pytest.raises(DataError) as refusal:
            template.render(dialog, tools, prompt, options=options)
        assert str(error) in str(refusal.value)
        return ""
    assert template.render(dialog, tools, prompt, options=options).text == expected
    ids = reference.apply_chat_template(dialog, tokenize=True, return_dict=True, **given)["input_ids"]
    assert template.encode(tokenizer, dialog, tools, prompt, mask=False, options=options).ids == ids
    return str(expected)


@pytest.mark.parametrize("prompt", [False, True])
@pytest.mark.parametrize("name", FORMS)
def test_forms(tokenizer: Tokenizer, reference: Any, name: str, prompt: bool) -> None:
    rendered = [compare(tokenizer, reference, name, dialog, [], prompt) for dialog in DIALOGS]
    assert rendered[0] and rendered[3]
    if name in ("llama2", "mistral_v1", "mistral_v3", "gemma"):
        assert not rendered[6]  # two turns of the user: raise_exception


@pytest.mark.parametrize("prompt", [False, True])
@pytest.mark.parametrize("name", WITH_TOOLS)
def test_tools(tokenizer: Tokenizer, reference: Any, name: str, prompt: bool) -> None:
    rendered = [compare(tokenizer, reference, name, dialog, TOOLS, prompt) for dialog in CALLING]
    assert all(rendered[:4])
    assert all("東京" in text or "东京" in text for text in rendered[:4])
    if name == "mistral_v3":
        assert not rendered[5]  # the id of a call is too short


def test_options_reach_the_template(tokenizer: Tokenizer, reference: Any) -> None:
    for options in ({"date_string": "1 May 2030"}, {"tools_in_user_message": False}, {"tools_in_user_message": True, "date_string": ""}):
        assert compare(tokenizer, reference, "llama3_tools", CALLING[3], TOOLS, True, **options)


def test_the_date_is_now(tokenizer: Tokenizer) -> None:
    template = Template(FORMS["llama3_tools"], tokenizer.special)
    text = template.render([USER], now=datetime(2031, 2, 3)).text
    assert "Today Date: 03 Feb 2031\n" in text


def test_prefixes_prove_the_mask_of_real_forms(tokenizer: Tokenizer) -> None:
    """Without generation marks, what the assistant writes is found where prompts are prefixes."""
    for name, taught in (
        ("chatml", "4, and 7.<|im_end|>x<|im_end|>"),
        ("qwen25", "4, and 7.<|im_end|>x<|im_end|>"),
        ("gemma", "4, and 7.<end_of_turn>x<end_of_turn>"),
    ):
        dialog = [USER, {"role": "assistant", "content": "4, and 7."}, MORE, {"role": "assistant", "content": "x"}]
        tokens = Template(FORMS[name], tokenizer.special).encode(tokenizer, dialog)
        assert tokenizer.decode([id for id, trained in zip(tokens.ids, tokens.trained) if trained], special=True) == taught


@pytest.mark.parametrize(
    "arguments", ["", "indent=2", "indent=4, ensure_ascii=True", "sort_keys=True", "separators=(',', ':')", "indent=1, sort_keys=true"]
)
def test_ways_to_write_json(tokenizer: Tokenizer, reference: Any, arguments: str) -> None:
    source = f"{{{{ tools | tojson({arguments}) }}}}|{{{{ messages[0] | tojson({arguments}) }}}}"
    dialog = [{"role": "user", "content": "é <b>'\"&\\\n\u2028 \x7f 👋"}]
    assert Template(source).render(dialog, TOOLS).text == reference.apply_chat_template(dialog, TOOLS, chat_template=source, tokenize=False)


# -- several templates ---------------------------------------------------------------------------------------------------------------


def test_a_template_for_tools(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """A list of named templates in tokenizer_config.json, and the same as files: `tool_use` is taken where there are tools, as there."""
    from transformers import AutoTokenizer

    tokenizer.save(tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    named = [{"name": "default", "template": FORMS["chatml"]}, {"name": "tool_use", "template": FORMS["qwen25"]}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": named}))
    listed = Template.open(tmp_path, tokenizer)
    assert listed is not None and list(listed.named) == ["tool_use"]
    listed.save(tmp_path / "files")
    tokenizer.save(tmp_path / "files")
    again = Template.open(tmp_path / "files", tokenizer)
    assert again is not None and again.canonical() == listed.canonical() != Template(FORMS["chatml"]).canonical()
    for folder in (tmp_path, tmp_path / "files"):
        reference = AutoTokenizer.from_pretrained(folder)
        for tools in ([], TOOLS):
            expected = reference.apply_chat_template(CALLING[3], tools=tools or None, tokenize=False)
            assert listed.render(CALLING[3], tools).text == again.render(CALLING[3], tools).text == expected
    assert listed.encode(tokenizer, DIALOGS[3]).ids == Template(FORMS["chatml"], tokenizer.special).encode(tokenizer, DIALOGS[3]).ids
    assert listed.encode(tokenizer, CALLING[3], TOOLS, mask=False).ids != listed.encode(tokenizer, CALLING[3], mask=False).ids


def test_names_and_numbers_of_templates(tmp_path: Path, tokenizer: Tokenizer) -> None:
    for listed, message in (
        ([{"name": "default", "template": "a"}, {"name": "../x", "template": "b"}], "has the name '../x'"),
        ([{"name": "default", "template": "a"}, {"name": "rag", "template": 3}], "must be text, not 3"),
        ([{"name": "default", "template": "a"}] + [{"name": f"n{n}", "template": "b"} for n in range(17)], "17 named ones; at most 16"),
        ([{"name": "default", "template": "a"}, {"name": "rag", "template": "{% for %}"}], "named 'rag' cannot be used"),
    ):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": listed}))
        with pytest.raises(ModelError, match=message):
            Template.open(tmp_path, tokenizer)


# -- templates that are damaged or hostile --------------------------------------------------------------------------------------------

PARTS = (
    *(
        "{% for a in range(100000) %}",
        "{% endfor %}",
        "{{ ",
        " }}",
        "{% if ",
        " %}",
        "{% endif %}",
        "messages",
        "messages[0].content * 99999",
    ),
    *("| tojson", "| list", "~ 'x' * 10**6", "loop", ".__class__", "namespace(a=1)", "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"),
    *("range(10**9)", "'%s' % 3", "| join('')", "[[1]] * 9999", "9**9**9", "{% set x = ", "\n", "raise_exception('no')", "| map('upper')"),
)


def test_2000_mutations_of_templates(tokenizer: Tokenizer) -> None:
    """Every one renders or is refused by an error of ours, none for longer than its budget and a little."""
    dice = random.Random(0)
    sources = [FORMS["chatml"], FORMS["gemma"], FORMS["zephyr"], "{% for m in messages %}{{ m.role ~ m.content | trim }}{% endfor %}"]
    rendered = refused = 0
    slowest = 0.0
    for _ in range(2000):
        source = dice.choice(sources)
        for _ in range(dice.randint(1, 3)):
            at = dice.randrange(len(source) + 1)
            end = min(len(source), at + dice.choice((0, 0, 1, 5)))
            source = source[:at] + dice.choice((dice.choice(PARTS), chr(dice.randrange(32, 127)), "")) + source[end:]
        began = time.thread_time()
        try:
            Template(source, tokenizer.special).render(DIALOGS[1])
            rendered += 1
        except (ModelError, DataError) as error:
            assert str(error)
            refused += 1
        slowest = max(slowest, time.thread_time() - began)
    assert rendered > 200 and refused > 200
    assert slowest < 3  # twice the budget, since everything is rendered twice, and reading the template


def test_our_own_template_is_one_of_them(tokenizer: Tokenizer) -> None:
    dialog = [Message("user", "a"), Message("assistant", "b")]
    plain = Template(FORMS["chatml"], tokenizer.special).encode(tokenizer, dialog)
    assert Template(CHATML, tokenizer.special).encode(tokenizer, dialog).ids == plain.ids
