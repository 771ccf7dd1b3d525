"""The rows, templates and settings that bring each fault about: a sound small set with one thing changed, the same for Quire and its peers.

A fault of the running job (a rate of zero, a weight that is no number) needs no rows of its own; the runners bring it about.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Row = dict[str, Any]

BOS, EOS, PAD = "<s>", "</s>", "<pad>"
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}"
    + EOS
    + "\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
OTHER = (
    "{% for m in messages %}{{ m['role'] | upper }}:\n{{ m['content'] }}"
    + EOS
    + " {% endfor %}{% if add_generation_prompt %}ASSISTANT:\n{% endif %}"
)
WITH_TOOLS = (
    "{% for tool in tools or [] %}{{ tool | tojson }}\n{% endfor %}{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}"
    "{% for call in m['tool_calls'] or [] %}<call>{{ call['function'] | tojson }}{% endfor %}"
    + EOS
    + "\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
WITHOUT_END = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
TWO_ROLES = (
    "{% for m in messages %}{% if m['role'] in ['user', 'assistant'] %}<|{{ m['role'] }}|>\n{{ m['content'] }}"
    + EOS
    + "\n{% endif %}{% endfor %}"
)
LAST_THOUGHT = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{% if m['role'] == 'assistant' %}{% generation %}"
    "{{ m['content'] if loop.last else m['content'].split('</think>')[-1] }}" + EOS + "{% endgeneration %}"
    "{% else %}{{ m['content'] }}" + EOS + "{% endif %}\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)

_COLOURS = ("red", "green", "blue", "white", "black", "brown", "grey", "pink")
_THINGS = ("house", "river", "letter", "engine", "garden", "window", "bridge", "lamp")


@dataclass(frozen=True, slots=True)
class Seed:
    """rows and held (the evaluation's): as they stand in JSONL. recipe: dotted keys; template: the start model's, or the recipe's."""

    task: str
    rows: tuple[Row, ...]
    held: tuple[Row, ...] = ()
    template: str = TEMPLATE
    recipe: Mapping[str, object] = field(default_factory=dict)


def sentence(n: int) -> str:
    return f"the {_COLOURS[n % 8]} {_THINGS[n // 8 % 8]} stands near the {_COLOURS[n // 64 % 8]} {_THINGS[(n + 3) % 8]}"


def turn(role: str, content: str, **more: object) -> Row:
    return {"role": role, "content": content, **more}


def chats(count: int = 24, long: int = 0, first: int = 0) -> tuple[Row, ...]:
    """Conversations of four turns, from number `first` on; `long` of ten have a last answer of 90 words."""
    return tuple(
        {
            "messages": [
                turn("user", f"what stands near number {n}?"),
                turn("assistant", sentence(n)),
                turn("user", "and then?"),
                turn("assistant", " ".join([sentence(n + 1)] * (10 if n % 10 < long else 1))),
            ]
        }
        for n in range(first, first + count)
    )


def prompts(count: int = 24, words: int = 6) -> tuple[Row, ...]:
    return tuple({"prompt": " ".join([sentence(n)] * -(-words // 9)) + " :", "completion": " " + sentence(n + 5)} for n in range(count))


def labelled(count: int = 48, first: int = 0, sentences: int = 1) -> tuple[Row, ...]:
    return tuple(
        {"text": ", ".join(sentence(n * 7 + more) for more in range(sentences)), "label": ("negative", "neutral", "positive")[n % 3]}
        for n in range(first, first + count)
    )


def tagged(count: int = 24) -> tuple[Row, ...]:
    """Words with the thing of each sentence tagged."""
    rows = [sentence(n).split() for n in range(count)]
    return tuple({"words": words, "tags": ["B-THING" if word in _THINGS else "O" for word in words]} for words in rows)


def questions(count: int = 24, start: int | None = None) -> tuple[Row, ...]:
    """SQuAD rows; `start`: what all of them say, instead of where the answer stands."""
    found = []
    for n in range(count):
        context, answer = f"Look: {sentence(n)}.", _THINGS[n // 8 % 8]
        answers = {"text": [answer], "answer_start": [context.index(answer) if start is None else start]}
        found.append({"id": str(n), "question": "what stands there?", "context": context, "answers": answers})
    return tuple(found)


def _spelt() -> tuple[Row, ...]:
    spellings = {3: "positive ", 17: "Positive", 31: "NEGATIVE"}
    return tuple(row | {"label": spellings.get(n, row["label"])} for n, row in enumerate(labelled()))


def _disguised(text: str) -> str:
    """The same to a reader: another case, another space, one word less."""
    return text.replace("the", "The", 1).replace(" near ", "  near ").replace(" stands", "", 1) + "."


def _with_tools() -> tuple[Row, ...]:
    call = {"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": {"place": "garden"}}}
    tools = [
        {"type": "function", "function": {"name": "look_up", "description": "what stands at a place", "parameters": {"type": "object"}}}
    ]
    return tuple(
        {
            "messages": [
                turn("system", "answer in one word"),
                *row["messages"][:1],
                turn("assistant", "", tool_calls=[call]),
                turn("tool", sentence(n), tool_call_id="c1"),
                *row["messages"][1:],
            ]
        }
        | {"tools": tools}
        for n, row in enumerate(chats())
    )


def _thoughtful() -> tuple[Row, ...]:
    def thinking(m: Row) -> Row:
        return m | {"content": f"<think>{m['content'][4:12]}</think>{m['content']}"} if m["role"] == "assistant" else m

    return tuple({"messages": [thinking(m) for m in row["messages"]]} for row in chats())


SEEDS: dict[str, Seed] = {
    "nothing-trained": Seed("chat", prompts(words=90), recipe={"data.longest": 64}),
    "end-never-trained": Seed("chat", chats(), template=WITHOUT_END),
    "end-masked-as-padding": Seed("chat", chats()),
    "bos-twice": Seed("chat", tuple(row | {"prompt": BOS + row["prompt"]} for row in prompts())),
    "template-differs": Seed("chat", chats(), template=OTHER),
    "user-turns-trained": Seed("chat", chats()),
    "earlier-turns-untrained": Seed("chat", _thoughtful(), template=LAST_THOUGHT),
    "turns-dropped": Seed("chat", _with_tools(), template=TWO_ROLES),
    "answers-cut": Seed("chat", chats(long=6), recipe={"data.longest": 96}),
    "padding-trained": Seed("chat", chats(8, long=1)),
    "packed-rows-mix": Seed("chat", prompts(2)),
    "label-unknown": Seed("classify", labelled(), held=(*labelled(6, 60), {"text": sentence(3), "label": "mixed"})),
    "label-spellings": Seed("classify", _spelt()),
    "label-order": Seed("classify", labelled(), held=tuple(row for row in reversed(labelled(12, 60)) if row["label"] != "negative")),
    "last-token-is-padding": Seed("classify", labelled(8)),
    "head-not-saved": Seed("classify", labelled(), recipe={"adapt.method": "lora"}),
    "tags-misaligned": Seed("tag", tuple(row | {"words": row["words"][1:]} if n % 8 == 0 else row for n, row in enumerate(tagged()))),
    "answer-offset": Seed("answer", questions(start=0)),
    "test-rows-leak": Seed("classify", (*labelled(), *labelled(2, 60)), held=labelled(20, 60)),
    "near-copies-leak": Seed(
        "classify",
        (*labelled(sentences=5), *(row | {"text": _disguised(row["text"])} for row in labelled(2, 60, 5))),
        held=labelled(20, 60, 5),
    ),
    "loss-by-accumulation": Seed("chat", chats(8, long=3)),
    "frozen-weights-move": Seed("chat", chats()),
    "targets-match-nothing": Seed("chat", chats(), recipe={"adapt.method": "lora", "adapt.targets": ("q_proj", "qv_proj")}),
    "adapter-without-gradient": Seed("chat", chats(), recipe={"adapt.method": "lora", "train.checkpointing": True}),
    "rate-zero": Seed("chat", chats(), recipe={"optim.lr": 0.0}),
    "new-tokens-frozen": Seed("chat", chats(), recipe={"adapt.method": "lora", "adapt.targets": ("q_proj", "v_proj")}),
    "nan-goes-on": Seed("chat", chats()),
    "resume-rereads": Seed("chat", chats()),
    "other-base": Seed("chat", chats(), recipe={"adapt.method": "lora"}),
    "evaluation-by-batches": Seed("chat", chats(8), held=chats(9, long=2, first=40)),
}
