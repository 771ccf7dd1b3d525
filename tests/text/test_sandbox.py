"""What a hostile template tries: to reach the program, to lose the marks, to use everything up. It gets an error, soon."""

from __future__ import annotations

import time
from datetime import datetime

import pytest

from quire.errors import DataError, ModelError, QuireError
from quire.text import budget
from quire.text.template import Template
from quire.types import Message

HELLO = [Message("user", "hello"), Message("assistant", "world")]


def render(source: str, content: str = "hello") -> str:
    return Template(source, {"eos": "</s>"}).render([Message("user", content)]).text


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.__class__ }}",
        "{{ messages[0].__init__.__globals__ }}",
        "{{ messages[0]['__class__'] }}",
        "{{ ''['__class__'] }}",
        "{{ range.__globals__ }}",
        "{{ raise_exception.__globals__['os'] }}",
        "{{ dict.__mro__ }}",
        "{{ namespace.__globals__ }}",
        "{{ namespace()._Namespace__attrs }}",
        "{{ self.__init__ }}",
        "{{ self._TemplateReference__context }}",
        "{{ loop }}",
        "{% for m in messages %}{{ loop._recurse }}{% endfor %}",
        "{% for m in messages %}{{ loop.__class__ }}{% endfor %}",
        "{{ cycler }}",
        "{{ lipsum.__globals__ }}",
        "{{ joiner }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'a': 1}) }}",
        "{{ messages[0].pop('role') }}",
        "{{ messages[0].fromkeys('ab') }}",
        "{{ (1).to_bytes(1000000000, 'big') }}",
        "{{ 'a'.encode() }}",
        "{{ '{0.__class__}'.format('a') }}",
        "{{ '{a.__class__}'.format_map({'a': 'b'}) }}",
        "{{ 'a'.center(1000000000) }}",
        "{{ 'a'.ljust(1000000000) }}",
        "{{ 'a'.zfill(1000000000) }}",
        "{{ 'a'.translate({97: 'b'}) }}",
        "{{ '%s' % 'a' }}",
        "{{ '%1000000000s' % 'a' }}",
        "{{ 'a'|format('b') }}",
        "{{ 'a'|attr('__class__') }}",
        "{{ messages|map(attribute='__class__')|join }}",
        "{{ messages|map('attr', '__class__')|list }}",
        "{{ 'a'|pprint }}",
        "{{ 'a'|random }}",
        "{{ 'a'|xmlattr }}",
        "{{ 'a'|center(1000000000) }}",
        "{% include 'other' %}",
        "{% import 'other' as o %}",
        "{% from 'other' import o %}",
        "{% extends 'other' %}",
        "{% autoescape true %}{{ messages[0].content }}{% endautoescape %}",
        "{% do messages.append(1) %}",
        "{{ messages[0].items }}",
        "{{ range }}",
        "{% macro m() %}{% endmacro %}{{ m.__globals__ }}",
        "{% set ns = namespace(_a=1) %}",
        "{{ dict(a=1).__class__ }}",
        "{{ namespace }}",
        "{{ undefined.thing }}",
    ],
)
def test_reaching_out(source: str) -> None:
    """Refused, or empty as anything undefined is; never a part of the program."""
    try:
        text = render(source)
    except (ModelError, DataError) as error:
        assert str(error)
    else:
        assert text == "", source


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
        "{% for a in range(1000000000) %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% for a in [[[[[[[1]]]]]]] recursive %}{{ loop(range(100000)) }}{% endfor %}",
        "{% for m in [1] recursive %}{{ loop([1, 1]) }}{% endfor %}",
        "{{ 'a' * 1000000000 }}",
        "{{ 1000000000 * 'a' }}",
        "{{ [1] * 1000000000 }}",
        "{{ 10 ** 10 ** 10 }}",
        "{{ 2 ** 100000000 }}",
        "{% set ns = namespace(n=2) %}{% for i in range(60) %}{% set ns.n = ns.n * ns.n %}{% endfor %}{{ ns.n }}",
        "{% set ns = namespace(s='aaaaaaaaaa') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}",
        "{% set ns = namespace(s='aaaaaaaaaa') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
        "{% set ns = namespace(s='aaaaaaaaaa') %}{% for i in range(60) %}{% set ns.s = ns.s|replace('a', 'aa') %}{% endfor %}",
        "{% set ns = namespace(s='aaaaaaaaaa') %}{% for i in range(60) %}{% set ns.s = ns.s.replace('', ns.s) %}{% endfor %}",
        "{% set ns = namespace(s='aaaaaaaaaa') %}{% for i in range(60) %}{% set ns.s = ns.s.join([ns.s] * 99) %}{% endfor %}",
        "{% set ns = namespace(s='aaaaaaaaaa') %}{% for i in range(60) %}{% set ns.s = ([ns.s] * 99)|join(ns.s) %}{% endfor %}",
        "{% set ns = namespace(s='\na') %}{% for i in range(60) %}{% set ns.s = ns.s|indent(999999) %}{% endfor %}",
        "{% set ns = namespace(s='a') %}{% for i in range(60) %}{% set ns.s = [ns.s, ns.s]|tojson %}{% endfor %}{{ ns.s }}",
        "{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = ns.l + ns.l %}{% endfor %}{{ ns.l }}",
        "{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l }}",
        "{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = (ns.l, ns.l) %}{% endfor %}{{ ns.l == ns.l }}",
        "{% set ns = namespace(l=1) %}{% for i in range(60) %}{% set ns.l = {'a': ns.l, 'b': ns.l} %}{% endfor %}{{ ns.l|tojson }}",
        "{% set ns = namespace(l=1) %}{% for i in range(60) %}{% set ns.l = dict(a=ns.l, b=ns.l) %}{% endfor %}{{ ns.l }}",
        "{% set ns = namespace(l=1) %}{% for i in range(99999) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l }}",
        "{% set s = 'a' * 1000000 %}{% for i in range(100000) %}{{ s.strip('b') == s.upper() }}{% endfor %}",
        "{% set s = 'a ' * 500000 %}{% for i in range(100000) %}{% set x = s.split() %}{% endfor %}",
        "{% set s = 'a' * 1000000 %}{% for i in range(100000) %}{% set x = s[1:] %}{% endfor %}",
        "{% set s = 'a' * 1000000 %}{{ s|list|length }}{{ s|sort }}{{ s|unique|list }}{{ s|map('upper')|join }}",
        "{% set s = 'ab' * 400000 %}{% for a in s %}{% for b in s %}{% endfor %}{% endfor %}",
        "{{ range(100000)|map('string')|map('upper')|map('lower')|map('upper')|join|length }}" * 50,
        "{{ 1|round(1000000000) }}",
        "{{ messages|tojson(indent=1000000000) }}",
        "{{ strftime_now('%Y' * 100000) }}",
        "{{ " + "(" * 30000 + "1" + ")" * 30000 + " }}",
        "{{ " + "[" * 30000 + "]" * 30000 + " }}",
        "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
        "{% for a in [1] %}" * 40 + "{% endfor %}" * 40,
        "{{ " + "-" * 60000 + "1 }}",
        "{{ " + "1+" * 30000 + "1 }}",
        "{{ " + "not " * 15000 + "1 }}",
        "{" * 65000,
        "{{" * 32000,
        "{#" * 32000,
        "{% raw %}" * 7000,
        "{{ '" + "a" * 65000,
    ],
)
def test_using_everything_up(source: str) -> None:
    """An error in good time, or a harmless text of bounded length."""
    began = time.thread_time()
    try:
        assert len(render(source)) <= budget.LARGEST_TEXT
    except QuireError as error:
        assert len(str(error)) < 2000
    assert time.thread_time() - began < 3.5


