# ---
# jupyter:
#   jupytext:
#     cell_metadata_filter: tags,mystnb
#     notebook_metadata_filter: kernelspec,-jupytext.text_representation.jupytext_version
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Does it find places?
#
# (retrieval-on-unseen-ground)=
#
# **Given a sentence, does the model put the right place first, among hundreds from ground that it never saw? Beside the main numbers stands
# what the colours of a chip alone tell; at the end, which words of a sentence the model reads at all.**
#
# Time: a quarter of an hour to read; a minute to run on two CPU cores, once the model of [](02_training) is trained.
#
# A high recall can mean three things. The model knows landscapes; or the test chips lie next to the training chips; or green captions go
# with green pictures, and no landscape is needed for that. So this page tests on ground of its own, counts chips that share ground as
# one, and puts the same questions to a {term}`baseline` that knows nothing but colours.

# %% mystnb={"code_prompt_show": "Code: parameters of this page"} tags=["parameters", "after:02_training", "hide-input"]
profile = "laptop"
seed = 0
device = "auto"
recompute = False
run_name = ""
overrides = ""

# %% mystnb={"code_prompt_show": "Code: imports"} tags=["hide-input"]
import time

import numpy as np
import pandas as pd
import rsvlm
from rsvlm import config
from rsvlm.book import failures
from rsvlm.book.figures import (
    charts,
    galleries,
    interactive,
    numbers,
    scale,
    tables,
)
from rsvlm.data import benchmarks
from rsvlm.data.demo import earth, earth_facts, recipe
from rsvlm.evaluation import (
    baselines,
    embeddings,
    reading,
    retrieval,
    shared_ground,
    statistics,
    words,
)
from rsvlm.model import embed, images
from rsvlm.model.device import resolve_device
from rsvlm.records import provenance, results
from rsvlm.training import augment, train

# %% mystnb={"code_prompt_show": "Code: data and model"} tags=["hide-input"]
started = time.time()
given = {"seed": seed, "device": device}
options = config.load(profile, given | config.pairs(overrides))
data = earth.load_or_build(options)
run = train.load_or_train(*recipe.prepare(options))

# %% [markdown]
# ## How often is the right answer among the first?
#
# The gallery holds the chips of the geographic test split, each with one caption, its fullest. {term}`Ties <ties>` count as errors. Two
# others answer the same questions:
#
# - **Colours alone** knows no shapes. To it a {term}`chip` is 54 numbers, the mean and the deviation of each colour in the nine fields of
#   a 3 × 3 grid. A ridge regression, fitted on the training chips, predicts the words of the caption from them.
# - **Captions shuffled** is the model itself, with the captions dealt out anew among the chips. If its score came from anything but the
#   match of chip and caption, it would survive this.

# %% mystnb={"code_prompt_show": "Code: vectors of the test chips"} tags=["hide-input"]
by_key = {sample.key: sample for sample in benchmarks.samples(data, "test")}
stored = embeddings.load_or_embed(
    run / "model", data, "test", recompute=recompute, device=device
)
found = embeddings.read(stored)
test = [by_key[key] for key in found.keys]
pictures = [images.decode(sample.image) for sample in test]
blocks = shared_ground.blocks([sample.record for sample in test])
owners = found.image_of_caption
vectors = found.image_embeddings, found.caption_embeddings

# %% mystnb={"code_prompt_show": "Code: colours alone"} tags=["hide-input"]
# The better of the two that `rsvlm evaluate retrieval --baselines` knows:
palette = "colour, whitened"
known, captions_of, _ = baselines.read(benchmarks.samples(data, "train"))
ridge = baselines.colour_ridge(
    known, [texts[:1] for texts in captions_of], whitening=0.1, seed=seed
)
by_colour = ridge.images(
    np.stack([baselines.colours(picture) for picture in pictures])
)
facts = {
    "dataset": benchmarks.name(data),
    "bootstrap_samples": options.evaluate.bootstrap_samples,
    "seed": seed,
}
settings = facts | {"protocol": "one-to-one", "blocks": blocks}

# %% [markdown]
# All three are scored by the same call. Intervals come from drawing whole {term}`blocks <block>` of chips that share ground; shuffled captions
# belong to no ground, so there single chips are drawn:

