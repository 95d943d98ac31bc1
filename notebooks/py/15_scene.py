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
# # Find it in my scene
#
# **A sentence becomes outlines on a scene of any size, with a confidence for each. Two scenes show how far to trust them: outlines are held against
# the truth, and against rules of thumb that need no model.**
#
# Time: eight minutes to read; under a minute to run, once the model of [](02_training) is trained. `scene`, `texts` (separated by `;`) and
# `model` take your own.
#
# A retrieval returns whole {term}`chips <chip>`. But whoever has a scene asks where in it something is, and wants shapes for a GIS. There is
# a trap: a search always has a best place, even for what is not there. So each place gets a confidence, and below one half nothing is
# outlined. What is that confidence worth?

# %% mystnb={"code_prompt_show": "Code: parameters of this page"} tags=["parameters", "after:02_training", "hide-input"]
profile = "laptop"
seed = 0
device = "auto"
recompute = False
run_name = ""
overrides = ""
scene = ""
texts = "buildings and streets; bare ground; water; xyzzy plugh"
model = ""

# %% mystnb={"code_prompt_show": "Code: imports"} tags=["hide-input"]
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import rasterio
import rsvlm
from rasterio.transform import from_origin
from rasterio.windows import Window
from rsvlm import config
from rsvlm.book.figures import atlas, galleries, numbers, scale, tables
from rsvlm.data import benchmarks
from rsvlm.data.demo import (
    earth,
    earth_kernels,
    earth_layout,
    earth_map,
    ground,
    itaipu,
    recipe,
)
from rsvlm.errors import DataError
from rsvlm.evaluation import statistics
from rsvlm.model.device import resolve_device
from rsvlm.records.provenance import provenance
from rsvlm.search import index as archive, scene as scenes
from rsvlm.training import train

# %% mystnb={"code_prompt_show": "Code: model and texts"} tags=["hide-input"]
started = time.time()
given = {"seed": seed, "device": device}
options = config.load(profile, given | config.pairs(overrides))
data = earth.load_or_build(options)
folder = Path(model or train.load_or_train(*recipe.prepare(options)) / "model")
loaded = rsvlm.load(folder, device)
asked = [text.strip() for text in texts.split(";") if text.strip()]
work = Path(tempfile.mkdtemp())

# %% [markdown]
# ## Two scenes
#
# Without one of yours, the first scene is the ground around the dam of Itaipu, from the half that no training touched: Landsat 8, one pixel
# is 30 m. The second is the Mediterranean from the Blue Marble, one pixel some 7 km. Both are written as GeoTIFF, for that is what a search reads.

# %% mystnb={"code_prompt_show": "Code: two scenes"} tags=["hide-input"]
TOP, LEFT, HIGH, WIDE = 22, 18, 12, 13  # cells of the labels of Itaipu
SIDE = itaipu.SIDE_PX
imagery = earth_layout.load_imagery()
per_degree = imagery.shape[1] / 360
rows, columns = (
    slice(*(round(end * per_degree) for end in span))
    for span in ((42, 62), (180, 220))
)


def write(path, pixels, **place):
    high, wide = pixels.shape[:2]
    form = {"driver": "GTiff", "count": 3, "dtype": "uint8"}
    form |= {"height": high, "width": wide}
    with rasterio.open(path, "w", **form, **place) as file:
        file.write(np.moveaxis(pixels, 2, 0))
    return path


earth_pixels = imagery[rows, columns]
place = from_origin(0, 48, 1 / per_degree, 1 / per_degree)
mediterranean = write(
    work / "earth.tif", earth_pixels, crs="EPSG:4326", transform=place
)

# %% mystnb={"code_prompt_show": "Code: the scene that is searched"} tags=["hide-input"]
is_itaipu, reason = not scene, ""
try:
    whole = ground.itaipu() if is_itaipu else None
except DataError as error:
    is_itaipu, reason = False, f"Itaipu could not be had: {error}"
