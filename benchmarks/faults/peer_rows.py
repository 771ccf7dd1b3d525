"""Peers on faults of the rows: what is trained, labels, splits."""

from __future__ import annotations

from typing import Any

import torch
import transformers

from .attempts import Seen
from .peers import ONE_STEP, apart, causal, classes, fit, loss_of, model, peer, seq2seq, tokenizer, weights
from .seeds import BOS, EOS, SEEDS, TEMPLATE, Row

NAMES = ("negative", "neutral", "positive")


def _ends(words: Any, rows: list[Row]) -> tuple[int, int]:
    """How many end tokens are read and how many are labels."""
    end = words.eos_token_id
    return sum(row["input_ids"].count(end) for row in rows), sum(list(row["labels"]).count(end) for row in rows)


@peer("nothing-trained", "label", "loss", "truncat", "mask")
def nothing_trained() -> Seen:
    """Prompt and answer in one row, the prompt masked, the tokenizer told to truncate."""
    words, seed = tokenizer(), SEEDS["nothing-trained"]
    rows = []
    for row in seed.rows:
        ids = words(row["prompt"] + row["completion"] + EOS, truncation=True, max_length=64)["input_ids"]
        prompt = len(words(row["prompt"])["input_ids"])
        rows.append({"input_ids": ids, "labels": ([-100] * prompt + ids[prompt:])[: len(ids)]})
    losses = loss_of(fit(model(words), rows, seq2seq(words)))
    return all(set(row["labels"]) == {-100} for row in rows), f"{len(rows)} rows without a label, losses logged: {losses}"


@peer("end-never-trained", "eos", "end")
def end_never_trained() -> Seen:
    words = tokenizer(SEEDS["end-never-trained"].template)
    rows = causal(words, SEEDS["end-never-trained"].rows)
    losses = loss_of(fit(model(words), rows, seq2seq(words)))
    return _ends(words, rows)[1] == 0, f"no end token among the labels of {len(rows)} chats; losses {losses}"


@peer("end-masked-as-padding", "eos", "pad")
def end_masked_as_padding() -> Seen:
    """The language modelling guide: pad = eos and DataCollatorForLanguageModeling."""
    words = tokenizer(pad=EOS)
    rows = [{"input_ids": row["input_ids"]} for row in causal(words, SEEDS["end-masked-as-padding"].rows)]
    collate = transformers.DataCollatorForLanguageModeling(words, mlm=False)
    fit(model(words), rows, collate)
    batch = collate([dict(row) for row in rows])
    read, trained = int((batch["input_ids"] == words.eos_token_id).sum()), int((batch["labels"] == words.eos_token_id).sum())
    return trained == 0, f"{read} end tokens or padding read, {trained} of them labels"


@peer("bos-twice", "bos", "begin")
def bos_twice() -> Seen:
    words, seed = tokenizer(), SEEDS["bos-twice"]
    rows = [{"input_ids": ids, "labels": list(ids)} for ids in (words(row["prompt"] + row["completion"])["input_ids"] for row in seed.rows)]
    fit(model(words), rows, seq2seq(words))
    return all(
        row["input_ids"][:2] == [words.bos_token_id] * 2 for row in rows
    ), f"first ids {rows[0]['input_ids'][:3]}, begin token {BOS!r} is 1"


@peer("template-differs", "template")
def template_differs() -> Seen:
    """Trained with a template given by the call; saved and served with the tokenizer's own."""
    words, seed = tokenizer(TEMPLATE), SEEDS["template-differs"]
    turns = [row["messages"] for row in seed.rows]
    ids = [words.apply_chat_template(chat, chat_template=seed.template, return_dict=True)["input_ids"] for chat in turns]
    fit(model(words), [{"input_ids": row, "labels": list(row)} for row in ids], seq2seq(words))
    served = words.apply_chat_template(turns[0][:1], add_generation_prompt=True, return_dict=True)["input_ids"]
    return served != ids[0][: len(served)], f"served {words.decode(served)!r}, trained {words.decode(ids[0][: len(served)])!r}"


@peer("user-turns-trained", "generation", "mask", "assistant")
def user_turns_trained() -> Seen:
    """The mask that the tokenizer offers, for a template without marks."""
    words, seed = tokenizer(), SEEDS["user-turns-trained"]
    rows = []
    for row in seed.rows:
        found = words.apply_chat_template(row["messages"], return_dict=True, return_assistant_tokens_mask=True)
        mask = found["assistant_masks"]
        rows.append(
            {"input_ids": found["input_ids"], "labels": [i if kept else -100 for i, kept in zip(found["input_ids"], mask, strict=True)]}
        )
    fit(model(words), rows, seq2seq(words))
    trained = sum(label != -100 for row in rows for label in row["labels"])
    return trained == 0, f"{trained} tokens are trained"


