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
# # Find it, teach it
#
# **A sentence is a first guess at what you look for. Ten times yes or no are a better one. How much better is measured here, on ground where
# the answers are known, against chips at random and against the usual formula.**
#
# Time: ten minutes to read; less than a minute to run, once the model of the chapter before is trained.
#
# Whoever has imagery and a question rarely has a model that was trained for it. The model knows some words, and nobody can say in advance which; and what is
# meant by *village* is in the head of the one who asks. Pointing is easier than defining: this is one, this is none. So the search shows
# chips, takes a yes or a no for each, and learns. The question of this chapter is what such an answer is worth.

# %% mystnb={"code_prompt_show": "Code: parameters of this page"} tags=["parameters", "after:11_itaipu", "hide-input"]
profile = "laptop"
seed = 0
device = "auto"
recompute = False
run_name = ""
overrides = ""
model = ""  # any other, as `--model` takes it

# %% mystnb={"code_prompt_show": "Code: imports"} tags=["hide-input"]
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import rasterio
from rasterio.windows import Window
from rsvlm import config
from rsvlm.book.figures import (
    atlas,
    charts,
    galleries,
    numbers,
    scale,
    tables,
)
from rsvlm.data.demo import ground, itaipu, recipe
from rsvlm.errors import DataError
from rsvlm.evaluation import labels, statistics
from rsvlm.localization import heat
from rsvlm.model.device import resolve_device
from rsvlm.model.others import opening
from rsvlm.records.files import file_sha256
from rsvlm.records.provenance import provenance
from rsvlm.records.results import save_result
from rsvlm.search import (
    confidence,
    index as archive,
    query,
    scene as scenes,
    simulated,
    teaching,
)
from rsvlm.training import train

# %% mystnb={"code_prompt_show": "Code: options, ground and model"} tags=["hide-input"]
started = time.time()
options = config.load(
    profile, {"seed": seed, "device": device} | config.pairs(overrides)
)
work = Path(tempfile.mkdtemp())
try:
    scene = ground.itaipu()
except DataError as error:
    scene, reason = None, error
is_there = scene is not None
if is_there:
    folder = model or str(
        train.load_or_train(*recipe.prepare(options)) / "model"
    )
    encoder = opening.open_encoder(folder, device=device)

# %% tags=["remove-input"]
source = ground.ITAIPU_SOURCE
numbers.prose(
    "The ground is that of the chapter before: two scenes of Landsat 8 of "
    f"18 May 2020 around the dam of Itaipu, {source['attribution']}, "
    f"{source['license']}."
    if is_there
    else "The package with the ground could not be had, so this chapter is "
    f"empty: {reason}"
)

# %% [markdown]
# ## Ask
#
# First the scene is cut into {term}`chips <chip>` and embedded, once. `rsvlm search index picture.tif --out INDEX` does the same for any imagery.

# %%
if is_there:
    cut = {"size_px": itaipu.SIDE_PX, "min_valid_share": 1.0}
    cut |= {"cover_edges": False, "progress": False}
    picture_file = scene / "picture.tif"
    facts = archive.index(picture_file, encoder, work / "index", **cut)
    index = archive.open_index(work / "index")

# %% tags=["remove-input"]
side_km = itaipu.SIDE_PX * ground.PIXEL_M / 1000
numbers.prose(
    f"These are {facts['chips']:,} chips of {side_km:.1f} km a side; "
    f"{sum(facts['skipped'].values()):,} more have no data, or not "
    "everywhere, and are left out."
    if is_there
    else ""
)

# %% [markdown]
# A text becomes a vector, and the chips whose vectors are nearest to it come first. Two texts, four answers each, with the name of each chip
# in the index in brackets:

# %%
if is_there:
    asked = ["a city", "a reservoir"]
    matches = archive.query(index, asked, encoder, k=4)

# %% mystnb={"code_prompt_show": "Code: answers to the texts"} tags=["hide-input"]
if is_there:
    pictures = archive.pictures(index, matches)
    display(galleries.chip_matches(matches.to_dict("records"), pictures))

