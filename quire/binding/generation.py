"""How a model's folder says that its texts are to be written: the fields of generation_config.json, and where older folders keep them.

A folder without generation_config.json says it in config.json. As soon as there is one, `transformers` looks for none of it there: whoever
writes the file must write all of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

GENERATION = "generation_config.json"
# Field: the values at which it changes nothing. A field that is understood is not here; any other value of these is refused.
OFF: dict[str, tuple[Any, ...]] = {
    "begin_suppress_tokens": ([],),
    "constraints": ([],),
    "diversity_penalty": (0, 0.0),
    "dola_layers": (),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1, 1.0),
    "epsilon_cutoff": (0, 0.0),
    "eta_cutoff": (0, 0.0),
    "exponential_decay_length_penalty": (),
    "force_words_ids": ([],),
    "guidance_scale": (1, 1.0),
    "max_time": (),
    "num_beam_groups": (1,),
    "num_return_sequences": (1,),
    "penalty_alpha": (0, 0.0),
    "prompt_lookup_num_tokens": (),
    "renormalize_logits": (False,),
    "sequence_bias": ({}, []),
    "suppress_tokens": ([],),
    "token_healing": (False,),
    "top_h": (1, 1.0),
    "watermarking_config": (),
}
UNDERSTOOD = frozenset(
    """bad_words_ids do_sample early_stopping force_bos_token_to_be_generated forced_bos_token_id forced_eos_token_id length_penalty
    max_length max_new_tokens min_length min_new_tokens min_p no_repeat_ngram_size num_beams prefix repetition_penalty temperature top_k
    top_p typical_p""".split()
)
# What is read elsewhere (ids, stop strings), and how a text is computed or reported, not which.
_OTHER = frozenset(
    """_commit_hash _from_model_config assistant_confidence_threshold assistant_early_exit assistant_lookbehind bos_token_id cache_config
    cache_implementation compile_config decoder_start_token_id disable_compile eos_token_id is_assistant low_memory max_cache_len
    max_matching_ngram_size num_assistant_tokens num_assistant_tokens_schedule output_attentions output_hidden_states output_logits
    output_scores pad_token_id prefill_chunk_size remove_invalid_values return_dict_in_generate stop_strings target_lookbehind
    transformers_version use_cache""".split()
)
_FORCED_LAST = {"bart": 2, "mbart": 2, "marian": 0}  # what the reference's configs say when a config.json says nothing


def fields(config: Mapping[str, Any], generation: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that count: those of generation_config.json, or, where there is none, config.json's own; and config.json's prefix."""
    said = {name: value for name, value in generation.items() if name not in _OTHER} if generation else of_config(config)
    said.setdefault("prefix", config.get("prefix"))
    return {name: value for name, value in said.items() if value is not None}


def of_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """What generation_config.json would hold for a config.json that stands alone."""
    said = {name: value for name, value in config.items() if (name in UNDERSTOOD or name in OFF) and name != "prefix" and value is not None}
    forced = _FORCED_LAST.get(str(config.get("model_type")))
    if forced is not None and "forced_eos_token_id" not in config:
        said["forced_eos_token_id"] = forced
    if said.pop("force_bos_token_to_be_generated", False) and said.get("forced_bos_token_id") is None:
        said["forced_bos_token_id"] = config.get("bos_token_id")
    return said