@peer("earlier-turns-untrained", "turn", "prefix", "template")
def earlier_turns_untrained() -> Seen:
    words = tokenizer(SEEDS["earlier-turns-untrained"].template)
    rows = causal(words, SEEDS["earlier-turns-untrained"].rows)
    fit(model(words), rows, seq2seq(words))
    text = words.decode(rows[0]["input_ids"])
    return text.count(
        "<think>"
    ) == 1, f"{text.count('<think>')} of 2 thoughts is in the text, the earlier answer is trained without its own"


@peer("turns-dropped", "system", "tool", "role")
def turns_dropped() -> Seen:
    words, seed = tokenizer(SEEDS["turns-dropped"].template), SEEDS["turns-dropped"]
    ids = [words.apply_chat_template(row["messages"], tools=row["tools"], return_dict=True)["input_ids"] for row in seed.rows]
    fit(model(words), [{"input_ids": row, "labels": list(row)} for row in ids], seq2seq(words))
    text = words.decode(ids[0])
    return "one word" not in text and "look_up" not in text, f"neither system turn nor tool call is in {text[:60]!r}"


@peer("answers-cut", "truncat", "longer", "max")
def answers_cut() -> Seen:
    words, seed = tokenizer(), SEEDS["answers-cut"]
    cut = {"truncation": True, "max_length": 96}
    ids = [words.apply_chat_template(row["messages"], return_dict=True, **cut)["input_ids"] for row in seed.rows]
    fit(model(words), [{"input_ids": row, "labels": list(row)} for row in ids], seq2seq(words))
    lost = sum(row.count(words.eos_token_id) < 4 for row in ids)
    return lost > 0, f"{lost} of {len(ids)} chats lost the end of their last answer"


@peer("padding-trained", "pad", "label")
def padding_trained() -> Seen:
    """Padding to a fixed length, labels a copy of the ids: the causal guide's way with a padded tokenizer."""
    words, seed = tokenizer(), SEEDS["padding-trained"]
    texts = [words.apply_chat_template(row["messages"], tokenize=False) for row in seed.rows]
    batch = words(texts, padding="max_length", max_length=256, truncation=True, add_special_tokens=False)
    rows = [
        {"input_ids": i, "attention_mask": m, "labels": list(i)} for i, m in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]
    fit(model(words), rows)
    share = sum(row["labels"].count(words.pad_token_id) for row in rows) / sum(len(row["labels"]) for row in rows)
    return share > 0, f"{share:.0%} of the labels are padding"


@peer("packed-rows-mix", "pack", "position", "flash")
def packed_rows_mix() -> Seen:
    """A step on rows set side by side by DataCollatorWithFlattening, the documented way, and on padded rows."""
    words, made = tokenizer(), []
    ids = [words(row["prompt"])["input_ids"] for row in SEEDS["packed-rows-mix"].rows]
    for collate in (transformers.DataCollatorWithFlattening(), seq2seq(words)):
        net = model(words)
        fit(net, [{"input_ids": row, "labels": list(row)} for row in ids], collate, **ONE_STEP)
        made.append(weights(net))
    return apart(*made) > 1e-5, f"weights after a step differ by {apart(*made):.1e} from those of padded rows"


@peer("label-unknown", "label")
def label_unknown() -> Seen:
    words, seed = tokenizer(), SEEDS["label-unknown"]
    names = (*NAMES, "mixed")
    trainer = fit(
        model(words, "SequenceClassification", num_labels=3),
        classes(words, seed.rows, names),
        transformers.DataCollatorWithPadding(words),
        classes(words, seed.held, names),
    )
    return True, str(trainer.evaluate())


@peer("label-spellings", "label")
def label_spellings() -> Seen:
    """The classes are the sorted set of the column, as in the example scripts."""
    words, seed = tokenizer(), SEEDS["label-spellings"]
    names = tuple(sorted({row["label"] for row in seed.rows}))
    net = model(words, "SequenceClassification", num_labels=len(names))
    fit(net, classes(words, seed.rows, names), transformers.DataCollatorWithPadding(words))
    return len(names) > 3, f"{len(names)} classes: {', '.join(map(repr, names))}"


