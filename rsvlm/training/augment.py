"""Quarter turns and flips: free for overhead imagery, as long as the words turn with the picture.

The eight symmetries of the square are numbered `turn = 2 * quarters + flip`: first, where `flip` is 1, left and right are
swapped; then the image is turned by that many quarters, counter-clockwise. A caption is turned with its image word by word
("in the northwest, west and southwest" by a quarter: "in the southwest, south and southeast"), or, where a word might not mean
a direction in the picture, not at all: then the image has to stay as it is.

Where pictures are few, they can be varied further: a part of each for the whole, and other light. No caption changes with these,
so parts should be large.

Source: our choice; the paper does not say how it augments.
"""

from __future__ import annotations

import functools
import re

import numpy as np

from rsvlm.data.landmarks.directions import COMPASS, STEPS

ELEMENTS = 8

_SIDES = {"top": (0, 1), "bottom": (0, -1), "right": (1, 0), "left": (-1, 0)}
_WORD_OF = {where: word for word, where in STEPS.items()}
_SIDE_OF = {where: word for word, where in _SIDES.items()}
_VERTICAL = {"top": 1, "upper": 1, "bottom": -1, "lower": -1}

_DIRECTION = re.compile(
    r"\b(?:(?P<ns>north|south)(?P<gap>[- ]?)(?P<ew>east|west)"
    r"|(?P<word>north|south|east|west))(?P<ending>ern|erly|wards?|bound|ernmost)?\b(?!\s+hemisphere)"
    r"|\b(?P<corner>top|bottom|upper|lower)(?P<joint>[- ])(?P<beside>left|right)(?P<hand>-hand)?\b"
    r"|\b(?P<side>top|bottom|left|right)(?P<most>most|-hand)?\b"
    r"|\b(?P<half>upper|lower)(?P<half_most>most)?\b"
    r"|\b(?P<axis>horizontal|vertical)(?P<adverb>ly)?\b",
    re.IGNORECASE,
)
# Words that hang on a direction but are not one of ours, or are one in another sense. A caption with any of them is not turned.
_UNSAFE = re.compile(
    r"clock|\b(?:above(?<!from above)|below|beneath|upwards?|downwards?|uppers|lefts|rights|tops|bottoms|lowers|mirrored)\b"
    r"|ern\s+latitude|longitude|\bpole\b|(?:left|right)hand|ern-style"
    r"|\bon top\b|\b(?:roof|hill|mountain|flat|tree|table)[ -]tops?\b|\bhard[ -]top\b"
    r"|\bright(?:[ -]angle[sd]?|\s+(?:next|in|now|by|after|behind|beside|through|away|before|along|across|up|down|at|on))\b"
    r"|\b(?:is|are|was|were|be|been|being|has|have|had)\s+left\b|\bleft\s+(?:by|over|behind|out|alone|bare|open|empty|after)\b"
    r"|\b(?:lower|upper)\s+(?:than|density|vegetation|class|part of the (?:hill|mountain|slope))\b"
    r"|\bturn(?:s|ed|ing)?\s+(?:left|right)\b",
    re.IGNORECASE,
)
_PLACE = rf"(?:{'|'.join(sorted((*COMPASS, 'centre', 'center', 'middle', 'top', 'bottom', 'left', 'right'), key=len, reverse=True))})"
_LIST = re.compile(rf"\b{_PLACE}\b(?:(?:,? and |,? or | to |, ?)(?:(?:in|to|from) )?(?:the )?{_PLACE}\b)+")
_INITIAL = re.compile(r"(?:\A|[.!?:;]\s+|\n\s*)[\"'“‘(\[]*\Z")
_ABBREVIATION = re.compile(r"\b(?:N|S|E|W|NE|NW|SE|SW|NNE|ENE|ESE|SSE|SSW|WSW|WNW|NNW)\b\.?|[°º]")
_NAME_AFTER = re.compile(r"[\s-]+(?:of\s+(?:the\s+)?)?[A-Z]")


def turn_image(image: np.ndarray, turn: int) -> np.ndarray:
    """Turn an image (H, W, C) by one of the eight symmetries; a view, nothing is copied."""
    quarters, flip = divmod(turn, 2)
    return np.rot90(image[:, ::-1] if flip else image, quarters)


def turn_text(text: str, turn: int) -> str | None:
    """Turn the direction words of a caption as `turn_image` turns its image.

    Args:
        text: Caption in English.
        turn: Number of one of the eight symmetries, 0…7.

    Returns:
        A caption that is as true of the turned image as `text` is of the image; None where that is not certain, as with "North
        Korea", "clockwise", "NW", "northern Italy", or "the upper half" under a quarter turn (there is no such word for sides).
    """
    if turn == 0:
        return text
    directions = list(_DIRECTION.finditer(text))
    if _UNSAFE.search(text) or _ABBREVIATION.search(text) or any(_is_name(text, match) for match in directions):
        return None
    parts, end = [], 0
    for match in directions:
        word = _turn_word(match, turn)
        if word is None:
            return None
        parts += [text[end : match.start()], word.capitalize() if match[0][0].isupper() else word]
        end = match.end()
    return "".join([*parts, text[end:]])