if is_itaipu:
    window = Window(LEFT * SIDE, TOP * SIDE, WIDE * SIDE, HIGH * SIDE)
    with rasterio.open(whole / "picture.tif") as file:
        pixels = np.moveaxis(file.read(window=window), 0, 2)
        place = {"crs": file.crs, "transform": file.window_transform(window)}
    scene = write(work / "scene.tif", pixels, **place)
scene = scene or mediterranean

# %% tags=["remove-input"]
numbers.prose(
    f"Itaipu: {ground.ITAIPU_SOURCE['attribution']}, "
    f"{ground.ITAIPU_SOURCE['license']}."
    if is_itaipu
    else f"{reason} The scene that is searched is `{Path(scene).name}`.".strip()
)

# %% [markdown]
# ## What is where?
#
# The texts were picked by trying some on this scene, so they flatter the search. The last one is no language, and belongs nowhere.
# *Surest* is the highest confidence, and shares are of the scene. `rsvlm search SCENE --text "buildings and streets" --out DIR` does the same as this:

# %%
found = scenes.search(scene, asked, loaded, work / "found", progress=False)

# %% mystnb={"code_prompt_show": "Code: table of texts"} tags=["hide-input"]
SHOWN = {
    "text": "text",
    "regions": "regions",
    "highest_confidence": "surest",
    "outlined": "share, %",
}


def told_of(answer):
    rows = pd.DataFrame(answer.facts["texts"])
    areas = [
        max((r["area_px"] for r in answer.regions if r["text"] == n), default=0)
        for n in range(len(rows))
    ]
    area = 1e6 * answer.facts["megapixels"]
    rows["largest"] = 100 * np.array(areas) / area
    return rows.assign(outlined=100 * rows["share_of_area"])


rows = told_of(found)
confidence = {SHOWN["highest_confidence"]: 2}
numbers.table(
    rows[list(SHOWN)].rename(columns=SHOWN),
    digits=dict.fromkeys(SHOWN.values(), 1) | confidence,
)

# %% tags=["remove-input"]
BLOB = 5, 0.8  # least outlined, in percent, and least share of one region


def blobs(rows):
    most = rows["largest"] > BLOB[1] * rows["outlined"]
    return list(rows["text"][most & (rows["outlined"] > BLOB[0])])


def quoted(several):
    return ", ".join(f"“{text}”" for text in several)


hit, empty = rows[rows["regions"] > 0], rows[rows["regions"] == 0]
numbers.prose(
    f"At a confidence of {found.facts['threshold']} or more, {len(hit)} of "
    f"{len(rows)} texts are found somewhere in the scene"
    + (f"; {quoted(empty['text'])} nowhere." if len(empty) else "."),
    f"What is outlined for {quoted(blobs(rows))} is nearly all one blob: it "
    "says “hereabouts”, and tells nothing apart within."
    if blobs(rows)
    else "",
    "Confidence is how much of its belief the model gives to the text. The "
    "rest goes to texts that are true of much ground, such as “a dense "
    "forest”, and to nonsense.",
)

# %% [markdown]
# ## On the map
#
# Colours show the confidence over the scene; the slider sets their opacity. Regions are outlined, and say more when pointed at.

# %% mystnb={"code_prompt_show": "Code: map of the scene"} tags=["hide-input"]
atlas.scene_map(found)

# %% tags=["remove-input"]
best = found.regions[0] if found.regions else None
numbers.prose(
    f"The surest region is “{found.facts['texts'][best['text']]['text']}”, "
    f"confidence {best['confidence']:.2f} on average over "
    f"{best['area_px']:,.0f} pixels."
    if best
    else "No region is outlined: no text reaches the threshold anywhere."
)

# %% [markdown]
# ## Are the towns right?
#
# For Itaipu the ground truth is the labels of [](11_itaipu): whether a chip shows a city or a village. How much of what is
# outlined as *buildings and streets* lies in such chips? The {term}`baseline` needs no model. It outlines as much ground, where grey values vary
# most within half a kilometre, for towns are grainy. {term}`Chance <chance>` is the share of such chips.