def test_limits_say_what_they_are() -> None:
    with pytest.raises(DataError, match=r"the chat template needs too much for these messages: a list of 1,000,000,000 items"):
        render("{% for a in range(1000000000) %}{% endfor %}")
    with pytest.raises(DataError, match=r"a text of 1,048,577 characters where 1,048,576 are the most"):
        render("{{ 'a' * 1048577 }}")
    with pytest.raises(ModelError, match=r"the chat template has 65,537 characters; at most 65,536 are allowed"):
        Template("a" * 65537)
    with pytest.raises(ModelError, match=r"{% include %} is not allowed in a chat template"):
        Template("{% include 'a' %}")
    with pytest.raises(ModelError, match=r"cannot be used: .*No filter named 'center'"):
        Template("{{ 'a'|center }}")
    with pytest.raises(ModelError, match=r"formatting a string with % is not allowed"):
        render("{{ '%s' % messages[0].content }}")
    with pytest.raises(ModelError, match=r"does what a template may not do: access to attribute '__class__'"):
        render("{{ ''.__class__.__mro__ }}")


def test_time_is_counted_for_this_thread_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert budget.Budget(datetime.now()).seconds == budget.SECONDS == 1.0
    clock = iter([0.0, 0.9, 1.1])
    monkeypatch.setattr(budget.time, "thread_time", lambda: next(clock))
    allowed = budget.Budget(datetime.now())
    allowed.step()
    with pytest.raises(budget.BudgetError, match=r"more than 1\.0 seconds"):
        allowed.step()