@peer("label-order", "label")
def label_order() -> Seen:
    """The map is made anew from the evaluation's rows, while the model holds its own."""
    words, seed = tokenizer(), SEEDS["label-order"]
    net = model(words, "SequenceClassification", id2label=dict(enumerate(NAMES)), label2id={name: n for n, name in enumerate(NAMES)})
    trainer = fit(net, classes(words, seed.rows, NAMES), transformers.DataCollatorWithPadding(words))
    names = tuple(sorted({row["label"] for row in seed.held}))
    trainer.evaluate(classes(words, seed.held, names))
    return names.index("positive") != net.config.label2id[
        "positive"
    ], f"'positive' is {names.index('positive')} in the rows, 2 in the model"


@peer("last-token-is-padding", "pad")
def last_token_is_padding() -> Seen:
    words, seen = tokenizer(), []
    words.padding_side = "left"
    batch = words(
        [row["text"] * (1 + n) for n, row in enumerate(SEEDS["last-token-is-padding"].rows[:4])], padding=True, return_tensors="pt"
    )
    for family in ("llama", "gpt2"):
        net = model(words, "SequenceClassification", family).eval()
        with torch.no_grad():
            together, alone = (
                net(**batch).logits[0],
                net(**words(SEEDS["last-token-is-padding"].rows[0]["text"], return_tensors="pt")).logits[0],
            )
        seen.append((family, apart(together, alone)))
    return any(off > 1e-4 for _, off in seen), "logits alone and in a batch differ by " + ", ".join(
        f"{off:.1e} ({name})" for name, off in seen
    )


@peer("tags-misaligned", "tag", "label", "word")
def tags_misaligned() -> Seen:
    """`tokenize_and_align_labels` of the token classification guide."""
    words, seed = tokenizer(), SEEDS["tags-misaligned"]
    names, rows = ("O", "B-THING"), []
    for row in seed.rows:
        found = words(row["words"], is_split_into_words=True)
        labels, before = [], None
        for word in found.word_ids():
            labels.append(-100 if word is None or word == before else names.index(row["tags"][word]))
            before = word
        rows.append({"input_ids": found["input_ids"], "attention_mask": found["attention_mask"], "labels": labels})
    net = model(words, "TokenClassification", num_labels=2)
    fit(net, rows, transformers.DataCollatorForTokenClassification(words))
    wrong = [row for row in seed.rows if len(row["words"]) != len(row["tags"])]
    return bool(wrong), f"{len(wrong)} of {len(rows)} rows trained with each tag one word late"


@peer("answer-offset", "answer", "offset", "span")
def answer_offset() -> Seen:
    """The question answering guide: characters to tokens by the offset mapping."""
    words, rows, spans = tokenizer(), [], []
    for row in SEEDS["answer-offset"].rows:
        found = words(row["question"], row["context"], return_offsets_mapping=True, truncation="only_second", max_length=128)
        first, last = row["answers"]["answer_start"][0], row["answers"]["answer_start"][0] + len(row["answers"]["text"][0])
        inside = [n for n, part in enumerate(found.sequence_ids()) if part == 1]
        start = max(n for n in inside if found["offset_mapping"][n][0] <= first)
        end = min(n for n in inside if found["offset_mapping"][n][1] >= last)
        spans.append(row["context"][found["offset_mapping"][start][0] : found["offset_mapping"][end][1]].strip())
        rows.append(
            {"input_ids": found["input_ids"], "attention_mask": found["attention_mask"], "start_positions": start, "end_positions": end}
        )
    fit(model(words, "QuestionAnswering"), rows, transformers.DataCollatorWithPadding(words))
    wrong = sum(span != row["answers"]["text"][0] for span, row in zip(spans, SEEDS["answer-offset"].rows, strict=True))
    return wrong > 0, f"{wrong} of {len(rows)} spans trained are not the answer: {spans[0]!r} for 'house'"


def _leak(fault: str) -> Seen:
    words, seed = tokenizer(), SEEDS[fault]
    net = model(words, "SequenceClassification", num_labels=3)
    trainer = fit(net, classes(words, seed.rows, NAMES), transformers.DataCollatorWithPadding(words), classes(words, seed.held, NAMES))
    figure = trainer.evaluate()["eval_loss"]
    return True, f"2 of {len(seed.held)} evaluation rows are trained on, and the evaluation reports {figure:.3f}"


@peer("test-rows-leak", "duplicate", "overlap", "leak")
def test_rows_leak() -> Seen:
    return _leak("test-rows-leak")


@peer("near-copies-leak", "duplicate", "overlap", "leak")
def near_copies_leak() -> Seen:
    return _leak("near-copies-leak")
