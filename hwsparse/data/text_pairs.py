"""Sentence pairs, with a score or without, become a data set, tokenised as the network's own tokenizer says."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from hwsparse.data.corruptions import Corruption
from hwsparse.data.dataset import Dataset
from hwsparse.data.samples import Samples
from hwsparse.data.table import choose, header, read_rows
from hwsparse.errors import DataError

SENTENCES = ("sentence1", "sentence2")
COLUMNS = (*SENTENCES, "score")
MAX_TOKENIZER_BYTES = 256 * 2**20
TOKENS = 128
INPUTS = {"input_ids": "int64", "attention_mask": "int64"}
_FIELDS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}


def read_text_pairs(
    path: Path,
    tokenizer_json: Path,
    *,
    max_tokens: int = TOKENS,
    inputs: Mapping[str, str] = INPUTS,
    limit: int | None = None,
    seed: int = 0,
    corruption: Corruption | None = None,
) -> Dataset:
    """Reads a CSV with the columns sentence1, sentence2 and score.

    Args:
        path: the CSV, UTF-8, with a header.
        tokenizer_json: the `tokenizer.json` that belongs to the network.
        max_tokens: every sentence is cut or padded to that many tokens.
        inputs: which of input_ids, attention_mask and token_type_ids the network takes, with numpy's name of the
            type of each.
        limit: take only that many pairs, drawn by `seed`.
        corruption: done to every sentence before it is tokenised.

    Returns:
        A data set of n pairs: 2n rows per input, metric spearman.

    Raises:
        DataError: a file that cannot be read, or a score that is not a number.
    """
    return pair_samples(path, tokenizer_json, max_tokens, inputs, limit, seed, corruption).judged()


def pair_samples(
    path: Path,
    tokenizer_json: Path,
    max_tokens: int = TOKENS,
    inputs: Mapping[str, str] = INPUTS,
    limit: int | None = None,
    seed: int = 0,
    corruption: Corruption | None = None,
) -> Samples:
    """As `read_text_pairs`; without labels where sentence1 and sentence2 are the only columns."""
    labelled = set(header(path)) != set(SENTENCES)
    rows = read_rows(path, COLUMNS if labelled else SENTENCES)
    chosen = [rows[i] for i in choose(len(rows), limit, seed)]
    if unknown := sorted(set(inputs) - set(_FIELDS)):
        raise DataError(f"input {unknown[0]!r} is not one that a tokenizer makes: {', '.join(_FIELDS)}")
    scores = [_score(row["score"], f"{path} line {line}") for line, row in chosen] if labelled else None
    texts = [row[column] for _, row in chosen for column in SENTENCES]
    if corruption is not None:
        texts = [corruption.of_text(text) for text in texts]
    encoded = _load(tokenizer_json, max_tokens).encode_batch(texts)
    arrays = {
        name: np.array([getattr(item, _FIELDS[name]) for item in encoded], dtype) for name, dtype in inputs.items()
    }
    return Samples(path.stem, arrays, None if scores is None else np.array(scores), ("pairs",))


def _load(path: Path, max_tokens: int) -> Tokenizer:
    """The tokenizer, set to give exactly `max_tokens` tokens."""
    if not 1 <= max_tokens <= 65536:
        raise DataError(f"max_tokens must be 1 to 65536, not {max_tokens}")
    try:
        if path.stat().st_size > MAX_TOKENIZER_BYTES:
            raise DataError(f"{path} takes more than {MAX_TOKENIZER_BYTES} bytes")
        tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    except DataError:
        raise
    except Exception as error:  # the tokenizers package raises Exception itself
        raise DataError(f"{path} is not a tokenizer.json: {' '.join(str(error).split())}") from None
    padding = tokenizer.padding or {}
    token = padding.get("pad_token", "[PAD]")
    pad_id = tokenizer.token_to_id(token)
    if (special := tokenizer.num_special_tokens_to_add(False)) >= max_tokens:
        raise DataError(f"max_tokens {max_tokens} is too few: {path} adds {special} tokens of its own to a sentence")
    tokenizer.enable_truncation(max_tokens)
    tokenizer.enable_padding(length=max_tokens, pad_token=token, pad_id=0 if pad_id is None else pad_id)
    return tokenizer


def _score(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{where}: score {text!r} is not a finite number")
    return value
