"""The rule of the audit on extents: how much of the picture a thing is said to cover, against the share that was measured.

Source: our choice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from rsvlm.data.captions.audit_rules import Mention, Scene, mentions_in, subject_of

_WORDS = {
    r"(?:(?:nearly|almost|virtually|practically) )?(?:all|the whole|the entire|the entirety|every part)": (0.7, 1.0),
    r"(?:most|the majority|the bulk|the greater part|(?:more than|over|well over) half)": (0.45, 1.0),
    r"(?:(?:about|around|roughly|nearly|almost) )?three[- ]quarters": (0.55, 0.95),
    r"(?:(?:about|around|roughly|nearly|almost) )?two[- ]thirds": (0.45, 0.87),
    r"(?:(?:about|around|roughly|nearly|almost|the \w+) )?half": (0.3, 0.72),
    r"(?:(?:about|around|roughly|nearly|almost) )?(?:a|one) third": (0.19, 0.5),
    r"(?:(?:about|around|roughly|nearly|almost) )?(?:a|one) quarter": (0.12, 0.4),
    r"(?:(?:about|around|roughly|nearly|almost) )?(?:an|one) eighth": (0.05, 0.25),
}
_PICTURE = r"(?:picture|image|scene|frame|view|photo\w*|chip|area)"
_EXTENT = re.compile(
    r"\b(?:covers?|covering|occup(?:y|ies|ying)|fills?|filling|tak(?:es?|ing) up|(?:extend|stretch|spread|span)\w*|dominat\w+)"
    r"(?: (?:over|across|throughout|through))? (?P<extent>"
    + "|".join(f"(?P<e{number}>{words})" for number, words in enumerate(_WORDS))
    + rf"|(?:about |around |roughly )?(?P<percent>\d{{1,3}}) ?(?:%|per ?cent))(?: of)?(?: (?:the|this))? {_PICTURE}\b"
)
_DIRECTLY = re.compile(r"[\s\"”]*(?:(?:\w+ly|also|itself) )?")
_RANGES = tuple(_WORDS.values())


def wrong_extents(folded: str, raw: str, named: list[Mention], scene: Scene) -> Iterator[str]:
    """Yield the words that give a single thing a share of the picture that is clearly not its own.

    Args:
        folded: A sentence, masked and folded.
        raw: The same as it came.
        named: The listed names in it.
        scene: The list.
    """
    for match in _EXTENT.finditer(folded):
        subject = subject_of(folded, match, mentions_in(folded, named, scene))
        if subject is None or subject[2] is None or not _DIRECTLY.fullmatch(folded[subject[1] : match.start()]):
            continue
        mark = scene.marks[subject[2]]
        share = mark.get("share")
        if share is None and not (mark.get("length_m") or mark.get("length_km")):
            continue  # of points, and of lists of other makers, none was measured
        if match["percent"]:
            said = int(match["percent"]) / 100
            low, high = said * 0.6 - 0.05, said * 1.4 + 0.05
        else:
            low, high = next(limits for number, limits in enumerate(_RANGES) if match[f"e{number}"])
        # The map may draw a thing a little larger or smaller than the picture shows it.
        if not low <= (share or 0.0) <= high:
            yield raw[subject[0] : match.end()].strip()