def meaning(text: str) -> tuple[str, ...]:
    """Return what two captions share that differ in the order of directions in a list ("north and south"), or of sentences, alone."""
    ordered = _LIST.sub(lambda match: " and ".join(sorted(re.findall(_PLACE, match[0]))), text.lower())
    return tuple(sorted(part.strip(" .") for part in re.split(r"(?<=[.!?;])\s+", ordered)))


def draw_twins(rng: np.random.Generator, text: str, count: int) -> dict[int, str]:
    """Draw different symmetries of one picture whose captions mean different things.

    Args:
        rng: Generator that the symmetries are drawn from.
        text: Caption of the picture as it is.
        count: Number of symmetries wanted, 1…8.

    Returns:
        Turned captions by the number of their symmetry, at most `count`: fewer where the caption tells fewer apart, and the picture
        as it is where the caption cannot be turned.
    """
    twins, meanings = {}, set()
    for turn in rng.permutation(ELEMENTS).tolist():
        turned = turn_text(text, turn)
        if turned is not None and (said := meaning(turned)) not in meanings:
            meanings.add(said)
            twins[turn] = turned
        if len(twins) == count:
            break
    return twins


def draw_boxes(rng: np.random.Generator, count: int, smallest: float) -> np.ndarray:
    """Draw parts of pictures: (count, 4) boxes (x0, y0, x1, y1) in 0…1.

    Areas are even in `smallest`…1, and the ratio of the sides is at most 5 : 4. Source: Szegedy et al. (arXiv 1409.4842),
    section 6, with milder limits.
    """
    area, ratio = rng.uniform(smallest, 1, count), np.exp(rng.uniform(-1, 1, count) * np.log(1.25))
    sides = np.minimum(np.sqrt(np.column_stack([area * ratio, area / ratio])), 1)  # (count, 2) width and height
    corner = rng.random((count, 2)) * (1 - sides)
    return np.column_stack([corner, corner + sides])


def draw_light(rng: np.random.Generator, count: int, strength: float) -> np.ndarray:
    """Draw changes of light: (count, 2, 3) factors and offsets of the three colours, for `relight`.

    Contrast and brightness vary by up to `strength`, the balance of the colours by up to half of it.
    """
    contrast, balance = rng.uniform(-strength, strength, (count, 1)), rng.uniform(-strength / 2, strength / 2, (count, 3))
    brightness = rng.uniform(-strength, strength, (count, 1))
    factors = (1 + contrast) * (1 + balance)
    return np.stack([factors, 64 * brightness - 128 * contrast * (1 + balance)], axis=1)


def relight(image: np.ndarray, light: np.ndarray) -> np.ndarray:
    """Change the light of an image (H, W, 3) uint8 by (2, 3) factors and offsets; what leaves 0…255 is cut."""
    factors, offsets = light.astype(np.float32)
    return np.clip(image * factors + offsets, 0, 255).astype(np.uint8)


@functools.cache
def _move(where: tuple[int, int], turn: int) -> tuple[int, int]:
    """Move a direction (x to the right, y up)."""
    quarters, flip = divmod(turn, 2)
    x, y = (-where[0] if flip else where[0]), where[1]
    for _ in range(quarters):
        x, y = -y, x
    return x, y


def _is_name(text: str, match: re.Match) -> bool:
    """Whether a direction belongs to a name, or to a place in the world: "West Bank", "the North", "northern Italy"."""
    if match[0][0].isupper() and not _INITIAL.search(text[: match.start()]):
        return True
    return (match["axis"] or match["half"]) is None and _NAME_AFTER.match(text, match.end()) is not None


def _turn_word(match: re.Match, turn: int) -> str | None:
    part = {name: (value or "").lower() for name, value in match.groupdict().items()}
    if compass := part["word"] or part["ns"] + part["ew"]:
        word = _WORD_OF[_move(STEPS[compass], turn)]
        return (word[:5] + part["gap"] + word[5:] if part["gap"] else word) + part["ending"]
    if part["corner"]:
        x, y = _move((_SIDES[part["beside"]][0], _VERTICAL[part["corner"]]), turn)
        words = ("top", "bottom") if part["corner"] in ("top", "bottom") else ("upper", "lower")
        return words[y < 0] + part["joint"] + ("left" if x < 0 else "right") + part["hand"]
    if part["side"]:
        side = _SIDE_OF[_move(_SIDES[part["side"]], turn)]
        return None if part["most"] == "-hand" and side in ("top", "bottom") else side + part["most"]
    if part["half"]:
        x, y = _move((0, _VERTICAL[part["half"]]), turn)
        return None if x else ("upper" if y > 0 else "lower") + part["half_most"]
    is_level = (part["axis"] == "horizontal") == (_move((1, 0), turn)[1] == 0)
    return ("horizontal" if is_level else "vertical") + part["adverb"]
