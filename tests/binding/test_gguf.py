"""A GGUF file as a model: its contract, its binding, and that both notice a change."""

from __future__ import annotations

from pathlib import Path

import pytest

import quire
from quire.binding import Binding, Contract, bound, weights
from quire.cli.main import main
from quire.errors import BindingError, ModelError
from quire.text.template import CHATML
from tests.families.gguf_files import model


def test_it_generates_scores_and_is_inspected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = model(tmp_path / "tiny.gguf")
    opened = quire.load(file)
    assert isinstance(opened, quire.Decoder)
    assert opened.contract.prompt("ab") == [1, 3, 6]
    written = opened.generate("ab", quire.Sampling(temperature=0.0, max_tokens=4))
    capsys.readouterr()
    assert main(["generate", str(file), "ab", "--temperature", "0", "--max-tokens", "4", "--only-new"]) == 0
    assert capsys.readouterr().out.strip() == written.text.strip()
    assert main(["inspect", str(file)]) == 0
    shown = capsys.readouterr().out
    assert "llama · decoder" in shown and "none: a base model" in shown and opened.identity[:16] in shown
    assert main(["verify", str(file)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny", "tiny.gguf"]  # nothing is written beside it


def test_a_template_and_the_end_of_a_turn_are_read(tmp_path: Path) -> None:
    file = model(tmp_path / "chat.gguf", {"tokenizer.chat_template": CHATML, "tokenizer.ggml.eot_token_id": 9})
    contract = Contract.open(file)
    assert contract.template is not None and contract.stop_ids == (2, 9) and contract.turn_end == (9,)
    quire.load(file).chat([quire.Message("user", "ab")], quire.Sampling(max_tokens=2))  # type: ignore[union-attr]
    with pytest.raises(ModelError, match="tokenizer.chat_template must be a text of at most"):
        Contract.open(model(tmp_path / "long.gguf", {"tokenizer.chat_template": "x" * (2**20 + 1)}))


def test_the_same_model_as_a_folder_has_the_same_contract(tmp_path: Path) -> None:
    file = model(tmp_path / "chat.gguf", {"tokenizer.chat_template": CHATML})
    assert main(["convert", str(file), str(tmp_path / "out")]) == 0
    assert Contract.open(tmp_path / "out").id == Contract.open(file).id
    one, other = quire.load(file), quire.load(tmp_path / "out")
    greedy = quire.Sampling(temperature=0.0, max_tokens=6)
    assert one.generate("ab a", greedy).ids == other.generate("ab a", greedy).ids  # type: ignore[union-attr]


def test_it_is_hashed_once_and_stamped_from_then_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = model(tmp_path / "tiny.gguf", kind="Q8_0")
    first = bound(file)
    assert {fact.dtype for fact in first.tensors.values()} == {"Q8_0", "F32"}
    assert first.architecture["general.architecture"] == "llama" and first.architecture["llama.block_count"] == 2
    with monkeypatch.context() as patch:
        patch.setattr(weights, "_hash", lambda place: pytest.fail("it was hashed again"))
        assert bound(file).id == first.id == quire.load(file).identity
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    second = bound(file)  # another model, with another id, as where a folder's files were replaced
    assert second.id != first.id and (second.contract_id, second.architecture_id) == (first.contract_id, first.architecture_id)
    assert Binding.of(file).id == second.id


def test_a_change_that_hides_its_time_is_found_by_verify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from quire.binding import record

    file = model(tmp_path / "tiny.gguf")
    bound(file)
    stamp = record._stamp(file)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    monkeypatch.setattr(record, "_stamp", lambda folder: stamp)
    with pytest.raises(BindingError, match="is not the model that its binding .* names:\n  - weight .* has other values"):
        bound(file, verify=True)
    assert main(["verify", str(file), "--rebind"]) == 0
    assert bound(file, verify=True).recorded["lineage"] == {"rebound": True}
    assert file.read_bytes() == data