# %%
ours, theirs = {}, {}
rows = retrieval.evaluate(*vectors, owners, resampled=ours, **settings)
coloured = retrieval.evaluate(
    by_colour, ridge.texts(found.captions), owners, resampled=theirs, **settings
)
shuffled = np.random.default_rng(seed).permutation(len(test))[owners]
control = retrieval.evaluate(*vectors, shuffled, **settings | {"blocks": None})

# %% mystnb={"code_prompt_show": "Code: bars of recall"} tags=["hide-input"]
systems = {
    "trained": rows,
    "colours alone": coloured,
    "captions shuffled": control,
}
charts.picture(
    charts.recall_bars(systems),
    "Bars of recall at 1, 5 and 10 in both directions, for the trained model, "
    "for colours alone, and for shuffled captions, which stand at chance.",
)

# %% tags=["remove-input"]
units = statistics.count_blocks(blocks, len(test))
beside = baselines.beside(rows, ours, palette, coloured, theirs, units)
mean, mean_colour, mean_control = (
    next(row for row in of if row["metric"] == "mR")
    for of in (rows, coloured, control)
)
gap = next(
    row
    for row in beside
    if "model - " in row["protocol"] and row["metric"] == "mR"
)


def judged(gap):
    if gap["ci_low"] > 0:
        return "beats"
    return (
        "falls short of" if gap["ci_high"] < 0 else "cannot be told apart from"
    )


numbers.prose(
    "Mean recall over both directions is "
    f"**{numbers.interval(mean, unit='%')}**.",
    f"Colours alone reach {mean_colour['value']:.1f} %; the model "
    f"{judged(gap)} them. The difference is "
    f"{numbers.interval(gap, signed=True, unit='points')}.",
    f"With shuffled captions it has {mean_control['value']:.2f} %, and "
    f"guessing gives {mean['chance']:.2f} %.",
)

# %% [markdown]
# One caption per chip is one of five {term}`protocols <protocol>` in use; [](07_recall_at_k) counts the same vectors under all of them.
#
# ## Text → image: found, nearly found, lost
#
# A row is one search: the sentence, its first five answers and, behind the gap, the right one with its rank. There is a row for each
# kind of outcome, and it shows the search with the median rank of its kind. The first kind that fits counts:
#
# - *found*: the right one comes first;
# - *near miss*: the first answer shows some of the same ground;
# - *lost*: more than a tenth of all chips come before the right one;
# - else what the captions of the two differ in: directions, colours, or hardly anything.


# %% mystnb={"code_prompt_show": "Code: searches by each caption"} tags=["hide-input"]
def chip(i):
    record = test[i].record
    alt = scale.described(record)
    return {"image": pictures[i], "alt": alt, "ground": record}


model = rsvlm.load(run / "model", device=device)
encoder = embed.encoder_of(model)
first_captions = np.sort(np.unique(owners, return_index=True)[1])
texts = [found.captions[i] for i in first_captions]
captions = found.caption_embeddings[first_captions]
image_to_text, text_to_image = retrieval.ranks(
    found.image_embeddings, captions, np.arange(len(texts))
)
scores, best = embeddings.search(captions, found.image_embeddings, k=5)

# %% mystnb={"code_prompt_show": "Code: kinds of outcome"} tags=["hide-input"]
shared = [
    [shared_ground.overlap(test[q].record, test[i].record) for i in row]
    for q, row in enumerate(best)
]
told = [(of[0], texts[q], texts[best[q, 0]]) for q, of in enumerate(shared)]
kinds = [
    failures.kind(rank, len(test), *of) for rank, of in zip(text_to_image, told)
]
queries = list(failures.examples(kinds, text_to_image).values())
important = reading.importance(
    found.image_embeddings, [texts[q] for q in queries], queries, encoder.texts
)


# %% mystnb={"code_prompt_show": "Code: strips of searches"} tags=["hide-input", "full-width"]
def strip(q, word):
    hindering = failures.hindering(word.spans, texts[q], word.rank, word.ranks)
    answers = zip(best[q], scores[q], shared[q])
    right_one = {"rank": text_to_image[q], "score": word.cosine}
    return {
        "query": texts[q],
        "spans": word.spans,
        "changes": word.changes,
        "kind": f"{kinds[q]} ({kinds.count(kinds[q])} of {len(kinds)})",
        "reason": failures.reason(kinds[q], *told[q], hindering),
        "images": [
            chip(i) | {"score": s, "right": i == q, "overlaps": part > 0}
            for i, s, part in answers
        ],
        "right_one": chip(q) | right_one,
    }