def test_long_conversations_fit() -> None:
    """A thousand turns of real length are well within the budget."""
    from quire.text.template import CHATML

    turns = [Message("user" if turn % 2 == 0 else "assistant", f"turn {turn}: " + "some words " * 60) for turn in range(1000)]
    assert len(Template(CHATML).render(turns).text) > 650_000
    for _ in range(3):
        Template(CHATML).render(turns[:300])


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ 3 + 4 * 2 - 1 }} {{ 7 % 4 }} {{ 2 ** 8 }} {{ 7 // 2 }} {{ 1 / 4 }}", "10 3 256 3 0.25"),
        ("{{ '=' * 5 }}{{ [1] + [2] }}{{ [0] * 3 }}", "=====[1, 2][0, 0, 0]"),
        ("{{ none }} {{ true }} {{ undefined }} {{ 1.5 }}", "None True  1.5"),
        ("{{ 'a' ~ 1 ~ none ~ true ~ missing }}", "a1NoneTrue"),
        ("{% set ns = namespace(a=1) %}{% for i in range(3) %}{% set ns.a = ns.a + i %}{% endfor %}{{ ns.a }}", "4"),
        ("{% for a, b in {'x': 1, 'y': 2}.items() %}{{ a }}{{ b }}{{ ',' if not loop.last }}{% endfor %}", "x1,y2"),
        ("{% for a in [1, 2, 3, 4] %}{% if a == 2 %}{% continue %}{% elif a == 4 %}{% break %}{% endif %}{{ a }}{% endfor %}", "13"),
        ("{% for a in [1, [2, [3]]] recursive %}{{ loop(a) if a is iterable else a }}{% endfor %}", "123"),
        ("{{ ' a '|trim }}{{ 'xax'|trim('x') }}{{ 'ab'|upper }}{{ 'AB'|lower }}{{ 'ab cd'|title }}{{ 'ab'|capitalize }}", "aaABabAb CdAb"),
        ("{{ [3, 1, 2]|sort|join(',') }}{{ [1, 1, 2]|unique|list }}{{ 'abc'|reverse }}{{ [1, 2]|reverse|list }}", "1,2,3[1, 2]cba[2, 1]"),
        ("{{ [{'a': 1}, {'a': 2}]|map(attribute='a')|join }}{{ [{'a': 1}, {}]|selectattr('a', 'defined')|list|length }}", "121"),
        ("{{ ['a', 'b']|map('upper')|join('-') }}{{ [1, 2, 3]|select('odd')|list }}{{ [1, 2]|reject('odd')|list }}", "A-B[1, 3][2]"),
        ("{% for g in [{'k': 1, 'v': 2}]|groupby('k') %}{{ g.grouper }}{{ g.list|length }}{% endfor %}", "11"),
        ("{{ [1, 2]|first }}{{ 'ab'|last }}{{ [1, 2]|sum }}{{ [1, 5]|max }}{{ -3|abs }}{{ 2.567|round(1) }}{{ '7'|int + 1 }}", "1b3532.68"),
        ("{{ missing|default('d') }}{{ ''|default('e', true) }}{{ 'abc'|length }}{{ [1, 2]|count }}{{ 3|string + 'x' }}", "de323x"),
        (
            "{{ {'b': 1, 'a': 'é'}|tojson }}{{ {'b': 1, 'a': 2}|dictsort }}{{ {'a': 1}|items|list }}",
            '{"b": 1, "a": "é"}' + "[('a', 2), ('b', 1)][('a', 1)]",
        ),
        ("{{ {'a': [1, {}]}|tojson(indent=2) }}", '{\n  "a": [\n    1,\n    {}\n  ]\n}'),
        ("{{ 'a\nb'|indent(2) }}|{{ 'a\n\nb'|indent(1, true) }}|{{ 'a\n\nb'|indent(1, blank=true) }}", "a\n  b| a\n\n b|a\n \n b"),
        (
            "{{ 'a,b,c'.split(',')[1] }}{{ 'abc'[1:] }}{{ 'abc'[-1] }}{{ 'a-b'.replace('-', '+') }}{{ 'abc'.startswith('ab') }}",
            "bbcca+bTrue",
        ),
        (
            "{{ ' a'.lstrip() }}{{ 'a,b'.partition(',')[2] }}{{ 'ab' in 'cabd' }}{{ 'A'.lower() == 'a' }}{{ ', '.join(['x', 'y']) }}",
            "abTrueTruex, y",
        ),
        (
            "{% macro m(a, b='z') %}<{{ a }}{{ b }}{{ caller() if caller }}>{% endmacro %}{{ m(1) }}{% call m(2) %}c{% endcall %}",
            "<1z><2zc>",
        ),
        ("{% set x %}in {{ 1 }}{% endset %}{{ x }}{% filter upper %}up{% endfilter %}{% with y = 3 %}{{ y }}{% endwith %}", "in 1UP3"),
        ("{% if messages[0].content is string and messages is iterable and messages[0] is mapping %}yes{% endif %}", "yes"),
        ("{{ messages[0]['content'] }}{{ messages[0].get('x', 'no') }}{{ messages[-1].role }}{{ messages|length }}", "hellonouser1"),
        ("  {% if true %}\n  x\n  {% endif %}\n", "  x\n"),
        ("{{ eos_token }}{{ bos_token }}", "</s>"),
        ("{{ 'x' if tools else 'none' }}{{ tools is none }}{{ documents is none }}{{ add_generation_prompt }}", "noneTrueTrueFalse"),
        ("{% block b %}in{% endblock %}{{ self.b() }}", "inin"),
    ],
)
def test_what_templates_use(source: str, text: str) -> None:
    assert render(source) == text


def test_now_is_told_once() -> None:
    now = datetime(2024, 7, 26, 12, 30)
    source = "{{ strftime_now('%d %b %Y') }} {{ strftime_now('%H:%M') }}"
    assert Template(source).render(HELLO, now=now).text == "26 Jul 2024 12:30"
    assert len(Template("{{ strftime_now('%Y-%m-%d') }}").render(HELLO).text) == 10
