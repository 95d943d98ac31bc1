"""Personal data beside the pairs: titles, headings and rejected texts that hold some are blanked before anything is written."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rsvlm.data.web import texts
from rsvlm.data.web.lexicon import strings

_SUSPICIOUS = r"(?i)[@\x{FF20}\x{FE6B}0-9]|[\[({]\s?at\s?[\])}]|\bdot\b|&"


def blanked(table: pa.Table, counts: Counter) -> pa.Table:
    """Blank the titles and headings of judged candidates that hold personal data, and the texts of those that were rejected.

    Texts that were kept have passed the same tests.

    Args:
        table: As from `texts.text_stage`, with the columns of `html.COLUMNS`.
        counts: Receives how many of each were blanked, as `personal_title`, ...
    """
    rejected = pc.invert(table["kept"]).to_numpy(zero_copy_only=False)
    reasons = pc.fill_null(pc.starts_with(table["reason"], "personal_"), False).to_numpy(zero_copy_only=False)
    for column, others in (("title", ()), ("heading", ()), ("text", ("clean",))):
        hit = _holds(table[column])
        if column == "text":
            hit = rejected & (hit | reasons)
        if hit.any():
            for name in (column, *others):
                values = pc.if_else(pa.array(hit), "", table[name].combine_chunks().cast(pa.string()))
                table = table.set_column(table.column_names.index(name), name, values.cast(table.schema.field(name).type))
            counts[f"personal_{column}"] += int(hit.sum())
    return table


def _holds(column: pa.ChunkedArray) -> np.ndarray:
    """Tell which of some texts hold an e-mail address, a telephone number or a person's name on a network."""
    encoded = pc.fill_null(column.combine_chunks().cast(pa.string()), "").dictionary_encode()
    values = encoded.dictionary
    rows = np.flatnonzero(texts._has(values, _SUSPICIOUS))
    hits = np.zeros(len(values) + 1, bool)
    if len(rows):
        raw = values.take(pa.array(rows))
        unescaped = strings([texts.as_shown(text) for text in raw.to_pylist()])
        hits[rows] = np.any(
            [texts._has(form, pattern) for form, pattern in _tests(raw, unescaped, strings(texts.clean(raw.to_pylist())))],
            axis=0,
        )
    return hits[encoded.indices.to_numpy(zero_copy_only=False)]


def _tests(raw: pa.Array, unescaped: pa.Array, cleaned: pa.Array) -> list[tuple[pa.Array, str]]:
    """The same forms of a text, tested for the same as in `texts`."""
    emails = [(form, texts._EMAIL) for form in (raw, unescaped, cleaned)]
    phones = [(pc.replace_substring_regex(form, texts._PLATE, " "), texts._PHONE) for form in (unescaped, cleaned)]
    return [*emails, *phones, (cleaned, texts._HANDLE)]