galleries.text_to_image(list(map(strip, queries, important)))

# %% [markdown]
# ## Image → text: what does the model say first?
#
# For three chips drawn at random: the three sentences that the model puts first, and the right one. Sentence by sentence each is compared
# with the right one; underlined is what differs.

# %% mystnb={"code_prompt_show": "Code: sentences of three chips"} tags=["hide-input"]
_, sentences = embeddings.search(found.image_embeddings, captions, k=3)
shown = np.random.default_rng(seed).choice(len(texts), 3, replace=False)
galleries.image_to_text(
    [
        chip(i)
        | {
            "captions": [
                {"text": texts[j], "right": j == i} for j in sentences[i]
            ],
            "right_one": {"text": texts[i], "rank": image_to_text[i]},
        }
        for i in shown
    ]
)

# %% [markdown]
# ## Sentences of our own
#
# The text tower takes any sentence. These are written by hand, in the vocabulary of the captions; [](../search) takes yours.

# %%
asked = [
    "Sea to the east covers about half of the picture.",
    "Sea to the west covers about half of the picture.",
    "Tan land, smooth, without any water.",
    "Dark green land with many lakes.",
    "White land and sea, with many islands.",
    "A small island in the sea.",
    "A large lake in brown land.",
    "Land covers all of the picture.",
    "Sea and an ice shelf.",
]
sentence_vectors = embed.texts(model, asked)
_, answers = embeddings.search(sentence_vectors, found.image_embeddings, k=10)

# %% mystnb={"code_prompt_show": "Code: answers to choose among"} tags=["hide-input"]
frames = [
    galleries.gallery(
        [chip(i) | {"badge": k} for k, i in enumerate(row, start=1)], 120
    )
    for row in answers
]
interactive.slider(frames, {"sentence": asked}, drop_down=True)

# %% [markdown]
# ## How many places is that, really?
#
# Test chips overlap, for the grid that they are cut along is finer than their side. What a model gets right of one chip it tends to get
# right of its neighbours, so an interval over single chips is too narrow. Except for shuffled captions, all intervals on this page draw whole
# {term}`blocks <block>`: chips whose ground overlaps, directly or through others, stay together. The training chips lie at least a chip's side away from
# them. That the landscape goes on beyond that is a leak, which no split of one planet can close. The same, over single chips:

# %%
alone = retrieval.evaluate(*vectors, owners, **settings | {"blocks": None})

# %% tags=["remove-input"]
sizes = np.bincount(statistics.codes(blocks, len(test)))
mean_alone = next(row for row in alone if row["metric"] == "mR")
wide, narrow = (row["ci_high"] - row["ci_low"] for row in (mean, mean_alone))
numbers.prose(
    f"Neighbours in a row share "
    f"{100 - 100 * options.landmarks.test_stride:.0f} % of their side. The "
    f"{len(test)} chips lie in {numbers.counted(len(sizes), 'block')}, the "
    f"largest of {sizes.max()} chips, and these vary as {units} of one size "
    "would. Over single chips the interval of mean recall is "
    f"{mean_alone['ci_low']:.1f} to {mean_alone['ci_high']:.1f}, over blocks "
    f"{mean['ci_low']:.1f} to {mean['ci_high']:.1f}: {wide / narrow:.1f} times "
    "as wide. With so few blocks, that interval is itself a rough one.",
)

# %% [markdown]
# ## Where on Earth is it easy?
#
# The same queries by the latitude belt of their chip, in the same gallery; in brackets, how many chips a belt has. Where intervals
# overlap, the order may be chance; and a belt that lies in very few blocks has an interval that leaves nearly everything open.

# %% mystnb={"code_prompt_show": "Code: recall of each belt"} tags=["hide-input"]
belts = pd.read_parquet(data / "chips.parquet").set_index("key")["belt"]
belts = belts.loc[found.keys].tolist()
order = [f"R@5[{belt}]" for _, belt in earth_facts.BELTS]
per_belt = retrieval.evaluate(*vectors, owners, classes=belts, **settings)
ways = {"i2t": "image → text", "t2i": "text → image"}
dots = [
    row
    | {
        "label": f"{row['metric'][4:-1]} ({row['n']})",
        "series": ways[row["direction"]],
    }
    for row in sorted(
        (row for row in per_belt if row["metric"] in order),
        key=lambda row: order.index(row["metric"]),
    )
]
charts.picture(
    charts.interval_dots(dots, "R@5, percent"),
    "R@5 both ways for the chips of each latitude belt, with intervals.",
)

