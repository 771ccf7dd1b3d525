"""`quire.load` and what comes of it: the texts of transformers, scores that add up, and errors that say what to do."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

import quire
from quire import Contract, Decoder, Encoder, Message, Sampling, Seq2Seq
from quire.errors import BindingError, ContextError, DataError, ModelError, RecipeError, WeightsError
from quire.families.folder import ModelFolder
from quire.hub import locate
from quire.model.local import check_sizes
from quire.types import Beam, Chat, Generator, Scorer
from tests.small import TASK, write_model

GREEDY = Sampling(temperature=0.0, max_tokens=20)
PROMPTS = ["def parse_", "The quick brown", "x"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("models")
    found = {family: write_model(place / family, family) for family in TASK}
    return found | {"chat": write_model(place / "chat", template=True, lineage={"task": "chat"}, context=128)}


@pytest.fixture(scope="module")
def models(folders):
    return {name: quire.load(folder, verify=True) for name, folder in folders.items()}


def test_the_kind_follows_from_the_folder(models):
    assert isinstance(models["llama"], Decoder) and isinstance(models["gpt2"], Decoder)
    assert isinstance(models["bert"], Encoder) and isinstance(models["t5"], Seq2Seq)
    assert len({model.identity for model in models.values()}) == len(models)
    assert "Decoder(" in repr(models["llama"]) and "parameters" in repr(models["llama"])
    # the protocols of `types`, as mypy checks them too
    writer: Generator = models["llama"]
    scorer: Scorer = models["t5"]
    chat: Chat = models["chat"]
    assert writer.identity and scorer.identity and chat.identity


@pytest.mark.parametrize("family", ["llama", "gpt2", "t5"])
def test_greedy_generation_is_transformers_own(folders, models, family):
    import transformers

    auto = transformers.AutoModelForSeq2SeqLM if family == "t5" else transformers.AutoModelForCausalLM
    theirs, words = auto.from_pretrained(folders[family]).eval(), transformers.AutoTokenizer.from_pretrained(folders[family])
    for prompt in PROMPTS:
        row = words(prompt, return_tensors="pt")
        whole = theirs.generate(row.input_ids, attention_mask=row.attention_mask, max_new_tokens=20, do_sample=False)[0]
        expected = whole[1:] if family == "t5" else whole[row.input_ids.shape[1] :]
        found = models[family].generate(prompt, GREEDY)
        assert list(found.ids) == expected.tolist()
        assert found.text == words.decode(expected, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def test_one_text_gives_one_completion_and_several_do_not_see_each_other(models):
    model = models["llama"]
    drawn = Sampling(seed=5, max_tokens=10)
    alone = [model.generate(prompt, drawn) for prompt in PROMPTS]
    assert model.generate(PROMPTS, drawn) == alone
    assert "".join(chunk.text for chunk in model.stream(PROMPTS[0], drawn)) == alone[0].text


def test_nothing_is_generated_when_one_of_the_prompts_is_too_long(models, monkeypatch):
    monkeypatch.setattr(Decoder, "_complete", lambda *args: pytest.fail("work was done"))
    with pytest.raises(ContextError, match=r"The prompt has 101 tokens; the model has 64 positions"):
        models["llama"].generate(["fine", "é" * 50], GREEDY)


def test_scores_are_the_log_probabilities_of_the_next_tokens(models):
    for name in ("llama", "gpt2"):
        model = models[name]
        (score,) = model.score([("The quick brown", " fox jumps")])
        ids = model.contract.prompt("The quick brown fox jumps")
        with torch.inference_mode():
            expected = model.model.head(model.model.decode(torch.tensor([ids])))[0].log_softmax(-1)
        count = len(score.tokens)
        assert [fact.id for fact in score.tokens] == ids[-count:]
        for place, fact in enumerate(score.tokens, start=len(ids) - count):
            assert fact.logprob == pytest.approx(float(expected[place - 1, fact.id]), abs=1e-5)
        assert score.logprob == pytest.approx(sum(fact.logprob for fact in score.tokens))
        assert "".join(fact.text for fact in score.tokens).endswith(" fox jumps")


def test_the_score_of_a_greedy_text_says_so(models):
    for name, context in (("llama", "The quick"), ("t5", "The quick")):
        model = models[name]
        written = model.generate(context, Sampling(temperature=0.0, max_tokens=6, logprobs=1))
        if model.contract.tokenizer.encode(written.text) != list(written.ids):
            continue  # the text has another spelling in tokens than the one that was drawn
        score, other = model.score([(context, written.text), (context, "zzz")])
        assert score.greedy and not other.greedy
        assert score.logprob == pytest.approx(sum(fact.logprob for fact in written.logprobs), abs=1e-4)


def test_scores_alone_and_together_agree(models):
    pairs = [("The", " quick brown fox"), ("", "def"), ("a", ""), ("für", " Größe" * 4)]
    for name in ("llama", "t5"):
        together = models[name].score(pairs)
        for pair, score in zip(pairs, together):
            (alone,) = models[name].score([pair])
            assert alone.logprob == pytest.approx(score.logprob, abs=1e-4) and len(alone.tokens) == len(score.tokens)
        assert together[2].logprob == 0.0 and together[2].tokens == ()
    with pytest.raises(ContextError, match="The pair has"):
        models["llama"].score([("é" * 40, "é")])


def test_a_conversation_goes_through_the_template_and_ends_with_its_turn(models):
    model = models["chat"]
    messages = [Message("system", "Be brief."), Message("user", "fox?")]
    ids = model.chat_ids(messages)
    assert model.contract.tokenizer.decode(ids, special=True).endswith("<|im_end|>\n<|im_start|>assistant\n")
    answer = model.chat(messages, GREEDY)
    assert answer.prompt_tokens == len(ids)
    assert answer.ids == model.generate("unrelated", GREEDY).ids or answer.text != ""
    assert "".join(chunk.text for chunk in model.stream_chat(messages, GREEDY)) == answer.text
    (end,) = model.contract.turn_end
    free = model.chat(messages, Sampling(temperature=0.0, max_tokens=3))
    ended = next(iter(model._chunks(ids, None, Sampling(temperature=0.0, max_tokens=3), (free.ids[0],))))
    assert ended.finish_reason == "stop" and ended.text == "" and end not in free.ids


def test_users_cannot_write_special_tokens(models):
    model = models["chat"]
    im_end = model.contract.tokenizer.token_id("<|im_end|>")
    ids = model.chat_ids([Message("user", "<|im_end|>")])
    assert ids.count(im_end) == 1
    assert model.contract.tokenizer.eos not in model.contract.prompt("<|endoftext|>")[1:]


def test_a_base_model_says_that_it_does_not_chat(models):
    assert not models["llama"].chats and models["chat"].chats
    with pytest.raises(ModelError, match="is a base model: it has no chat template.*Use generate or stream"):
        models["llama"].chat([Message("user", "hello")])


def test_a_template_alone_makes_no_chat_model(tmp_path):
    """The marks of turns may be reserved in a tokenizer long before a conversation is trained."""
    model = quire.load(write_model(tmp_path / "base", template=True, lineage={"task": "causal"}))
    assert not model.chats
    assert model.chat([Message("user", "hello")], GREEDY).ids  # asked for by name, it is done all the same


def test_an_encoder_gives_states_and_fills_blanks(models, folders):
    from transformers import BertForPreTraining

    model = models["bert"]
    theirs = BertForPreTraining.from_pretrained(folders["bert"]).eval()
    texts = ["The quick brown fox", "x", "für Größe"]
    for text, states in zip(texts, model.hidden(texts)):
        ids = torch.tensor([model.contract.whole(text)])
        with torch.inference_mode():
            expected = theirs.bert(ids).last_hidden_state[0].numpy()
        assert states.dtype == np.float32 and states.shape == (ids.shape[1], 32)
        np.testing.assert_allclose(states, expected, atol=1e-4)
    fills = model.fill("The ___ brown ___", top=3)
    assert len(fills) == 2 and all(len(row) == 3 for row in fills)
    assert all(row[0].logprob >= row[1].logprob >= row[2].logprob for row in fills)
    words = model.contract.tokenizer
    ids = [words.cls, *words.encode("The "), words.mask, *words.encode(" brown "), words.mask, words.sep]
    with torch.inference_mode():
        logits = theirs(torch.tensor([ids])).prediction_logits[0]
    assert fills[1][0].id == int(logits[-2].argmax())
    with pytest.raises(DataError, match="the text has no blank: write ___"):
        model.fill("no blank")
    with pytest.raises(ContextError, match="The text has"):
        model.hidden(["é" * 40])


def test_a_span_model_fills_its_blanks(models):
    model = models["t5"]
    fills = model.fill("The ___ brown ___ jumps", sampling=Sampling(temperature=0.0, max_tokens=20))
    assert len(fills) == 2 and all(isinstance(text, str) for text in fills)
    with pytest.raises(DataError, match="101 blanks need <extra_id_100>"):
        model.fill("_" * 303)


def test_recommended_sampling_is_the_default(folders, tmp_path):
    shutil.copytree(folders["llama"], tmp_path / "m")
    rule = json.loads((tmp_path / "m" / "generation_config.json").read_text())
    (tmp_path / "m" / "generation_config.json").write_text(
        json.dumps(rule | {"do_sample": True, "temperature": 0.6, "top_k": 7, "max_new_tokens": 3})
    )
    model = quire.load(tmp_path / "m")
    assert model.defaults == Sampling(temperature=0.6, top_k=7, max_tokens=3)
    assert len(model.generate("x").ids) <= 3
    (tmp_path / "m" / "generation_config.json").write_text(json.dumps(rule | {"do_sample": False}))
    assert quire.load(tmp_path / "m").defaults == Sampling(temperature=0.0)
    assert quire.load(folders["llama"]).defaults == Sampling()


def test_a_run_folder_opens_its_model_and_a_near_miss_is_named(folders, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folders["llama"], tmp_path / "runs" / "quickstart" / "model")
    assert locate("runs/quickstart").name == "model"
    assert isinstance(quire.load("runs/quickstart"), Decoder)
    for near in ("runs/quickstrat", "quickstart"):
        with pytest.raises(ModelError) as caught:
            quire.load(near)
        assert "it is not there" in str(caught.value) and "runs/quickstart" in str(caught.value)
    with pytest.raises(ModelError, match="Did you mean 'runs/quickstart'"):
        quire.load("runs/quickstrat")
    (tmp_path / "runs" / "half").mkdir()
    (tmp_path / "runs" / "half" / "recipe.toml").write_text("")
    with pytest.raises(ModelError, match="has no model yet.*quire resume runs/half"):
        quire.load("runs/half")
    with pytest.raises(ModelError, match="is a file"):
        quire.load("runs/half/recipe.toml")
    monkeypatch.chdir(tmp_path / "runs" / "half")
    with pytest.raises(ModelError, match="Train one: quire quickstart"):
        quire.load("nothing/here")


def test_pickled_weights_are_refused_with_the_reason(folders, tmp_path):
    shutil.copytree(folders["llama"], tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").rename(tmp_path / "m" / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="can run code when they are opened"):
        quire.load(tmp_path / "m")


def test_a_changed_folder_is_refused_at_load(folders, tmp_path):
    shutil.copytree(folders["llama"], tmp_path / "m")
    path = tmp_path / "m" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x11")
    with pytest.raises(BindingError, match="has other values"):
        quire.load(tmp_path / "m")


def test_dtypes(folders, tmp_path):
    assert quire.load(folders["llama"], dtype="bf16").model.embed.weight.dtype == torch.bfloat16
    assert quire.load(folders["llama"]).model.embed.weight.dtype == torch.float32
    assert len(quire.load(folders["llama"], dtype="bf16").generate("x", GREEDY).ids) == 20
    with pytest.raises(RecipeError, match="dtype is 'fp8'; allowed: auto, fp32"):
        quire.load(folders["llama"], dtype="fp8")
    with pytest.raises(RecipeError, match="device 'cuda:99'|device 'cuda"):
        quire.load(folders["llama"], device="cuda:99")
    opened = ModelFolder.open(folders["llama"])
    shutil.copytree(folders["llama"], tmp_path / "m")
    (tmp_path / "m" / "binding.json").unlink()
    ModelFolder.save(tmp_path / "m", opened.build(), opened.config, dtype=torch.float16)
    assert (
        quire.load(tmp_path / "m").model.embed.weight.dtype == torch.float32
    )  # this CPU does fp16 badly; fp32 holds every one of its values


def test_what_is_no_text_is_refused_with_its_row_and_type(models):
    llama, bert = models["llama"], models["bert"]
    for rows, words in (
        (["fine", None], "row 1: a text is needed, not NoneType"),
        ([3], "row 0: a text is needed, not int"),
        ([("a", "b")], "row 0: a text is needed, not tuple of str, str"),
        ("x", r"a list of texts is needed, not one text: write \['x'\]"),
        (3, "a list of texts is needed, not int"),
    ):
        with pytest.raises(DataError, match=words):
            bert.embed(rows)
        if rows != "x":
            with pytest.raises(DataError, match=words):
                llama.generate(rows)
    for pairs, words in (
        (("q", "c d e"), r"a list of pairs is needed, not one pair: write \[\('q', 'c d e'\)\]"),
        ("q", "a list of pairs is needed, not one text"),
        ([("q",)], "row 0: a pair of texts is needed, not tuple of str"),
        (["ab"], "row 0: a pair of texts is needed, not str"),
    ):
        with pytest.raises(DataError, match=words):
            llama.score(pairs)
    with pytest.raises(DataError, match="a text is needed, not NoneType"):
        bert.fill([None])
    assert bert.embed(text for text in ("a", "b")).shape[0] == 2


def test_a_method_of_another_kind_names_who_has_it_and_what_this_one_can_do(models):
    with pytest.raises(
        ModelError, match="bert opens as an Encoder, which does not generate; a Decoder or Seq2Seq does. It has: .*embed, fill"
    ):
        models["bert"].generate("x")
    with pytest.raises(ModelError, match="t5 opens as a Seq2Seq, which does not chat; a Decoder does. It has: .*generate.*translate"):
        models["t5"].chat([Message("user", "x")])
    assert not hasattr(models["llama"], "translate") and not hasattr(models["llama"], "no_such_thing")
    with pytest.raises(AttributeError, match="'Decoder' object has no attribute 'no_such_thing'") as caught:
        _ = models["llama"].no_such_thing
    assert not isinstance(caught.value, ModelError)


def test_single_values_of_sampling_are_given_by_name(models):
    model, chat = models["llama"], models["chat"]
    wanted = model.generate("x", Sampling(temperature=0.0, max_tokens=3))
    assert model.generate("x", max_tokens=3, temperature=0.0) == wanted == model.generate("x", GREEDY, max_tokens=3)
    assert "".join(chunk.text for chunk in model.stream("x", max_tokens=3, temperature=0.0)) == wanted.text
    said = chat.chat([Message("user", "x")], GREEDY, max_tokens=2)
    assert len(said.ids) <= 2 and list(chat.stream_chat([Message("user", "x")], GREEDY, max_tokens=2))[-1].finish_reason is not None
    with pytest.raises(RecipeError, match="there is no 'max_new_tokens' in Sampling; allowed: max_tokens, .*Did you mean 'max_tokens'"):
        model.generate("x", max_new_tokens=3)


@pytest.mark.parametrize(
    "sampling, message",
    [
        (Sampling(max_tokens=-1), "max_tokens is -1; allowed: a whole number, 1 or more"),
        (Sampling(top_p=2), "top_p is 2; allowed: above 0, up to 1"),
        (Beam(width=2), r"sampling is Beam\(width=2.*allowed: a Sampling, or None. Beams are for translate"),
    ],
)
def test_values_out_of_range_are_refused_at_use(models, sampling, message):
    with pytest.raises(RecipeError, match=message):
        models["llama"].generate("x", sampling)
    with pytest.raises(RecipeError, match=message):
        models["t5"].stream("x", sampling)


def test_beams_and_roles_out_of_range_are_refused_at_use(models):
    with pytest.raises(RecipeError, match="beam: width is 0; allowed: a whole number, 1 or more"):
        models["t5"].translate(["x"], Beam(width=0))
    with pytest.raises(DataError, match="message 0 has the role 'usr'; allowed: assistant, .*Did you mean 'user'"):
        models["chat"].chat([Message("usr", "hi")])


def test_more_groups_than_different_texts_are_refused(models):
    with pytest.raises(RecipeError, match="count is 3; 1 different texts can be put into 1 to 1 groups"):
        models["bert"].cluster(["a", "a", "a"], count=3)


def test_rows_without_a_token_are_picked_and_write_nothing(folders, tmp_path):
    """Tables are padded (Qwen2, T5): transformers can pick such an id, and decodes it to nothing."""
    import transformers

    theirs = transformers.AutoModelForCausalLM.from_pretrained(folders["llama"])
    rows = theirs.config.vocab_size + 40
    theirs.resize_token_embeddings(rows)
    with torch.no_grad():
        theirs.lm_head.weight[-40:] = theirs.lm_head.weight[:40] * 1.5
    theirs.save_pretrained(tmp_path / "m")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folders["llama"] / name, tmp_path / "m")
    model, words = quire.load(tmp_path / "m"), transformers.AutoTokenizer.from_pretrained(folders["llama"])
    row = words("The quick", return_tensors="pt")
    whole = theirs.generate(row.input_ids, attention_mask=row.attention_mask, max_new_tokens=20, do_sample=False)[0]
    expected = whole[row.input_ids.shape[1] :].tolist()
    found = model.generate("The quick", GREEDY, logprobs=2)
    assert list(found.ids) == expected and max(expected) >= model.contract.tokenizer.vocab_size
    assert found.text == words.decode(expected, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert any(fact.text == "" for fact in found.logprobs)


def test_tokenizers_of_another_size_are_refused_or_named(folders, tmp_path):
    shutil.copytree(folders["llama"], tmp_path / "m")
    (tmp_path / "m" / "binding.json").unlink()
    path = tmp_path / "m" / "tokenizer.json"
    raw = json.loads(path.read_text())
    count = quire.load(folders["llama"]).config.vocab
    raw["added_tokens"].append(raw["added_tokens"][0] | {"id": count, "content": "<image>"})
    path.write_text(json.dumps(raw))
    assert quire.load(tmp_path / "m").generate("<image>", GREEDY).ids  # Gemma 3 1B is such a folder: no text becomes this token
    raw["added_tokens"][-1]["special"] = False
    path.write_text(json.dumps(raw))
    with pytest.raises(ModelError, match=f"the tokenizer has {count + 1} tokens, the model {count} rows of embeddings"):
        quire.load(tmp_path / "m")
    with pytest.warns(RuntimeWarning, match=f"the tokenizer has {count} tokens, the model 1,000 rows .* is it the tokenizer of this model"):
        check_sizes(tmp_path, Contract.open(folders["llama"]), 1000)
