"""From tokens to lines, on real tokenizers."""

from __future__ import annotations

import itertools
import re
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import LlamaTokenizer, PreTrainedTokenizerFast

from crlhf_ray.errors import ConfigError
from crlhf_ray.policy.model import load_tokenizer
from crlhf_ray.rollout.lines import carries_code, cut_at_stop, split_lines

CODE = st.text(st.sampled_from(list("ab =():#\"'\n\n\n \t\r0é漢🙂̈\x0b\x0c\x85  ")), max_size=60)


def mistral(folder):
    """Mistral 7B's SentencePiece tokenizer with byte fallback, as the package mistral_common (of vLLM) carries it."""
    spec = find_spec("mistral_common")
    if spec is None:
        pytest.skip("mistral_common, which vLLM brings, is not installed")
    shutil.copy(Path(spec.origin).parent / "data" / "tokenizer.model.v1", folder / "tokenizer.model")
    return LlamaTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module", params=["smollm2-135m", "tiny", "mistral"])
def tokenizer(request, tmp_path_factory):
    return mistral(tmp_path_factory.mktemp("mistral")) if request.param == "mistral" else load_tokenizer(request.param)


def is_sentencepiece(tokenizer):
    return isinstance(tokenizer, LlamaTokenizer)


def encode(tokenizer, text):
    """Token ids of a text that follows another: at the very start of a text SentencePiece puts a space."""
    if is_sentencepiece(tokenizer):
        return tokenizer.encode(f"\n{text}", add_special_tokens=False)[2:]
    return tokenizer.encode(text, add_special_tokens=False)