# %% [markdown]
# ## How far down is the right answer otherwise?
#
# The share of queries whose right answer has a given rank or a better one:

# %% mystnb={"code_prompt_show": "Code: curves of ranks"} tags=["hide-input"]
ranks = {"text → image": text_to_image, "image → text": image_to_text}
charts.picture(
    charts.rank_histogram(ranks, len(texts)),
    "Curves of the share of queries whose right answer is within each rank, "
    "for both directions and for guessing.",
)

# %% [markdown]
# ## Which words count?
#
# A sentence can be found by a few of its words. Here are three tests of that, each of the model and of colours alone; then single words.
#
# *Words of a kind*: each colour, direction or count in the captions is exchanged for another one, east for west, or all words are put into
# another order. What mean recall loses is what these words were worth.

# %% mystnb={"code_prompt_show": "Code: exchanges of words"} tags=["hide-input"]
exchanges = {
    name: words.changes()[name]
    for name in (
        "colours swapped",
        "directions swapped",
        "counts swapped",
        "east for west",
        "order shuffled",
    )
}
asked_of = {
    "model": (found.image_embeddings, encoder.texts),
    "colours alone": (by_colour, ridge.texts),
}

# %% [markdown]
# Each time the captions are written anew, embedded, and scored as before:

# %%
ablated = {
    who: reading.ablation(
        of_images,
        found.captions,
        owners,
        texts_of,
        changes=exchanges,
        **settings,
    )
    for who, (of_images, texts_of) in asked_of.items()
}

# %% mystnb={"code_prompt_show": "Code: losses by each exchange"} tags=["hide-input"]
worth = {
    (who, row["protocol"].removeprefix("one-to-one: "), row["metric"]): row
    for who, of in ablated.items()
    for row in of
}
lines = []
for name in exchanges:
    share = worth["model", name, "captions_changed"]["value"]
    label = {"label": f"{name} ({share:.0f} %)"}
    for who in asked_of:
        lost = worth[who, f"{name} - unchanged", "mR"]
        lines.append(lost | label | {"series": who, "chance": None})
charts.picture(
    charts.interval_dots(
        lines, "change of mean recall, points (in brackets: captions changed)"
    ),
    "What mean recall loses by each exchange of words, for the model and for "
    "colours alone, with intervals; the loss is at the left of zero.",
)

# %% [markdown]
# *Directions*: each chip is rotated and mirrored, and its sentence, left as it is, has to find it among its own eight turns. And
# *negation*: of two sentences, one that a chip shows a thing and one that it does not, the true one should be nearer.

# %% mystnb={"code_prompt_show": "Code: eight turns of a chip"} tags=["hide-input"]
telling = {
    i: sentence
    for i, sample in enumerate(test)
    if (sentence := reading.telling(sample.captions))
}
few = list(telling)[:200]
asking, how = [telling[i] for i in few], facts | {"blocks": blocks[few]}
turns = [
    augment.turn_image(pictures[i], turn)
    for i in few
    for turn in range(augment.ELEMENTS)
]
palettes = ridge.images(np.stack(list(map(baselines.colours, turns))))
palettes = palettes.reshape(len(few), augment.ELEMENTS, -1)
turned = reading.turned_vectors(encoder, [pictures[i] for i in few])
draws, their_draws = {}, {}
directed = reading.directions(
    turned, asking, encoder.texts, resampled=draws, **how
)
by_palette = reading.directions(
    palettes, asking, ridge.texts, resampled=their_draws, **how
)
units_of_turns = statistics.count_blocks(blocks[few], len(few))
directed += baselines.beside(
    directed, draws, palette, by_palette, their_draws, units_of_turns
)

# %% mystnb={"code_prompt_show": "Code: negation"} tags=["hide-input"]
names, seen = reading.labels([sample.record for sample in test])
denied = {
    who: reading.negation(
        of_images, names, seen, texts_of, blocks=blocks, **facts
    )
    for who, (of_images, texts_of) in asked_of.items()
}

