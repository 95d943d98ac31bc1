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
# **A sentence is a first guess at what you look for. Ten times yes or no are a better one: a search that learns from them is measured here
# on ground where the answers are known, against labelling at random and against the usual formula.**
#
# Cost: less than a minute, once the model of the chapter before is trained. `model` takes any other.

# %% tags=["parameters", "after:11_itaipu"]
profile = "laptop"
seed = 0
device = "auto"
recompute = False
run_name = ""
overrides = ""
model = ""

# %% tags=["hide-input"]
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import rasterio
from IPython.display import Markdown
from rasterio.windows import Window

# %% tags=["hide-input"]
from rsvlm import config
from rsvlm.book.figures import atlas, charts, galleries, tables
from rsvlm.data.demo import ground, itaipu, recipe
from rsvlm.errors import DataError
from rsvlm.evaluation import labels, statistics
from rsvlm.localization import heat
from rsvlm.model.device import resolve_device
from rsvlm.model.others import opening
from rsvlm.records.files import file_sha256
from rsvlm.records.provenance import provenance
from rsvlm.records.results import save_result
from rsvlm.search import confidence, index as archive, query, scene as scenes, simulated, teaching
from rsvlm.training import train

# %% tags=["hide-input"]
started = time.time()
options = config.load(profile, {"seed": seed, "device": device} | config.pairs(overrides))
work = Path(tempfile.mkdtemp())
try:
    scene = ground.itaipu()
except DataError as error:
    scene, reason = None, error
is_there = scene is not None

# %% tags=["hide-input"]
Markdown(
    "The ground is that of the chapter before: two scenes of Landsat 8 of 18 May 2020 around the dam of Itaipu, "
    f"{ground.ITAIPU_SOURCE['attribution']}, {ground.ITAIPU_SOURCE['license']}."
    if is_there
    else f"The package with the ground could not be had, so this chapter is empty: {reason}"
)

# %% [markdown]
# ## Why teach a search?
#
# Who has imagery and a question rarely has a model that was trained for it. The model knows some words, and nobody can say in advance which;
# and what is meant by *village* is in the head of the one who asks. Pointing is easier than defining: this is one, this is none. So the
# search shows chips, takes a yes or a no for each, and learns. The question of this chapter is what such an answer is worth.
#
# First the whole scene is cut into chips and embedded, once. `rsvlm search index picture.tif --out INDEX` does the same for any imagery.

# %%
if is_there:
    folder = model or str(train.load_or_train(*recipe.prepare(options)) / "model")
    encoder = opening.open_encoder(folder, device=device)
    cut = {"size_px": itaipu.SIDE_PX, "min_valid_share": 1.0, "cover_edges": False}
    facts = archive.index(scene / "picture.tif", encoder, work / "index", progress=False, **cut)
    index = archive.open_index(work / "index")
    side_km = itaipu.SIDE_PX * ground.PIXEL_M / 1000

# %% tags=["hide-input"]
Markdown(
    f"{facts['chips']:,} chips of {side_km:.1f} km a side; {sum(facts['skipped'].values()):,} more hold no data, or not everywhere, and are "
    "left out."
    if is_there
    else ""
)

# %% [markdown]
# ## Ask
#
# A text becomes a vector, and the chips whose vectors are nearest to it come first. Two texts, five answers each:

# %%
if is_there:
    matches = archive.query(index, ["a city", "a reservoir"], encoder, k=5)
    display(galleries.chip_matches(matches.to_dict("records"), archive.pictures(index, matches)))

# %% [markdown]
# Nothing in these answers says where they stop being right: each question has its five best chips, also the question that makes no sense.
# And some things are easier to show than to name. This is a click on the river below the dam, and what is most like that chip, which
# itself comes first:

# %%
CLICK = (-54.622, -25.455)
if is_there:
    like = query.join(index, query.parts(index, encoder, places=[CLICK]), "like this")
    matches = query.ask(index, [like], 6)
    display(galleries.chip_matches(matches.to_dict("records"), archive.pictures(index, matches)))