def decode(tokenizer, token_ids):
    """The tokenizer's own decoding of what follows another text: at the very start it drops a space."""
    prompt = tokenizer.encode("x", add_special_tokens=False)
    decoded = tokenizer.decode([*prompt, *token_ids], skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return decoded.removeprefix("x")


def check_map(tokenizer, token_ids):
    text, lines = split_lines(token_ids, tokenizer)
    decoded = decode(tokenizer, token_ids)
    # Of bytes that are no UTF-8 SentencePiece gives one U+FFFD each, even for a newline among them.
    assert text == decoded or (is_sentencepiece(tokenizer) and "\ufffd" in decoded)
    assert "\n".join(line.text for line in lines) == text
    assert [line.number for line in lines] == list(range(len(lines)))
    assert lines[0].token_start == 0
    assert lines[-1].token_end == len(token_ids)
    assert all(before.token_end == after.token_start for before, after in itertools.pairwise(lines))
    assert all(line.token_start <= line.token_end for line in lines)
    return text, lines


@settings(max_examples=300)
@given(text=CODE)
def test_every_token_of_a_text_belongs_to_exactly_one_line_and_the_lines_join_back(tokenizer, text):
    joined, _ = check_map(tokenizer, encode(tokenizer, text))
    assert joined == text


@settings(max_examples=300)
@given(data=st.data())
def test_any_sequence_of_token_ids_maps_even_where_it_is_no_valid_utf8(tokenizer, data):
    ids = st.integers(0, len(tokenizer) - 1)
    check_map(tokenizer, data.draw(st.lists(ids, max_size=40)))


@settings(max_examples=200)
@given(text=CODE)
def test_a_token_belongs_to_the_line_in_which_its_first_byte_stands(tokenizer, text):
    token_ids = encode(tokenizer, text)
    _, lines = split_lines(token_ids, tokenizer)
    for line in lines:
        for index in range(line.token_start, line.token_end):
            before = b"".join(tokenizer_bytes(tokenizer, token) for token in token_ids[:index])
            assert before.count(b"\n") == line.number


def tokenizer_bytes(tokenizer, token):
    """A token's bytes by another way: the tokenizer's own decoding of its byte alphabet."""
    spelled = tokenizer.convert_ids_to_tokens(token)
    if is_sentencepiece(tokenizer):
        return bytes.fromhex(spelled[3:5]) if re.match("<0x..>$", spelled) else decode(tokenizer, [token]).encode()
    alphabet = {chr(b): b for b in [*range(33, 127), *range(161, 173), *range(174, 256)]}
    rest = iter(range(256, 400))
    alphabet |= {chr(next(rest)): b for b in range(256) if b not in alphabet.values()}
    return bytes(alphabet[c] for c in spelled)


def test_an_empty_completion_is_one_blank_line_without_tokens(tokenizer):
    text, lines = split_lines([], tokenizer)
    assert text == ""
    assert [(line.text, line.token_start, line.token_end, line.carries_code) for line in lines] == [("", 0, 0, False)]


def test_end_of_sequence_belongs_to_the_last_line_and_has_no_text(tokenizer):
    token_ids = [*encode(tokenizer, "\n    x = 1\n    return x"), tokenizer.eos_token_id]
    text, lines = check_map(tokenizer, token_ids)
    assert text.endswith("return x")
    assert lines[-1].token_end == len(token_ids)


def test_several_newlines_in_one_token_leave_the_lines_between_without_tokens():
    tokenizer = load_tokenizer("smollm2-135m")
    double = encode(tokenizer, "\n\n")
    assert len(double) == 1
    _, lines = split_lines([*encode(tokenizer, "a = 1"), *double, double[0]], tokenizer)
    assert [line.text for line in lines] == ["a = 1", "", "", "", ""]
    owned = [line.token_end - line.token_start for line in lines]
    assert owned[1] == owned[3] == owned[4] == 0
    assert owned[2] == 1


def test_a_character_split_over_tokens_is_decoded_whole_within_its_line():
    tokenizer = load_tokenizer("tiny")  # one token a byte
    _, lines = split_lines(encode(tokenizer, "é\n漢"), tokenizer)
    assert [(line.text, line.token_start, line.token_end) for line in lines] == [("é", 0, 3), ("漢", 3, 6)]


@pytest.mark.parametrize(
    ("text", "carries"),
    [
        ("", False),
        ("   \t", False),
        ("    # note", False),
        ("x = 1  # note", True),
        ('    """Doc."""', True),
        ("pass", True),
    ],
)
def test_blank_and_comment_lines_carry_no_code(text, carries):
    assert carries_code(text) is carries


@settings(max_examples=200)
@given(before=CODE, after=CODE)
def test_a_cut_keeps_the_tokens_that_start_before_the_first_stop_string(tokenizer, before, after):
    token_ids = encode(tokenizer, before + "\ndef " + after)
    kept, stop = cut_at_stop(token_ids, ["\nclass ", "\ndef "], tokenizer)
    assert stop == "\ndef "
    text, at = before + "\ndef " + after, (before + "\ndef " + after).index("\ndef ")
    assert len(decode(tokenizer, token_ids[:kept]).encode()) >= len(text[:at].encode())
    assert kept == 0 or len(b"".join(tokenizer_bytes(tokenizer, t) for t in token_ids[: kept - 1])) < len(
        text[:at].encode()
    )


def test_the_earliest_of_several_stop_strings_cuts_and_drops_the_end_of_sequence(tokenizer):
    body = "\n    return 1"
    text = body + "\nclass A:\n    pass\ndef f(): pass"
    token_ids = [*encode(tokenizer, text), tokenizer.eos_token_id]
    kept, stop = cut_at_stop(token_ids, ["\ndef ", "\nclass "], tokenizer)
    assert stop == "\nclass "
    assert decode(tokenizer, token_ids[:kept]).rstrip("\n") == body


def test_without_a_stop_string_every_token_is_kept(tokenizer):
    token_ids = [*encode(tokenizer, "\n    return 1"), tokenizer.eos_token_id]
    assert cut_at_stop(token_ids, ["\ndef ", ""], tokenizer) == (len(token_ids), None)


def test_ids_beyond_the_vocabulary_have_no_text(tokenizer):
    text, lines = split_lines([len(tokenizer) + 5], tokenizer)
    assert text == ""
    assert lines[0].token_end == 1


def test_sentencepiece_with_byte_fallback_maps_too():
    vocabulary = ["<unk>", "<s>", "</s>", "▁return", "▁x", "<0x0A>", "<0xC3>", "<0xA9>"]
    backend = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(vocabulary)}, merges=[]))
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    text, lines = split_lines([5, 3, 4, 5, 6, 7, 2], tokenizer)
    assert text == "\n return x\né"
    assert [(line.token_start, line.token_end) for line in lines] == [(0, 1), (1, 4), (4, 7)]


def test_a_tokenizer_without_bytes_is_refused_by_name():
    backend = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    with pytest.raises(ConfigError, match="neither byte-level BPE nor SentencePiece"):
        split_lines([0], PreTrainedTokenizerFast(tokenizer_object=backend))


def test_log_probs_cut_with_the_same_count_stay_aligned(tokenizer):
    token_ids = encode(tokenizer, "\n    return 1\ndef g():")
    logprobs = np.arange(len(token_ids), dtype=np.float32)
    kept, _ = cut_at_stop(token_ids, ["\ndef "], tokenizer)
    _, lines = split_lines(token_ids[:kept], tokenizer)
    assert lines[-1].token_end == len(logprobs[:kept])