# %% mystnb={"code_prompt_show": "Code: outlines held against labels"} tags=["hide-input"]
BUILT, CELL_PX = "buildings and streets", 16
is_checked = is_itaipu and BUILT in asked


def on_grid_of(path, band, other):
    with rasterio.open(other) as file:
        bounds, shape = file.bounds, file.shape
    with rasterio.open(path) as file:
        window = file.window(*bounds)
        return file.read(band, window=window, out_shape=shape)


def of_chips(mask, side):
    parts = mask.reshape(HIGH, mask.shape[0] // HIGH, WIDE, -1)
    return parts.mean(axis=(1, 3)).ravel()


if is_checked:
    heat = work / "found" / "heat.tif"
    confidence = on_grid_of(heat, asked.index(BUILT) + 1, scene)
    outlined = confidence >= found.facts["threshold"]
    small = pixels.mean(2).reshape(HIGH * 4, CELL_PX, WIDE * 4, CELL_PX)
    grain = small.std(axis=(1, 3))
    most = np.argsort(-grain, axis=None)[: round(outlined.mean() * grain.size)]
    grainy = np.isin(np.arange(grain.size), most).reshape(grain.shape)
    where = np.ndindex(HIGH, WIDE)
    names = [itaipu.name(TOP + row, LEFT + col) for row, col in where]
    labels = itaipu.labels().reindex(names)[["city", "village"]]
    known = labels.notna().all(axis=1) & (labels != itaipu.UNKNOWN).all(axis=1)
    known |= (labels == itaipu.YES).any(axis=1)
    built = (labels == itaipu.YES).any(axis=1).to_numpy()
    wet = itaipu.labels().reindex(names)["water"] == itaipu.YES

# %% mystnb={"code_prompt_show": "Code: table of what is outlined"} tags=["hide-input"]
OURS, PLAIN, ANY = "the search", "as much, where it is grainy", "chance"
if is_checked:
    blocks = [itaipu.block(name) for name in known.index[known]]
    draws = options.evaluate.bootstrap_samples
    times = statistics.resamples(len(blocks), draws, seed, blocks)
    ways = {OURS: outlined, PLAIN: grainy, ANY: np.ones_like(outlined)}
    inside = {}
    for name, mask in ways.items():
        areas, truth = of_chips(mask, SIDE)[known], built[known]
        with np.errstate(invalid="ignore"):
            inside[name] = 100 * (times @ (areas * truth)) / (times @ areas)
    spans = {name: statistics.interval(part) for name, part in inside.items()}
    gap = statistics.gap(inside[OURS], inside[PLAIN], None)
    table = pd.DataFrame(
        {
            "outlined": list(spans),
            "in chips with a city or a village, %": [
                numbers.interval(span) for span in spans.values()
            ],
        }
    )
    display(numbers.table(table))

# %% tags=["remove-input"]
by_outlines = (
    f"{numbers.interval(spans[OURS], unit='%')} of what is outlined as "
    f"“{BUILT}” lies in chips with a city or a village"
    if is_checked and outlined.any()
    else ""
)
if by_outlines:
    beyond = (
        "so here the model sees more than grain."
        if gap["ci_low"] > 0
        else "so this does not show that the model sees more than grain."
    )
    share = 100 * of_chips(outlined, SIDE)[known & built].mean()
    missed = [
        f"“Water” is outlined on {part:.1f} % of the scene, though "
        f"{100 * wet.mean():.0f} % of its chips show some."
        for part in rows.loc[rows["text"] == "water", "outlined"]
    ]
    said = (
        f"{by_outlines}; chance is {spans[ANY]['value']:.1f} %.",
        "The difference to the baseline is "
        f"{numbers.interval(gap, signed=True)} points, {beyond}",
        "A label is of a whole chip. So such a share does not say that each "
        "outline lies on houses, nor that all houses are outlined: "
        f"{share:.0f} % of the ground of those chips is.",
        *missed,
        f"Intervals are over {len(set(blocks))} blocks of "
        f"four by four chips; n = {known.sum()} chips.",
    )
numbers.prose(*said) if by_outlines else numbers.prose(
    "There is nothing to check: nothing is outlined as buildings, or the "
    "scene is another."
)

# %% [markdown]
# ## Is the sea right?
#
# On the Mediterranean one can ask for the *sea*, for which coastlines are the truth. Beside the search stand three trivial answers: as much
# ground at random, everything, and each pixel that is bluer than it is red.

# %% mystnb={"code_prompt_show": "Code: sea against the coastlines"} tags=["hide-input"]
sea = scenes.search(
    mediterranean, ["sea"], loaded, work / "sea", progress=False
)
blue = on_grid_of(work / "sea" / "heat.tif", 1, mediterranean)
corners = np.array([[0, 28, 40, 48]])
classes = earth_kernels.sample_classes(earth_map.load_mask(), corners, 600)[0]
truth = classes[1::2] == earth_map.SEA
outlined_as_sea = blue >= sea.facts["threshold"]
bluer = earth_pixels[..., 2] > earth_pixels[..., 0]
drawn = np.random.default_rng(seed).permutation(outlined_as_sea.ravel())
answers = {
    "the search": outlined_as_sea,
    "as much, at random": drawn.reshape(truth.shape),
    "everything": np.ones_like(truth),
    "bluer than red": bluer,
}
scores = pd.DataFrame(
    {
        "share, %": 100 * mask.mean(),
        "of it sea, %": 100 * truth[mask].mean() if mask.any() else np.nan,
        "IoU, %": 100 * (mask & truth).sum() / (mask | truth).sum(),
    }
    for mask in answers.values()
).set_index(pd.Index(answers, name="answer"))
numbers.table(scores.reset_index())

# %% mystnb={"code_prompt_show": "Code: pictures of both answers"} tags=["hide-input"]
galleries.gallery(
    [
        {
            "image": galleries.mask_image(earth_pixels, answers[name], truth),
            "alt": f"The Mediterranean in grey, painted by “{name}”: "
            + (
                f"{scores.loc[name, 'of it sea, %']:.0f} % of it is sea"
                if answers[name].any()
                else "nothing"
            ),
            "caption": name,
        }
        for name in ("the search", "bluer than red")
    ],
    thumbnail_px=330,
    whole=True,
)

# %% [markdown]
# Blue is what is rightly taken for sea, orange is land that is taken for sea, purple is sea that is missed.

# %% tags=["remove-input"]
iou, of_it = scores["IoU, %"], scores["of it sea, %"]
mine, others = iou["the search"], iou.drop("the search")
by_sea = (
    f"{of_it['the search']:.0f} % of what is outlined as sea is sea, where "
    f"{of_it['everything']:.0f} % of the scene is"
    if outlined_as_sea.any()
    else "no pixel is outlined as sea"
)
numbers.prose(
    f"{by_sea[0].upper()}{by_sea[1:]}; its IoU is {mine:.1f} %, that of "
    f"“{others.idxmax()}” {others.max():.1f} %.",
    "What is outlined is one blob, over land and water alike."
    if blobs(told_of(sea))
    else "",
    "A likely reason: a tile here is as wide as a country, and the captions "
    "that the model learned from name seas anywhere in one."
    if outlined_as_sea.any() and mine < others.max()
    else "",
    "Before you trust a search, ask it for something whose place you know."
    if mine < others.max()
    else "",
)

# %% [markdown]
# ## Does the way it is cut up show?
#
# The model sees the scene tile by tile. Tiles may overlap, at the price of more work. Do the confidences change?

# %% tags=["remove-input"]
moved = {}
for overlap in (0.0, 0.25, 0.5):
    chosen = scenes.SearchOptions(overlap=overlap)
    again = mediterranean, ["sea"], loaded, work / "again", chosen
    scenes.search(*again, progress=False)
    with rasterio.open(work / "again" / "heat.tif") as file:
        moved[overlap] = file.read(1)
change = {at: np.abs(moved[at] - moved[0.5]).mean() for at in (0.0, 0.25)}
numbers.prose(
    "Against tiles that overlap by half, confidences of the sea differ by "
    f"{change[0.0]:.2f} on average where tiles do not overlap, as usual, and "
    f"by {change[0.25]:.2f} where they overlap by a quarter."
)

# %% [markdown]
# ## Chips instead of outlines
#
# For a whole archive one embeds its chips once, with `rsvlm search index FOLDER --out INDEX`; `rsvlm search query INDEX "text"` then answers in
# milliseconds. Here are the best chips of the first scene, each with its place and, at Itaipu, with the labels that it has there:

# %%
index = work / "index"
archive.index(scene, loaded, index, progress=False)
chips = archive.query(index, asked[:2], loaded, k=4)

# %% mystnb={"code_prompt_show": "Code: best chips"} tags=["hide-input"]
SEEN = itaipu.labels() if is_itaipu else None
pictures = archive.pictures(index, chips)


def seen_in(row):
    if SEEN is None:
        return ""
    left, top = (int(part) // SIDE for part in row["key"].split("_")[-2:])
    name = itaipu.name(TOP + top, LEFT + left)
    held = SEEN.loc[name, list(itaipu.LABELS)] if name in SEEN.index else ()
    return ", ".join(n for n in itaipu.LABELS if len(held) and held[n] == 1)


for text, part in chips.groupby("text", sort=False):
    items = []
    for row, at in zip(part.to_dict("records"), part.index):
        labels_of = seen_in(row)
        record = row | {"captions": [labels_of]}
        items.append(
            {
                "image": pictures[at],
                "badge": row["rank"],
                "alt": scale.described(record),
                "caption": f"{scale.place(row)}: {labels_of}".strip(": "),
                "ground": row,
            }
        )
    display(numbers.prose(f"**{text}**"), galleries.gallery(items, 150))

# %% [markdown]
# ## Exercise
#
# Let the sea be a share $s$ of a scene, and let somebody outline a share $q$ at random. What IoU is that on average, and what IoU does it give to outline
# everything? Which of the two should a search be held against?
#
# ```{dropdown} Answer
# Of the scene $qs$ is outlined and sea, and $q + s - qs$ is one or the other, so the IoU is about $qs / (q + s - qs)$: put the first row's share and
# the share of sea into it, and out comes the second row of the table above. It grows with $q$; everything has the largest IoU that can be had without
# looking, $s$. A search must beat both, and also what is cheap: here a single comparison of two colours.
# ```
#
# ## Takeaways

# %% tags=["remove-input"]
numbers.points(
    f"At 30 m a pixel, {by_outlines}; chance is {spans[ANY]['value']:.1f} %, "
    f"and grain alone has {spans[PLAIN]['value']:.1f} %."
    if by_outlines
    else "",
    f"At 7 km a pixel, {by_sea}; “{others.idxmax()}” has an IoU of "
    f"{others.max():.1f} %, the search {mine:.1f} %.",
    f"Of {len(rows)} texts {len(empty)} found nothing, and a low confidence "
    "says so. But a high one is no proof that something is there, nor a low "
    "one that it is not.",
    f"{found.facts['megapixels']:.2f} megapixels took "
    f"{found.facts['seconds']:.1f} s, files included.",
)

# %% tags=["remove-input"]
device_name = str(resolve_device(device))
command = "rsvlm run notebooks/15_scene.ipynb"
origin = provenance(
    options, benchmarks.fingerprint(data), device_name, started, command
)
tables.provenance(origin)