# %% [markdown]
# Nothing in these answers says where they stop being right, or whether any is: each question has its best chips, also one that makes no sense. And
# some things are easier to show than to name. This is a click on the river below the dam, and what is most like that chip, which itself comes first:

# %%
CLICK = (-54.622, -25.455)  # longitude and latitude
if is_there:
    parts = query.parts(index, encoder, places=[CLICK])
    like = query.join(index, parts, "like this")
    matches = query.ask(index, [like], 4)

# %% mystnb={"code_prompt_show": "Code: answers to the click"} tags=["hide-input"]
if is_there:
    pictures = archive.pictures(index, matches)
    display(galleries.chip_matches(matches.to_dict("records"), pictures))

# %% [markdown]
# ## Ten times yes or no
#
# The south of the scene was never trained on, and there two independent looks at each chip say what it shows. They play our user, who is
# never in doubt: asked about a chip, the user says what both looks saw. Chips on which they disagree are not shown to the user.
#
# To be fair, the south is halved by blocks of four by four chips. **In one half the user searches and labels. On the other half, of which
# nobody said a word, we measure what was learnt.** This is what is asked for, how, and how many chips of the south show it:

# %% mystnb={"code_prompt_show": "Code: words, texts and truth of the south"} tags=["hide-input"]
LEAST, FORM = 20, "An aerial picture of {}."
ASKED = {
    "water": "water",
    "river": "a river",
    "city": "a city",
    "village": "a village",
    "forest": "a forest",
    "fields": "fields",
    "bare ground": "bare ground",
    "dam": "a dam",
    "island": "an island",
}
if is_there:
    corners = index.chips[["top_px", "left_px"]].to_numpy().astype(int)
    cells = [itaipu.name(*corner) for corner in corners // itaipu.SIDE_PX]
    looks = itaipu.labels().reindex(cells)
    south = np.flatnonzero((looks["split"] == "test").to_numpy())
    counts = (looks.iloc[south][list(itaipu.LABELS)] == itaipu.YES).sum()
    words = [label for label in itaipu.LABELS if counts[label] >= LEAST]
    truth = looks.iloc[south][words].to_numpy(np.int8)
    sentences = [FORM.format(ASKED[word]) for word in words]
    vectors = np.asarray(index.vectors[south], np.float32)
    texts = heat.text_vectors(encoder, sentences)
    blocks = np.array([itaipu.block(cells[row]) for row in south])
    about = {"word": words, "text": sentences, "chips": counts[words].tolist()}
    display(numbers.table(pd.DataFrame(about)))

# %% [markdown]
# The search proposes five chips at a time, the user answers, the search learns and proposes the next. With fewer than five answers it learns by the
# formula of Rocchio: the text's vector moves towards the mean of yes and away from the mean of no. From five on it is a linear classifier
# that begins with the text and gives a probability, and it proposes what it doubts. `simulated.lessons` plays such a search:

# %%
COUNTS = [5, 10, 15, 20]


def lessons(word, searched, **how):
    """Teach a word in some chips: which the user knows, and all lessons."""
    rows = np.flatnonzero(searched & (truth[:, word] != itaipu.UNKNOWN))
    about = teaching.space(vectors[rows], texts[word])
    yes = truth[rows, word] == itaipu.YES
    taught = simulated.lessons(vectors[rows], about, yes, COUNTS, **how)
    return rows, list(taught)


# %% [markdown]
# The first five chips in the half that was never labelled, before and after ten answers in the other one: ✓ where both looks saw the word, ✗ where none did,
# ? where they disagree.

# %% mystnb={"code_prompt_show": "Code: first five chips before and after"} tags=["hide-input"]
MARKS = {itaipu.YES: "✓", itaipu.NO: "✗", itaipu.UNKNOWN: "?"}
SAID = {
    itaipu.YES: "right",
    itaipu.NO: "wrong",
    itaipu.UNKNOWN: "in doubt",
}
CHIP = {"gsd_m": ground.PIXEL_M, "size_px": itaipu.SIDE_PX}


def half(number):
    """Draw half of the blocks: which chips are searched, (N,) bool."""
    names = np.unique(blocks)
    drawn = np.random.default_rng([seed, number]).permutation(names)
    return np.isin(blocks, drawn[: len(names) // 2])


def first_five(word, lesson, other):
    scores = teaching.products(vectors[other], lesson.weights)
    best = other[np.argsort(-scores, kind="stable")[:5]]
    items = []
    for rank, row in enumerate(best, 1):
        held, chip = int(truth[row, word]), index.rows([south[row]])
        where = scale.described(chip.iloc[0].to_dict() | CHIP)
        alt = f"Answer {rank} to {words[word]}, {SAID[held]}: {where}"
        image = archive.pictures(index, chip)[0]
        items.append({"image": image, "badge": MARKS[held], "alt": alt})
    return galleries.gallery([i | {"ground": CHIP} for i in items], 112)


for name in ("city", "river") if is_there else ():
    word, searched = words.index(name), half(0)
    given = {len(n): lesson for n, lesson in lessons(word, searched)[1]}
    for count, when in ((0, "by the text alone"), (10, "after ten answers")):
        strip = first_five(word, given[count], np.flatnonzero(~searched))
        display(numbers.prose(f"**{name}**, {when}"), strip)

# %% [markdown]
# ## What is an answer worth?
#
# The same for every word, with ten halvings, in three ways. *Proposed*: the user is asked what the search proposes. *At random*: the user is asked about
# chips at random. *Rocchio*: the user is asked about the best chips so far, and that formula alone learns. Above all of them lies the
# classifier that is given every label of its half.

# %% mystnb={"code_prompt_show": "Code: measures"} tags=["hide-input"]
HALVINGS = 10
WAYS = {"proposed": {}, "at random": {}, "Rocchio": {"method": "rocchio"}}
EVERY = "all labels of the half"


def measured(word, weights, other):
    """Average precision on the other half, in percent."""
    scores = teaching.products(vectors[other], weights)[:, None]
    once, right = np.ones((1, len(other)), int), truth[other][:, [word]]
    return float(labels.average_precisions(scores, right, once)[0, 0])


def believed(lesson, rows, labelled, word):
    """What the search expects of its order, and the truth; or None."""
    yes = truth[rows[labelled], word] == itaipu.YES
    told = confidence.expectations(lesson, labelled, yes, [])
    once, right = np.ones((1, len(rows)), int), truth[rows][:, [word]]
    scores = lesson.scores[:, None]
    value = labels.average_precisions(scores, right, once)[0, 0]
    return (told["average_precision"], value) if told else None


# %% mystnb={"code_prompt_show": "Code: ten halvings in three ways"} tags=["hide-input"]
records, beliefs = [], []
for number in range(HALVINGS if is_there else 0):
    searched = half(number)
    other = np.flatnonzero(~searched)
    for word, name in enumerate(words):
        for way, how in WAYS.items():
            known = searched & (truth[:, word] != itaipu.UNKNOWN)
            rng = np.random.default_rng([seed, number, word])
            order = rng.permutation(known.sum())
            order = order if way == "at random" else None
            rows, taught = lessons(word, searched, at_random=order, **how)
            for labelled, lesson in taught:
                value = measured(word, lesson.weights, other)
                seen = (truth[rows[labelled], word] == itaipu.YES).sum()
                key = way, number, name, len(labelled)
                records.append((*key, value, seen))
                if way == "proposed" and len(labelled) == 10:
                    pair = believed(lesson, rows, labelled, word)
                    beliefs += [pair] if pair else []
        # With every label of the half.
        about = teaching.space(vectors[rows], texts[word])
        yes = truth[rows, word] == itaipu.YES
        value = measured(
            word, teaching.fit(about, vectors[rows], yes).weights, other
        )
        records.append((EVERY, number, name, COUNTS[-1], value, yes.sum()))

# %% [markdown]
# Precision is averaged over the words first. What varies between halvings then gives the interval: how much luck there is in which half was searched. It
# does not say how another scene would do. The text alone is one sentence and its bare cosines, as a search asks it; {doc}`11_itaipu` asks the whole south
# with more words, the mean over all labels taken off and each chip in eight rotations, and its number is the one that answers have to beat.

# %% mystnb={"code_prompt_show": "Code: curves of average precision"} tags=["hide-input"]
if is_there:
    columns = ["way", "halving", "word", "labels", "value", "yes"]
    table = pd.DataFrame(records, columns=columns)
    means = table.groupby(["way", "labels", "halving"])["value"].mean()
    means = means.unstack("halving")
    times = statistics.resamples(HALVINGS, 1000, seed)
    draws = {
        key: times @ values.to_numpy() / HALVINGS
        for key, values in means.iterrows()
    }
    spans = {key: statistics.interval(values) for key, values in draws.items()}
    best = spans[EVERY, COUNTS[-1]]
    curves = {
        way: pd.DataFrame(
            [{"x": count} | spans[way, count] for count in (0, *COUNTS)]
        )
        for way in WAYS
    }
    curves[EVERY] = pd.DataFrame(
        [{"x": count} | best for count in (0, COUNTS[-1])]
    )
    figure = charts.curves_with_bands(
        curves,
        "answers of the user",
        "mean average precision, percent",
        scale="linear",
    )
    alt = (
        "Average precision on chips that nobody labelled, rising with the "
        "number of answers, for three ways to choose and to learn; a line "
        "above for all labels."
    )
    display(charts.picture(figure, alt))

# %% tags=["remove-input"]
rows, gaps, shares = [], {}, {}
if is_there:
    common = {"dataset": "itaipu-south-halves", "split": "test"}
    common |= {"direction": "t2i", "n": len(south)}
    chance = {"chance": float(labels.chance(truth).mean())}
    none = {"ci_low": None, "ci_high": None, "chance": None}
    text_alone = draws["proposed", 0]
    kept = {("text alone", "mAP"): spans["proposed", 0]}
    for way in WAYS:
        for count in COUNTS:
            kept[way, f"mAP[{count} labels]"] = spans[way, count]
    kept[EVERY, "mAP"] = best
    for (way, metric), entry in kept.items():
        which = {"protocol": way, "metric": metric}
        rows.append(common | which | chance | entry)
    whole = draws[EVERY, COUNTS[-1]] - text_alone
    for count in (10, 20):
        gain = draws["proposed", count] - text_alone
        shares[count] = statistics.interval(100 * gain / whole)
    for way in ("at random", "Rocchio"):
        pair = draws["proposed", 10], draws[way, 10]
        gaps[way] = statistics.gap(*pair, None)
        which = {"protocol": f"proposed - {way}", "metric": "mAP[10 labels]"}
        rows.append(common | which | {"chance": None} | gaps[way])

# %% tags=["remove-input"]
numbers.prose(
    "By the text alone the mean average precision is "
    f"**{numbers.interval(spans['proposed', 0])}**, where a random order has "
    f"{chance['chance']:.1f}. After ten answers it is "
    f"**{numbers.interval(spans['proposed', 10])}**, after twenty "
    f"{numbers.interval(spans['proposed', 20])}; all labels of a half give "
    f"{numbers.interval(best)}. So ten answers go "
    f"{shares[10]['value']:.0f} % of that way, and twenty "
    f"{shares[20]['value']:.0f} %. With ten answers, proposals score "
    f"{numbers.interval(gaps['at random'], signed=True)} points relative to "
    f"chips at random, and {numbers.interval(gaps['Rocchio'], signed=True)} "
    "relative to Rocchio."
    if is_there
    else ""
)

# %% [markdown]
# ## Which words gain?
#
# A mean hides that words differ. Each row is a word, with its average precision in percent: by the *text*, after *ten* answers to what the search
# proposes, after ten to chips at *random*, and with *all* labels of a half.

# %% mystnb={"code_prompt_show": "Code: table of words"} tags=["hide-input"]
if is_there:
    kept = {
        "text": ("proposed", 0),
        "ten": ("proposed", 10),
        "random": ("at random", 10),
        "all": (EVERY, COUNTS[-1]),
    }
    by_word = table.groupby(["way", "labels", "word"])["value"].mean()
    per_word = pd.DataFrame(
        {name: by_word[key] for name, key in kept.items()}
    ).loc[words]
    gains = per_word["ten"] - per_word["text"]
    shown = per_word.rename_axis("word").reset_index()
    display(numbers.table(shown))

# %% tags=["remove-input"]
said = []
if is_there:
    tens = table[table["labels"] == 10]
    yes = tens.groupby(["word", "way"])["yes"].mean()
    tens = tens.pivot(index=["word", "way"], columns="halving", values="value")
    by_chance = pd.Series(labels.chance(truth), words)
    below = per_word["ten"] < by_chance
    for name in words:
        pair = (
            times @ tens.loc[(name, way)].to_numpy() / HALVINGS
            for way in ("proposed", "at random")
        )
        behind = statistics.gap(*pair, None)
        few, many = (yes[name, way] for way in ("proposed", "at random"))
        why = (
            f": of ten proposed chips {few:.1f} show it on average, of ten "
            f"chips at random {many:.1f}."
        )
        if below[name]:
            still = "still " if per_word["text"][name] < by_chance[name] else ""
            said.append(
                f"*{name.capitalize()}* is {still}below a random order after "
                f"ten answers: that has {by_chance[name]:.1f}."
            )
        if not behind["ci_low"] <= 0 <= behind["ci_high"]:
            said.append(
                f"For *{name}*, proposals score "
                f"{numbers.interval(behind, signed=True)} points relative to "
                "chips at random" + (why if few < many / 2 else ".")
            )
numbers.prose(*said)

# %% [markdown]
# ## Does it know how good it is?
#
# Whoever searches has no truth to measure by. So after each answer the search says what average precision it expects of its order, with an
# interval. Here the truth of the searched half is known, and the two can be compared, after ten answers.

# %% tags=["remove-input"]
if is_there:
    inside = np.array(
        [
            told["ci_low"] <= value / 100 <= told["ci_high"]
            for told, value in beliefs
        ]
    )
    off = np.array([100 * told["value"] - value for told, value in beliefs])
    rows.append(
        common
        | none
        | {
            "protocol": "proposed",
            "metric": "expected mAP in its interval",
            "value": 100 * float(inside.mean()),
            "n": len(inside),
        }
    )
numbers.prose(
    f"In {inside.sum()} of {len(inside)} searches the true value lies in the "
    "interval, which is meant to hold 95 of 100. "
    + (
        f"{numbers.counted(silent, 'more says', 'more say')} nothing, for the "
        "ten answers were all alike. "
        if (silent := HALVINGS * len(words) - len(inside))
        else ""
    )
    + "The expectation is off by "
    f"{np.abs(off).mean():.1f} points in a search on average, up or down; "
    f"over all searches it is {abs(off.mean()):.1f} too "
    f"{'high' if off.mean() > 0 else 'low'}."
    if is_there
    else ""
)

# %% [markdown]
# ## Where is it?
#
# Last, the whole south is searched with ten answers for each of the three words that gained most, and what was learnt is laid over all of Itaipu, the north too.
# Colour is the probability of each chip, outlined from one half on; the slider shows the ground beneath.

# %% mystnb={"code_prompt_show": "Code: what was learnt, chip by chip"} tags=["hide-input"]
SHOWN, ZOOM = list(gains.nlargest(3).index) if is_there else [], 12


def region(text, row, probability):
    """Say of one chip what the map shows of it."""
    chip = index.chips.iloc[row]
    left, top = (
        ZOOM * (int(chip[side]) // itaipu.SIDE_PX)
        for side in ("left_px", "top_px")
    )
    right, bottom = left + ZOOM, top + ZOOM
    ring = [[left, top], [right, top], [right, bottom], [left, bottom]]
    area = {"area_px": itaipu.SIDE_PX**2}
    area |= {"area_m2": (itaipu.SIDE_PX * ground.PIXEL_M) ** 2}
    place = {"x": chip["left_px"], "y": chip["top_px"]}
    place |= {"lon": chip["lon"], "lat": chip["lat"], "rings": [[ring]]}
    sure = {"confidence": probability, "peak": probability}
    return {"text": text} | sure | place | area


if is_there:
    places = index.chips[["top_px", "left_px"]].to_numpy().astype(int)
    at = tuple((places // itaipu.SIDE_PX).T)
    high, wide = (1 + int(side.max()) for side in at)
    learnt = np.full((len(SHOWN), high, wide), np.nan, np.float32)
    regions = []
    for text, name in enumerate(SHOWN):
        taught = lessons(words.index(name), np.ones(len(south), bool))[1]
        lesson = {len(given): one for given, one in taught}[10]
        order = teaching.products(index.vectors, lesson.weights)
        order += lesson.offset
        chances = lesson.classifier.probabilities(order)
        learnt[text][at] = chances
        for row in np.flatnonzero(chances >= 0.5):
            regions.append(region(text, row, float(chances[row])))

# %% mystnb={"code_prompt_show": "Code: map of what was learnt"} tags=["hide-input"]
if is_there:
    with rasterio.open(picture_file) as file:
        size = wide * itaipu.SIDE_PX, high * itaipu.SIDE_PX
        window = Window(0, 0, *size)
        shape = (3, ZOOM * high, ZOOM * wide)
        picture = file.read(window=window, out_shape=shape)
    said = [
        {
            "text": name,
            "regions": sum(one["text"] == text for one in regions),
            "highest_confidence": float(np.nanmax(learnt[text])),
        }
        for text, name in enumerate(SHOWN)
    ]
    about = {"scene": "Itaipu", "threshold": 0.5, "texts": said}
    about |= {"coordinates": ground.CRS, "attribution": source["attribution"]}
    regions.sort(key=lambda one: -one["confidence"])
    found = scenes.SearchResult(
        about, regions, np.moveaxis(picture, 0, 2), learnt
    )
    display(atlas.scene_map(found))

# %% tags=["remove-input"]
sure = {
    name: (int((learnt[text][at][south] >= 0.5).sum()), int(counts[name]))
    for text, name in enumerate(SHOWN)
}
numbers.prose(
    f"In the south, of {numbers.counted(len(south), 'chip')}, the probability "
    "is one half or more for "
    + ", ".join(
        f"*{name}* in {many:,} (the looks saw it in {seen:,})"
        for name, (many, seen) in sure.items()
    )
    + ". Ten answers put chips in order; they are too few to count by."
    if is_there
    else ""
)

# %% [markdown]
# ## Same ground, same answer
#
# A search in a scene ([](15_scene)) makes its own tiles, so an answer could depend on where somebody happened to cut the file. Tiles and
# {term}`patches <patch>` therefore lie on a grid that belongs to the ground and not to the file. As a test, a piece of Itaipu is searched, and then parts of it
# that were cut out at three corners: on the grid of tiles, on that of patches, and on none. Confidences at the same places are compared, away
# from the edges of the part (by more than what the model sees at once, a tile and a window) and near them.

# %% mystnb={"code_prompt_show": "Code: cutting out and comparing"} tags=["hide-input"]
LARGE, SMALL = (1024, 1024), (512, 512)
CORNERS = {"tiles": (256, 320), "patches": (264, 344), "neither": (277, 331)}
TEXTS, NORTH, WEST = ["a city", "a forest"], 1100, 700


def piece(name, row, column, height, width):
    """Cut a piece out of Itaipu, as a file on the same grid of pixels."""
    with rasterio.open(picture_file) as file:
        window = Window(column, row, width, height)
        facts = file.profile | {"height": height, "width": width}
        facts["transform"] = file.window_transform(window)
        with rasterio.open(work / f"{name}.tif", "w", **facts) as out:
            out.write(file.read(window=window))
    return work / f"{name}.tif"


def compared(one, other, edge):
    """Differences of two maps, away from the second's edges and near."""
    with (
        rasterio.open(one / "heat.tif") as first,
        rasterio.open(other / "heat.tif") as second,
    ):
        row, column = first.index(*second.xy(0, 0))
        window = Window(column, row, second.width, second.height)
        away = np.abs(first.read(window=window) - second.read())
    inner = np.zeros(away.shape[1:], bool)
    inner[edge:-edge, edge:-edge] = True
    return away[:, inner], away[:, ~inner]


# %% [markdown]
# The large piece and its three parts are searched in the same way:

# %%
same = []
if is_there and "patches" in encoder.can and encoder.logit_scale:
    large, out = piece("large", NORTH, WEST, *LARGE), work / "large"
    facts = scenes.search(large, TEXTS, encoder, out, progress=False).facts
    seen_px = facts["tile_px"] + encoder.patch_size * facts["window"]
    edge = round(seen_px / facts["cell_px"])
    for grid, (down, right) in CORNERS.items():
        part = piece(grid, NORTH + down, WEST + right, *SMALL)
        scenes.search(part, TEXTS, encoder, work / grid, progress=False)
        inner, outer = compared(out, work / grid, edge)
        entry = {"corner on the grid of": grid, "cells": inner.size}
        entry |= {"away": inner.max(), "near": np.nanmax(outer)}
        same.append(entry)

# %% tags=["remove-input"]
if same:
    most = max(one["away"] for one in same)
    near = max(one["near"] for one in same)
    n = sum(one["cells"] for one in same)
    which = {"metric": "largest difference of confidences", "n": n}
    which |= {"protocol": "cut elsewhere", "value": float(most)}
    rows.append(common | none | which)
    equal = (
        f"the largest difference of confidences is {most:.1e}"
        if most
        else "the confidences are the same to the last digit"
    )
numbers.prose(
    f"Away from the edges {equal}, in {numbers.counted(len(same), 'part')} and "
    f"{n:,} places. Near them confidences differ by up to {near:.2f}, for "
    "there the model has other neighbours to look at. So if you cut a scene "
    "into pieces, let them overlap by two tiles."
    if same
    else ""
)

# %% tags=["remove-input"]
if is_there:
    command = "rsvlm run notebooks/18_find_it.ipynb"
    truth_hash, used = file_sha256(itaipu.FILE), str(resolve_device(device))
    origin = provenance(options, truth_hash, used, started, command)
    name = run_name or f"{profile}-seed{seed}"
    save_result("find-it", name, options, rows, origin)

# %% [markdown]
# On your own imagery: `rsvlm search index IMAGERY --out INDEX`, then `rsvlm search serve INDEX` opens a page in which you type, click, and say yes and
# no. `rsvlm search page INDEX --out SITE` writes a page that needs no server. {doc}`/book/search_compared` says what other tools do
# better.
#
# ## Exercise
#
# The user here never errs. Let every tenth answer be wrong, drawn by chance. How much of the gain of ten answers is left, and which of the three
# ways suffers most?
#
# ```{dropdown} Answer
# In `lessons`, hand on `np.where(rng.random(len(yes)) < 0.1, ~yes, yes)` in place of `yes`, with `rng = np.random.default_rng(word)`; `measured` goes on
# with the truth. Done so over ten halvings, with a draw of its own for each, the model of the stored run lost 45 % of its gain with
# proposals (27 to 62), 40 % with Rocchio (23 to 53) and 36 % with chips at random (22 to 48). So a wrong answer in ten costs a fifth of the gain at least, and
# which way suffers most cannot be told: the intervals overlap. With ten labels each one moves the line, and nothing outvotes a wrong
# one.
# ```
#
# ## Takeaways

# %% tags=["remove-input"]
numbers.points(
    *(
        [
            "Ten answers go "
            f"{numbers.interval(shares[10], 0, unit='%')} of the way from the "
            "text alone to all labels of a half.",
            "How one learns: relative to Rocchio, proposals score "
            f"{numbers.interval(gaps['Rocchio'], signed=True)} points. Which "
            "chips one is asked about: relative to chips at random they score "
            f"{numbers.interval(gaps['at random'], signed=True)}"
            + (
                ", so which is better cannot be told."
                if gaps["at random"]["ci_low"]
                <= 0
                <= gaps["at random"]["ci_high"]
                else "."
            ),
            f"*{gains.idxmax().capitalize()}* gains most, by "
            f"{gains.max():.1f} points; *{gains.idxmin()}* least, by "
            f"{gains.min():.1f}.",
            "The interval that the search gives for its own precision holds "
            f"the truth in {100 * inside.mean():.0f} % of the searches that "
            "give one.",
        ]
        if is_there
        else ["Nothing: the ground is not there."]
    )
)

# %% tags=["remove-input"]
if is_there:
    display(tables.provenance(origin))
