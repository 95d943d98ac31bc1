"""Captions that a model writes, scored against those that people wrote, beside captions that took no model at all.

What is counted, and by whom:

- BLEU-1 to BLEU-4 of the whole corpus by `sacrebleu`, without smoothing; CIDEr (its D variant) and ROUGE-L by `pycocoevalcap`, the code
  of COCO's own evaluation. All are times 100; CIDEr reaches 1,000. COCO's own BLEU is left alone, for its file forbids commercial use;
  that the two agree is tested.
- COCO cuts texts into words by a program in Java. Here `plain_words` does so for references and candidates alike.
- Captions of an image that read the same count once, and empty ones are none: RSICD fills up to five by repetition. For BLEU and ROUGE-L
  that changes nothing; CIDEr, a mean over references, is another number than where repetitions count.
- Words that few images have weigh more in CIDEr. The weights are those of the scored references, whatever is resampled.

Source: Papineni et al. 2002 (BLEU); Lin 2004 (ROUGE); Vedantam et al. 2015 (CIDEr, arXiv 1411.5726); Chen et al. 2015 (COCO's evaluation,
arXiv 1504.00325).
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from rsvlm.data import shards
from rsvlm.data.reading import decoded
from rsvlm.errors import DataError, ModelError, need
from rsvlm.evaluation import embeddings, statistics
from rsvlm.evaluation.baselines import colours
from rsvlm.model.encoder import Encoder
from rsvlm.records import files
from rsvlm.records.text import batched

logger = logging.getLogger(__name__)

EXTRA = "captions"
METRICS = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr")
ORDERS = 4
"""Longest row of words that BLEU looks for."""

FREQUENT, RANDOM, NEAREST = "most frequent training caption", "random training caption", "training picture of nearest colours"
"""Captions that took no model: for every picture the same; for each another; or the first of the picture most alike in colour."""


@dataclass(frozen=True)
class Pictures:
    """N pictures: their keys, what people wrote about each (one or more, as `references` gives them), and colours (N, 54)."""

    keys: list[str]
    references: list[list[str]]
    colours: np.ndarray


def plain_words(text: str) -> str:
    """Return the words of a text in lower case with a blank between them; signs inside words (`low-lying`, `city's`) stay, all others go."""
    return " ".join(re.findall(r"\w+(?:[-'’.]\w+)*", text.lower()))


def references(captions: Iterable[str]) -> list[str]:
    """Return the `plain_words` of captions, those that read the same once and none that is empty."""
    return [words for words in dict.fromkeys(map(plain_words, captions)) if words]


def check_ability(encoder: Encoder) -> None:
    """Check that a model writes captions, and that the packages which score them are installed.

    Raises:
        ModelError: It does not.
        MissingExtraError: One of them is not.
    """
    if "captions" not in encoder.can:
        raise ModelError(
            f"{encoder.name} writes no captions: take a MaMMUT with a tokenizer, such as the folder that `rsvlm train` wrote"
        )
    for package in ("sacrebleu", "pycocoevalcap.cider.cider", "pycocoevalcap.rouge.rouge"):
        need(package, EXTRA)


def write(
    encoder: Encoder, samples: Iterable[shards.Sample], *, batch_size: int = 64, beams: int = 1, skipped: Counter | None = None
) -> tuple[list[str], Pictures]:
    """Let a model write a caption of each picture: the likeliest next word each time, or the best of several `beams`.

    Args:
        encoder: A model with the ability `captions`.
        samples: Pictures with captions.
        batch_size: Pictures per forward pass.
        beams: Number of unfinished captions that are followed at once. With 1, greedy.
        skipped: Counter of the samples left out, by reason.

    Returns:
        N captions as they were written, and what they are of.

    Raises:
        DataError: No picture with a caption could be read.
        ModelError, MissingExtraError: As `check_ability`.
    """
    check_ability(encoder)
    skipped = Counter() if skipped is None else skipped
    written: list[str] = []
    pairs: list[tuple[str, list[str], np.ndarray]] = []
    with tqdm(desc="caption", unit=" images") as progress:
        for batch in batched(decoded(samples, skipped), batch_size):
            written += encoder.model.captions(encoder.preprocess([array for _, array in batch]), num_beams=beams)
            pairs += [(sample.key, references(sample.captions), colours(array)) for sample, array in batch]
            progress.update(len(batch))
    said = [i for i, (_, texts, _) in enumerate(pairs) if texts]
    if len(said) < len(pairs):
        skipped["no word in any caption"] += len(pairs) - len(said)
    return [written[i] for i in said], _pictures([pairs[i] for i in said], skipped)


def read(samples: Iterable[shards.Sample], *, skipped: Counter | None = None) -> Pictures:
    """Read pictures with captions, such as those of training for captions that take no model. Raises as `write`."""
    skipped = Counter() if skipped is None else skipped
    pairs = []
    for sample, array in tqdm(decoded(samples, skipped), desc="read captions", unit=" images"):
        if texts := references(sample.captions):
            pairs.append((sample.key, texts, colours(array)))
    return _pictures(pairs, skipped)


def _pictures(pairs: Sequence[tuple[str, list[str], np.ndarray]], skipped: Mapping[str, int]) -> Pictures:
    if not pairs:
        raise DataError(f"no picture with a caption could be read ({embeddings.reasons(skipped) or 'the split is empty'})")
    keys, texts, colour = zip(*pairs)
    return Pictures(list(keys), list(texts), np.stack(colour))


def without_model(train: Pictures, pictures: Pictures, seed: int = 0) -> dict[str, list[str]]:
    """Caption N pictures with what was written about training pictures: name (`FREQUENT`, `RANDOM`, `NEAREST`) → N captions.

    Colours are compared in units of their spread over the training pictures; of captions as frequent the first by alphabet is taken.

    Raises:
        DataError: A picture is among those of training, as where both are of one split: its nearest is itself.
    """
    learnt = {(key, *texts): colour for key, texts, colour in zip(train.keys, train.references, train.colours, strict=True)}
    asked = zip(pictures.keys, pictures.references, pictures.colours, strict=True)
    if same := sum(np.array_equal(learnt.get((key, *texts)), colour) for key, texts, colour in asked):
        raise DataError(f"{same} of the {len(pictures.keys)} pictures asked for are among those of training")
    N = len(pictures.keys)
    every = [text for texts in train.references for text in texts]
    counts = Counter(every)
    frequent = min(counts, key=lambda text: (-counts[text], text))
    drawn = np.random.default_rng(seed).integers(0, len(every), N)
    spread = train.colours.std(0) + 1e-6
    queries, gallery = pictures.colours / spread, train.colours / spread
    nearest = [int(((gallery - query) ** 2).sum(1).argmin()) for query in queries]
    return {
        FREQUENT: [frequent] * N,
        RANDOM: [every[i] for i in drawn],
        NEAREST: [train.references[i][0] for i in nearest],
    }


def score(written: Sequence[str], references: Sequence[Sequence[str]], times: np.ndarray) -> dict[str, np.ndarray]:
    """Score N captions against their references over all images and over resamples of them.

    Of BLEU the counts of each image are resampled, of the others the scores of each image.

    Args:
        written: N captions; an empty one scores 0.
        references: For each image one or more texts, as `references` gives them.
        times: (R, N), how often each image counts, as of `statistics.resamples`.

    Returns:
        (R,) of each of `METRICS`, times 100. Of a single image no CIDEr, since every word is then in all images and weighs nothing.

    Raises:
        DataError: Numbers that differ, or an image without references.
        MissingExtraError: A package that scores is not installed.
    """
    candidates = list(map(plain_words, written))
    if not len(candidates) == len(references) == np.shape(times)[1] or not candidates or not all(map(len, references)):
        empty = sum(not texts for texts in references)
        counts = f"{len(candidates)} captions, {len(references)} images of which {empty} have no references, times {np.shape(times)}"
        raise DataError(f"{counts}: expected one caption for each image, at least one reference each, and (R, N)")
    bleu = need("sacrebleu.metrics", EXTRA).BLEU
    theirs = {i: list(texts) for i, texts in enumerate(references)}
    ours = {i: [text] for i, text in enumerate(candidates)}

    # BLEU from the summed counts of the images: matches and rows of 1 to 4 words, and the lengths of caption and nearest reference
    of_image = bleu(tokenize="none", smooth_method="none", effective_order=True)  # the last concerns single scores, not counts
    parts = [of_image.sentence_score(ours[i][0], theirs[i]) for i in ours]
    counts = np.array([[*part.counts, *part.totals, part.sys_len, part.ref_len] for part in parts])  # (N, 10)
    sums = (np.asarray(times) @ counts).tolist()  # (R, 10)
    scores = {
        f"BLEU-{n}": np.array(
            [bleu.compute_bleu(row[:n], row[ORDERS : ORDERS + n], *row[-2:], max_ngram_order=n).score for row in sums]
        )
        for n in range(1, ORDERS + 1)
    }

    # the others from a mean over images
    means = {"ROUGE-L": need("pycocoevalcap.rouge.rouge", EXTRA).Rouge()}
    if len(candidates) > 1:
        means["CIDEr"] = need("pycocoevalcap.cider.cider", EXTRA).Cider()
    weights = np.asarray(times) / np.sum(times, axis=1, keepdims=True)
    return scores | {name: 100 * weights @ scorer.compute_score(theirs, ours)[1] for name, scorer in means.items()}


def evaluate(
    written: Sequence[str],
    pictures: Pictures,
    others: Mapping[str, Sequence[str]],
    *,
    dataset: str = "unnamed",
    split: str = "test",
    protocol: str = "greedy",
    bootstrap_samples: int = 1000,
    seed: int = 0,
) -> list[dict]:
    """Metric rows of captions, of captions that took no model, and of the gap between them.

    Args:
        written: N captions.
        pictures: The N pictures.
        others: Captions of the same pictures that took no model, by name, as of `without_model`. If empty, nothing stands beside.
        dataset: Name that goes into the rows.
        split: Name that goes into the rows.
        protocol: How the captions were written.
        bootstrap_samples: Number of resamples of the images.
        seed: Seed of the resamples, which are the same for everything that is compared.

    Returns:
        Rows as `results.ROW` has them, `METRICS` for each protocol: `protocol`, each name of `others`, and `PROTOCOL minus NAME`, NAME
        being the one with the highest score of that metric. `chance` is the score of `RANDOM`, where it is among them.

    Raises:
        DataError: As `score`.
    """
    N = len(pictures.keys)
    times = statistics.resamples(N, bootstrap_samples if N > 1 else 0, seed)
    measured = {name: score(texts, pictures.references, times) for name, texts in ({protocol: written} | dict(others)).items()}
    if N == 1:
        logger.warning("%s, split '%s', has one image: that gives no interval, and no CIDEr", dataset, split)
    if empty := sum(not plain_words(text) for text in written):
        logger.warning("%d of %d captions of %s hold no word, and score 0", empty, N, dataset)
    facts = {"dataset": dataset, "split": split, "direction": "i2t", "n": N}
    chance = {metric: float(values[0]) for metric, values in measured.get(RANDOM, {}).items()}
    rows = [
        facts | {"protocol": name, "metric": metric, "chance": chance.get(metric)} | statistics.interval(values)
        for name, of_name in measured.items()
        for metric, values in of_name.items()
    ]
    for metric, values in measured[protocol].items() if others else ():
        best = max(others, key=lambda name: measured[name][metric][0])
        gap = statistics.gap(values, measured[best][metric], None)
        rows.append(facts | {"protocol": f"{protocol} minus {best}", "metric": metric, "chance": None} | gap)
    statistics.warn_of_few(rows, bootstrap_samples)
    return rows


def write_list(path: Path | str, written: Sequence[str], pictures: Pictures, others: Mapping[str, Sequence[str]]) -> Path:
    """Write JSON lines: `key`, `caption`, its `references`, and the captions that took no model, each under its name."""
    lines = (
        {"key": key, "caption": caption, "references": texts} | {name: captions[i] for name, captions in others.items()}
        for i, (key, caption, texts) in enumerate(zip(pictures.keys, written, pictures.references, strict=True))
    )
    return files.write_atomic(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
