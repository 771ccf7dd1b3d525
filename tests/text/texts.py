"""Texts that tokenizers get wrong: many scripts, marks that join, control characters, runs, and what looks like a special token."""

from __future__ import annotations

from hypothesis import strategies as st

SPELLINGS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|eot_id|>", "<|user|>", "<|end|>", "<pad>", "<s>", "</s>"),
    *("<unk>", "<|unk|>", "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[INST]", "<extra_id_0>", "<extra_id_99>", "<0x41>", "<0xC3>"),
)
PIECES = (
    *"a the jump ed 's 'LL I'm 123 x_1 ( ): == -- … é e\u0301 ß İ ǆ Ελλ Привет עברית العربية हिन्दी 中文 日本 한국".split(" "),
    *"👋 👋🏽 👩‍👩‍👧‍👦 🇩🇪 ❤️".split(" "),
    *"\u200d \ufeff ▁ Ġ \x00 \ufffd \U0010ffff <| |>".split(" "),
    *(" fox", " 45.6", " ", "  ", "    ", "\n", "\n\n", "\r\n", "\t", "\u00a0", "\u3000", "\u2028", "\x1c", "\x85"),
)

texts = st.lists(st.one_of(st.sampled_from(PIECES), st.sampled_from(SPELLINGS), st.text(max_size=6)), max_size=14).map("".join)

TEXTS = (
    "",
    "The quick brown fox jumps over the lazy dog.",
    'def parse(self, text=\'\'):\n    """It\'s done."""\n\n\n\treturn x[0]  # 12345\r\n',
    "Größe naïve Ελληνικά Привет עברית العربية हिन्दी ไทย 中文字符 日本語テキスト 한국어",
    "👋🏽 👩‍👩‍👧‍👦 🇩🇪 ❤️ e\u0301 \u200b\ufeff \u00a0\u3000x \x00\x7f\x85 \u2028 \U0010ffff",
    "   leading\n \n  \n   spaces   \n\n\t\t tabs \t\n trailing   ",
    " ".join(SPELLINGS),
    "".join(PIECES),
)