# %% [markdown]
# ## Ten times yes or no
#
# The south of the scene was never trained on, and there two looks at each chip say what it shows. They are our user, who is simulated and
# never in doubt: asked about a chip, the user says what both looks saw; chips on which they disagree are not shown to the user. To be
# fair, the south is halved by blocks of four by four chips: **in one half the user searches and labels; on the other half, of
# which nobody ever said a word, it is measured what was learnt.** Here are what is asked for, how, and how many chips of the south show it.

# %%
LEAST, FORM = 20, "An aerial picture of {}."
ASKED = {
    "water": "water", "river": "a river", "city": "a city", "village": "a village", "forest": "a forest", "fields": "fields",
    "bare ground": "bare ground", "dam": "a dam", "island": "an island",
}  # fmt: skip

# %%
if is_there:
    cells = [
        itaipu.name(int(top) // itaipu.SIDE_PX, int(left) // itaipu.SIDE_PX)
        for top, left in index.chips[["top_px", "left_px"]].to_numpy()
    ]
    looks = itaipu.labels().reindex(cells)
    south = np.flatnonzero((looks["split"] == "test").to_numpy())
    words = [label for label in itaipu.LABELS if (looks.iloc[south][label] == itaipu.YES).sum() >= LEAST]
    truth = looks.iloc[south][words].to_numpy(np.int8)

# %%
if is_there:
    vectors = np.asarray(index.vectors[south], np.float32)
    texts = heat.text_vectors(encoder, [FORM.format(ASKED[word]) for word in words])
    blocks = np.array([itaipu.block(cells[row]) for row in south])
    shown = pd.DataFrame({"text": [FORM.format(ASKED[word]) for word in words], "chips": (truth == itaipu.YES).sum(0)}, words)
    display(shown.rename_axis(index=f"of {len(south)} chips, show").style)

# %% [markdown]
# The search proposes five chips at a time, the user answers, the search learns and proposes the next. With fewer than five answers it
# learns by the formula of Rocchio, which moves the text's vector towards the mean of yes and away from the mean of no. From five on it is a linear
# classifier that begins with the text and gives a probability, and what it proposes is what it doubts.

# %%
COUNTS = [5, 10, 15, 20]


def half(number: int) -> np.ndarray:
    """Draw half of the blocks: which chips of the south are searched and labelled, (N,) bool."""
    names = np.unique(blocks)
    return np.isin(blocks, np.random.default_rng([seed, number]).permutation(names)[: len(names) // 2])


def lessons(word: int, searched: np.ndarray, **how: object) -> tuple[np.ndarray, list]:
    """Teach a word in some chips of the south: numbers of those that the user knows, and all lessons."""
    rows = np.flatnonzero(searched & (truth[:, word] != itaipu.UNKNOWN))
    about = teaching.space(vectors[rows], texts[word])
    return rows, list(simulated.lessons(vectors[rows], about, truth[rows, word] == itaipu.YES, COUNTS, **how))


# %% [markdown]
# The first five chips for *city* in the half that was never labelled, before and after ten answers in the other one; ✓ where both looks
# saw a city, ✗ where none did, ? where they disagree.

# %%
MARKS = {itaipu.YES: "✓", itaipu.NO: "✗", itaipu.UNKNOWN: "?"}


def strip(word: int, lesson: teaching.Lesson, other: np.ndarray) -> object:
    """Lay out the first five chips of the other half."""
    first = other[np.argsort(-teaching.products(vectors[other], lesson.weights), kind="stable")[:5]]
    images = archive.pictures(index, index.rows(south[first]))
    name = words[word]
    items = [
        {"image": image, "badge": MARKS[int(truth[row, word])], "alt": f"Answer to {name}: chip {cells[south[row]]}"}
        for row, image in zip(first, images)
    ]
    return galleries.gallery(items, thumbnail_px=112)


# %%
if is_there:
    for name in ("city", "river"):
        word, searched = words.index(name), half(0)
        _, taught = lessons(word, searched)
        given = {len(rows): lesson for rows, lesson in taught}
        for count, when in ((0, "by the text alone"), (10, "after ten answers")):
            display(Markdown(f"**{name}**, {when}"), strip(word, given[count], np.flatnonzero(~searched)))

# %% [markdown]
# ## What is an answer worth?
#
# The same for every word, with ten halvings, in three ways: the user is asked what the search proposes; the user is asked about chips at
# random; and the user is asked about the best chips so far, while Rocchio's formula alone learns. Above all of them lies the classifier
# that is given every label of its half.

# %%
HALVINGS = 10
WAYS = {"proposed": {}, "at random": {}, "Rocchio": {"method": "rocchio"}}


def measured(word: int, weights: np.ndarray, other: np.ndarray) -> float:
    """Average precision on the other half, in percent."""
    scores = teaching.products(vectors[other], weights)[:, None]
    return float(labels.average_precisions(scores, truth[other][:, [word]], np.ones((1, len(other)), int))[0, 0])


# %%
def believed(lesson: teaching.Lesson, rows: np.ndarray, labelled: np.ndarray, word: int) -> tuple | None:
    """What the search expects of its order of the searched half, and its true average precision, in percent; None if it expects nothing."""
    told = confidence.expectations(lesson, labelled, truth[rows[labelled], word] == itaipu.YES, [])
    once = np.ones((1, len(rows)), int)
    value = labels.average_precisions(lesson.scores[:, None], truth[rows][:, [word]], once)[0, 0]
    return (told["average_precision"], value) if told else None


# %%
records, beliefs = [], []
for number, word, way in ((n, w, way) for n in range(HALVINGS if is_there else 0) for w in range(len(words)) for way in WAYS):
    searched, known = half(number), truth[:, word] != itaipu.UNKNOWN
    order = np.random.default_rng([seed, number, word]).permutation((searched & known).sum())
    rows, taught = lessons(word, searched, at_random=order if way == "at random" else None, **WAYS[way])
    for labelled, lesson in taught:
        value = measured(word, lesson.weights, np.flatnonzero(~searched))
        records.append((way, number, words[word], len(labelled), value))
        if way == "proposed" and len(labelled) == 10:
            beliefs.append(believed(lesson, rows, labelled, word))
beliefs = [pair for pair in beliefs if pair]

# %%
for number, word in ((n, w) for n in range(HALVINGS if is_there else 0) for w in range(len(words))):
    rows = np.flatnonzero(half(number) & (truth[:, word] != itaipu.UNKNOWN))
    about = teaching.space(vectors[rows], texts[word])
    full = teaching.fit(about, vectors[rows], truth[rows, word] == itaipu.YES)
    value = measured(word, full.weights, np.flatnonzero(~half(number)))
    records.append(("all labels of the half", number, words[word], COUNTS[-1], value))

# %% [markdown]
# Precision is averaged over the words first; what varies between halvings then gives the interval: how much luck there is in which half was
# searched. It does not say how another scene would do.

# %%
if is_there:
    table = pd.DataFrame(records, columns=["way", "halving", "word", "labels", "value"])
    means = table.groupby(["way", "labels", "halving"])["value"].mean().unstack("halving")
    times = statistics.resamples(HALVINGS, 1000, seed)
    draws = {key: times @ values.to_numpy() / HALVINGS for key, values in means.iterrows()}
    spans = {key: statistics.interval(values) for key, values in draws.items()}
    curves = {way: pd.DataFrame([{"x": count} | spans[way, count] for count in (0, *COUNTS)]) for way in WAYS}

# %%
if is_there:
    best = spans["all labels of the half", COUNTS[-1]]
    curves["all labels of the half"] = pd.DataFrame([{"x": count} | best for count in (0, COUNTS[-1])])
    figure = charts.curves_with_bands(curves, "answers of the user", "mean average precision, percent", scale="linear")
    alt = "Average precision on chips that nobody labelled, against the number of answers, for three ways to choose and to learn."
    display(charts.picture(figure, alt))

# %% tags=["hide-input"]


def span(row):
    return f"{row['value']:.1f} ({row['ci_low']:.1f} to {row['ci_high']:.1f})"


# %% tags=["hide-input"]
rows = []
if is_there:
    text_alone = draws["proposed", 0]
    common = {"dataset": "itaipu-south-halves", "split": "test", "direction": "t2i", "n": len(south)}
    by_chance = float(labels.chance(truth).mean())
    rows.append(common | {"protocol": "text alone", "metric": "mAP", "chance": by_chance} | spans["proposed", 0])
    for way, count in ((way, count) for way in WAYS for count in COUNTS):
        rows.append(common | {"protocol": way, "metric": f"mAP[{count} labels]", "chance": by_chance} | spans[way, count])
    rows.append(common | {"protocol": "all labels of the half", "metric": "mAP", "chance": by_chance} | best)

# %% tags=["hide-input"]
if is_there:
    shares = {
        count: 100 * (draws["proposed", count] - text_alone) / (draws["all labels of the half", COUNTS[-1]] - text_alone)
        for count in (10, 20)
    }
    gaps = {way: statistics.gap(draws["proposed", 10], draws[way, 10], None) for way in ("at random", "Rocchio")}
    for way, gap in gaps.items():
        rows.append(common | {"protocol": f"proposed - {way}", "metric": "mAP[10 labels]", "chance": None} | gap)

# %% tags=["hide-input"]
Markdown(
    f"By the text alone the mean average precision is **{span(spans['proposed', 0])}**, where a random order has {by_chance:.1f}; after ten "
    f"answers it is **{span(spans['proposed', 10])}**, after twenty {span(spans['proposed', 20])}. All labels of a half give {span(best)}: ten "
    f"answers go {shares[10][0]:.0f} % of that way, twenty go {shares[20][0]:.0f} %. With ten answers, proposals are "
    f"{gaps['at random']['value']:+.1f} ({gaps['at random']['ci_low']:+.1f} to {gaps['at random']['ci_high']:+.1f}) against chips at random, and "
    f"{gaps['Rocchio']['value']:+.1f} ({gaps['Rocchio']['ci_low']:+.1f} to {gaps['Rocchio']['ci_high']:+.1f}) against Rocchio."
    if is_there
    else ""
)

# %% [markdown]
# ## Which words gain?
#
# A mean hides that words differ. Each row is a word, with the precision by its text, after ten answers, and with all labels of a half.

# %%
if is_there:
    kept = {
        "by the text": ("proposed", 0),
        "ten answers": ("proposed", 10),
        "ten at random": ("at random", 10),
        "all labels": ("all labels of the half", COUNTS[-1]),
    }
    by_word = table.groupby(["way", "labels", "word"])["value"].mean()
    per_word = pd.DataFrame({name: by_word[key] for name, key in kept.items()}).loc[words]
    display(per_word.rename_axis(index="average precision, percent").style.format(precision=1))

# %% [markdown]
# ## Does it know how good it is?
#
# Who searches has no truth to measure by. So after each answer the search says what average precision it expects of its order, with an interval. Here
# the truth of the searched half is known, and the two can be compared, after ten answers.

# %% tags=["hide-input"]
if is_there:
    inside = np.array([told["ci_low"] <= value / 100 <= told["ci_high"] for told, value in beliefs])
    off = np.array([100 * told["value"] - value for told, value in beliefs])
    plain = {"metric": "expected mAP in its interval", "value": 100 * float(inside.mean()), "n": len(inside)}
    rows.append(common | {"protocol": "proposed", "ci_low": None, "ci_high": None, "chance": None} | plain)

# %% tags=["hide-input"]
Markdown(
    f"In {inside.sum()} of {len(inside)} searches the true precision lies in the interval that was told, which is meant to hold 95 of 100. The "
    f"expectation is off by {np.abs(off).mean():.1f} points on average, and {'above' if off.mean() > 0 else 'below'} the truth by "
    f"{abs(off.mean()):.1f}."
    if is_there
    else ""
)

# %% [markdown]
# ## Where is it?
#
# Last, the whole south is searched with ten answers for three words, and what was learnt is laid over all of Itaipu, the north too. Colour
# is the probability of each chip, outlined from one half on; the slider shows the ground beneath.

# %%
SHOWN, ZOOM = ("city", "water", "river"), 12


def region(text: int, row: int, probability: float) -> dict:
    """Say of one chip what the map shows of it."""
    chip = index.chips.iloc[row]
    left, top = (ZOOM * (int(chip[side]) // itaipu.SIDE_PX) for side in ("left_px", "top_px"))
    ring = [[left, top], [left + ZOOM, top], [left + ZOOM, top + ZOOM], [left, top + ZOOM]]
    place = {"x": chip["left_px"], "y": chip["top_px"], "lon": chip["lon"], "lat": chip["lat"]}
    area = {"area_px": itaipu.SIDE_PX**2, "area_m2": (itaipu.SIDE_PX * ground.PIXEL_M) ** 2}
    return {"text": text, "confidence": probability, "peak": probability, "rings": [[ring]]} | place | area


# %%
if is_there:
    high, wide = (1 + int(index.chips[side].max()) // itaipu.SIDE_PX for side in ("top_px", "left_px"))
    with rasterio.open(scene / "picture.tif") as file:
        window = Window(0, 0, wide * itaipu.SIDE_PX, high * itaipu.SIDE_PX)
        picture = np.moveaxis(file.read(window=window, out_shape=(3, ZOOM * high, ZOOM * wide)), 0, 2)
    learnt, regions = np.full((len(SHOWN), high, wide), np.nan, np.float32), []
    at = tuple(index.chips[side].to_numpy().astype(int) // itaipu.SIDE_PX for side in ("top_px", "left_px"))
    for text, name in enumerate(SHOWN):
        given = {len(labelled): lesson for labelled, lesson in lessons(words.index(name), np.ones(len(south), bool))[1]}
        lesson = given[10]
        chances = lesson.classifier.probabilities(teaching.products(index.vectors, lesson.weights) + lesson.offset)
        learnt[text][at] = chances
        regions += [region(text, row, float(chances[row])) for row in np.flatnonzero(chances >= 0.5)]

# %%
if is_there:
    outlined = [sum(one["text"] == text for one in regions) for text in range(len(SHOWN))]
    said = [
        {"text": name, "regions": count, "highest_confidence": float(np.nanmax(layer))}
        for name, count, layer in zip(SHOWN, outlined, learnt)
    ]
    about = {
        "scene": "Itaipu",
        "threshold": 0.5,
        "coordinates": ground.CRS,
        "attribution": ground.ITAIPU_SOURCE["attribution"],
        "texts": said,
    }
    regions.sort(key=lambda one: -one["confidence"])
    display(atlas.scene_map(scenes.SearchResult(about, regions, picture, learnt)))

# %% tags=["hide-input"]
Markdown(
    "Probable in one half of the cases or more: "
    + ", ".join(f"*{one['text']}* in {one['regions']} chips" for one in said)
    + "."
    if is_there
    else ""
)

# %% [markdown]
# ## Same ground, same answer
#
# Chips are a grid, and a search in a scene ([](15_scene)) makes its own tiles. Either could make an answer depend on where somebody happened to
# cut the file. Tiles and patches therefore lie on a grid that belongs to the ground, not to the file. Here a piece of Itaipu is searched,
# then parts of it that were cut out at three corners: on the grid of tiles, on that of patches, and on none. Confidences at the same
# places are compared: beyond what the model sees at once, one tile and a window from the edges of the part, and nearer to them.

# %%
LARGE, SMALL, CORNERS = (1024, 1024), 512, {"tiles": (256, 320), "patches": (264, 344), "neither": (277, 331)}


def piece(name: str, row: int, column: int, height: int, width: int) -> Path:
    """Cut a piece out of Itaipu, as a file of its own on the same grid of pixels."""
    with rasterio.open(scene / "picture.tif") as file:
        window = Window(column, row, width, height)
        profile_of = file.profile | {"height": height, "width": width, "transform": file.window_transform(window)}
        with rasterio.open(work / f"{name}.tif", "w", **profile_of) as out:
            out.write(file.read(window=window))
    return work / f"{name}.tif"


# %%
def compared(one: Path, other: Path, edge: int) -> tuple[np.ndarray, np.ndarray]:
    """Differences of two maps of confidence at the same places: beyond so many cells from the edges of the second, and nearer."""
    with rasterio.open(one / "heat.tif") as first, rasterio.open(other / "heat.tif") as second:
        row, column = first.index(*second.xy(0, 0))
        there = second.read()
        away = np.abs(first.read(window=Window(column, row, second.width, second.height)) - there)
    inner = np.zeros(there.shape[1:], bool)
    inner[edge:-edge, edge:-edge] = True
    return away[:, inner], away[:, ~inner]


# %%
TEXTS, NORTH, WEST = ["a city", "a forest"], 1100, 700
can = is_there and "patches" in encoder.can and encoder.logit_scale
if can:
    found = scenes.search(piece("large", NORTH, WEST, *LARGE), TEXTS, encoder, work / "large", progress=False)
    edge = round((found.facts["tile_px"] + encoder.patch_size * found.facts["window"]) / found.facts["cell_px"])

# %%
same = []
for grid, (down, right) in CORNERS.items() if can else ():
    part = piece(grid, NORTH + down, WEST + right, SMALL, SMALL)
    scenes.search(part, TEXTS, encoder, work / grid, progress=False)
    inner, outer = compared(work / "large", work / grid, edge)
    differences = {"largest difference": inner.max(), "nearer to the edges": np.nanmax(outer)}
    same.append({"corner on the grid of": grid, "cells compared": inner.size} | differences)

# %%
if same:
    display(
        pd.DataFrame(same).style.hide(axis="index").format({"largest difference": "{:.1e}", "nearer to the edges": "{:.2f}"})
    )

# %% tags=["hide-input"]
if same:
    most = max(one["largest difference"] for one in same)
    plain = {
        "metric": "largest difference of confidences",
        "value": float(most),
        "n": sum(one["cells compared"] for one in same),
    }
    rows.append(common | {"protocol": "cut elsewhere", "ci_low": None, "ci_high": None, "chance": None} | plain)

# %% tags=["hide-input"]
Markdown(
    f"Beyond a tile and a window from the edges, {'the confidences are the same to the last digit' if not most else f'the largest difference of confidences is {most:.1e}'}; "
    f"nearer to them they differ by up to {max(one['nearer to the edges'] for one in same):.2f}, for there the model has other neighbours to look at. So of scenes "
    "that are searched in pieces, let the pieces overlap by two tiles."
    if same
    else ""
)

# %% [markdown]
# ## What we found

# %% tags=["hide-input"]
Markdown(
    f"- Ten answers raise the mean average precision on chips that nobody labelled from {spans['proposed', 0]['value']:.1f} to "
    f"{spans['proposed', 10]['value']:.1f}, {shares[10][0]:.0f} % of the way to all labels of a half.\n"
    f"- Which chips one is asked about: {gaps['at random']['value']:+.1f} points against chips at random. How one learns: "
    f"{gaps['Rocchio']['value']:+.1f} points against Rocchio.\n"
    f"- The word that gains most is *{(per_word['ten answers'] - per_word['by the text']).idxmax()}*, the least "
    f"*{(per_word['ten answers'] - per_word['by the text']).idxmin()}*.\n"
    f"- The interval that the search tells of itself holds the truth in {100 * inside.mean():.0f} of 100 cases."
    if is_there
    else "Nothing: the ground is not there."
)

# %% [markdown]
# On your own imagery: `rsvlm search index IMAGERY --out INDEX`, then `rsvlm search serve INDEX` opens a page in which you type, click, and say yes and
# no; `rsvlm search page INDEX --out SITE` writes a page that needs no server of ours. {doc}`/book/search_compared` says what other tools
# do better.
#
# ### An exercise
#
# The user here is never in doubt. Let every tenth answer be wrong, drawn by chance, and see what is left of the gain after ten answers; which of the three ways
# suffers most, and why?
#
# ```{admonition} Answer
# :class: dropdown
#
# In `lessons`, turn the truth of a tenth of the rows over before it is handed on: `np.where(rng.random(len(rows)) < 0.1, ~known, known)`;
# `measured` must go on with the truth as it is. With a small model of this book, what is proposed lost most, about two fifths of its gain,
# chips at random lost less, and Rocchio's formula least. What is proposed is chosen so that its answer counts much, also when it is wrong. Rocchio
# moves the text's vector a little whatever is said, so it has little to lose, as it had little to gain. Proposals stayed ahead
# of the others all the same. One draw says little: measure it over the ten halvings, as above, with your model.
# ```

# %% tags=["hide-input"]
if is_there:
    origin = provenance(
        options, file_sha256(itaipu.FILE), str(resolve_device(device)), started, "rsvlm run notebooks/18_find_it.ipynb"
    )
    save_result("find-it", run_name or f"{profile}-seed{seed}", options, rows, origin)
    display(tables.provenance(origin))