# %% tags=["remove-input"]
right = {
    row["protocol"]: row
    for row in directed
    if (row["metric"], row["direction"]) == ("directions", "t2i")
}
by_model, by_colours, apart = (
    right[name]
    for name in (
        "directions",
        f"directions: {palette}",
        f"directions: model - {palette}",
    )
)
negated = [
    next(row for row in of if row["metric"] == "negation")
    for of in denied.values()
]
numbers.prose(
    "With the model a sentence finds its chip among the eight turns for "
    f"{numbers.interval(by_model, unit='%')} of {len(few)} chips, with colours "
    f"alone for {numbers.interval(by_colours, unit='%')}, and by guessing for "
    f"{by_model['chance']:.1f} %. The difference is "
    f"{numbers.interval(apart, signed=True, unit='points')}.",
    f"Of negations the model gets {numbers.interval(negated[0], unit='%')} "
    f"right, colours alone {numbers.interval(negated[1], unit='%')}, and "
    f"guessing {negated[0]['chance']:.0f} %.",
)

# %% [markdown]
# *Word by word*: for three chips drawn at random, a caption of middling length, and what the search for the chip loses without each word.

# %% mystnb={"code_prompt_show": "Code: captions word by word"} tags=["hide-input"]
drawn = np.random.default_rng(seed).choice(len(test), 3, replace=False)
middling = [
    min(test[i].captions, key=lambda text: abs(len(text.split()) - 20))
    for i in drawn
]
important = reading.importance(
    found.image_embeddings, middling, drawn, encoder.texts
)
galleries.shaded_words(
    [
        chip(i)
        | {
            "text": one.text,
            "spans": one.spans,
            "changes": one.changes,
            "note": f"rank {one.rank} of {len(test)}",
        }
        for i, one in zip(drawn, important, strict=True)
    ]
)

# %% tags=["remove-input"]
origin = provenance.provenance(
    options,
    benchmarks.fingerprint(data),
    str(resolve_device(device)),
    started,
    "rsvlm run notebooks/03_retrieval.ipynb",
)
where = run_name or f"{profile}-seed{seed}"
saved = results.save_result("retrieval", where, options, rows + beside, origin)
labelled = [
    row | {"protocol": f"{row['protocol']}: {palette}"}
    for row in ablated["colours alone"] + denied["colours alone"]
]
measured = directed + ablated["model"] + denied["model"] + labelled
saved = results.save_result("reading", where, options, measured, origin)

# %% [markdown]
# ## Exercise
#
# Somebody cuts the same test ground along a grid twice as fine, into four times as many chips of the same size, and computes both intervals
# of mean recall anew. Which of the two becomes narrower? Is more known of the model? And what becomes of mean recall itself?
#
# ```{dropdown} Answer
# The interval over single chips narrows: with four times as many it would be half as wide, were mean recall to stay as it is. The one over
# blocks does not, for no new ground was looked at, and so no more is known of the model. Mean recall falls: each chip has more neighbours
# that look almost like it, and its sentence has to tell it from them. The way back shows it: of every second chip of every second
# row, a quarter of those above, the model finds many more, with a wider interval over chips.
# ```
#
# ## Takeaways

# %% tags=["remove-input"]
losses = {
    name: worth["model", f"{name} - unchanged", "mR"] for name in exchanges
}
most = min(losses, key=lambda name: losses[name]["value"])
idle = [name for name, row in losses.items() if row["ci_high"] >= 0]
over_chance = {
    end: negated[0][end] - negated[0]["chance"] for end in ("ci_low", "ci_high")
}
numbers.points(
    f"On ground that it never saw the model reaches {mean['value']:.1f} % mean "
    f"recall and {judged(gap)} colours alone, which reach "
    f"{mean_colour['value']:.1f} %. With shuffled captions it has "
    f"{mean_control['value']:.1f} %, and guessing gives "
    f"{mean['chance']:.1f} %.",
    f"The median rank is {np.median(text_to_image):.0f} of {len(texts)} for "
    f"text → image, and {np.median(image_to_text):.0f} for image → text.",
    f"An interval over single chips would have been {wide / narrow:.1f} times "
    "too narrow.",
    f"The model loses most by “{most}”"
    + (
        f"; what it loses by {', '.join(f'“{n}”' for n in idle)} may be chance."
        if idle
        else "; each exchange costs something beyond chance."
    ),
    f"In finding a chip among its turns it {judged(apart)} colours alone; "
    f"with negations it {judged(over_chance)} guessing.",
)

# %% tags=["remove-input"]
tables.provenance(origin)
