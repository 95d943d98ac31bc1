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
# # Where is it?
#
# **A model that has read nothing but captions maps the sea patch by patch. The Smooth-Attention-Operation loses more on the coasts of its
# maps than it mends away from them.**
#
# Time: twenty minutes to read; a minute or two to run on two CPU cores: one small model on captions, then maps. `data` and `model` take
# a folder of pictures with masks (COCO) and a model of yours.
#
# A caption says that there is sea in a picture, not where. Masks, which say where, are drawn by people and cost minutes each. But a model
# cuts its picture into patches before it compares it with a text. So it may be asked patch by patch, and give a map that nobody
# taught it. How good is such a map, and does it become better if each patch listens to its neighbours? The paper that this book
# follows names an operation for that. Here it is measured, on chips whose coasts are known.

# %% mystnb={"code_prompt_show": "Code: parameters of this page"} tags=["parameters", "after:02_training", "hide-input"]
profile = "laptop"
seed = 0
device = "auto"
recompute = False
run_name = ""
overrides = ""
data = ""
model = ""

# %% mystnb={"code_prompt_show": "Code: imports"} tags=["hide-input"]
import itertools
import os
import time
from pathlib import Path

import numpy as np
import pandas as pd
import rsvlm
import torch
import torch.nn.functional as F
from rsvlm import config
from rsvlm.book.figures import (
    attention,
    charts,
    galleries,
    numbers,
    scale,
    tables,
)
from rsvlm.book.figures.style import PALETTE
from rsvlm.data import benchmarks
from rsvlm.data.demo import earth, earth_masks, ground_cover, recipe
from rsvlm.evaluation import shared_ground
from rsvlm.localization import (
    baselines,
    heat,
    rounds,
    scoring,
    smoothing,
    true_masks,
)
from rsvlm.model import images, tokenizer
from rsvlm.model.device import resolve_device
from rsvlm.records import provenance, results, stages
from rsvlm.training import train

# %% mystnb={"code_prompt_show": "Code: options and chips"} tags=["hide-input"]
started = time.time()
given = {"seed": seed, "device": device}
options = config.load(profile, given | config.pairs(overrides))
chips = earth.load_or_build(options)
target = str(resolve_device(device))
few = options.train.steps < 100

# %% [markdown]
# ## What does the operation do?
#
# Attention pooling makes one vector of a picture: each {term}`patch` $i$ has a value $v_i$ and a score $s_i$, and counts with the weight
# $a_i = e^{s_i}$. The {term}`Smooth-Attention-Operation` does the same in a window $N(p)$ around every place $p$:
#
# $$z_p = \frac{\sum_{i \in N(p)} a_i v_i}{\sum_{i \in N(p)} a_i}$$
#
# A window of one place is the value itself. A window over everything is the pooling of the whole picture, at every place. The paper names
# the operation and prints no formula {cite:p}`barzilai2025recipe`; this one is ours.
#
# Here is a toy grid: a coast from corner to corner, values that know the side of the coast but are noisy, and scores that are higher where a
# value can be trusted.

# %%
rng, side = np.random.default_rng(seed), 15
sums = np.add.outer(np.arange(side), np.arange(side))
truth = np.where(sums < side, 1.0, -1.0).astype(np.float32)
noise = rng.choice([0.5, 2.0], truth.shape)
values = truth + noise * rng.standard_normal(truth.shape)
values = values.astype(np.float32)
scores = np.where(noise < 1, 1.0, -1.0).astype(np.float32)

# %% mystnb={"code_prompt_show": "Code: pictures of the toy grid"} tags=["hide-input"]
toy = {
    "truth": (truth, "Two halves, split from lower left to upper right"),
    "values": (values, "The same halves, speckled with noise"),
    "scores": (scores, "High and low scores, scattered at random"),
}
galleries.gallery(
    [
        {
            "image": galleries.heat_image(grid, -2, 2),
            "alt": alt,
            "caption": name,
        }
        for name, (grid, alt) in toy.items()
    ],
    110,
)

# %% [markdown]
# Windows of several sizes pool that grid. The line is where the pooled value changes its sign: the coast as a window sees it.

# %%
steps = [1, 3, 5, 7, 9, 2 * side - 1]
pooled = {w: smoothing.smooth_pool(scores, values, w) for w in steps}
right = {
    w: 100 * float((np.sign(z) == truth).mean()) for w, z in pooled.items()
}

# %% mystnb={"code_prompt_show": "Code: windows over the toy grid"} tags=["hide-input"]
attention.explore(
    [
        {
            "image": galleries.heat_image(truth, -2, 2),
            "alt": "Toy grid with a coast from the lower left corner to the "
            "upper right",
        }
    ],
    [np.stack([*pooled.values()])[None]],
    views=[f"window {w}" if w < steps[-1] else "all cells" for w in steps],
    kinds=("", "window, in cells"),
    notes=[
        [
            [
                f"{share:.0f} % of the cells are on the right side."
                for share in right.values()
            ]
        ]
    ],
    limits=(-2, 2),
)

# %% tags=["remove-input"]
best = max(right, key=right.get)
flat = smoothing.smooth_pool(0 * scores, values, best)
alike = 100 * float((np.sign(flat) == truth).mean())
numbers.prose(
    f"Of single values {right[1]:.0f} % are on the right side. Windows of "
    f"{best} have {right[best]:.0f} % there ({alike:.0f} % if all weights are "
    f"even), the whole grid {right[steps[-1]]:.0f} %. Windows take noise away "
    "until they reach across the coast. On which side of that best window is "
    "a real model?"
)

# %% [markdown]
# ## A model with small patches
#
# In the tower of {doc}`02_training` every patch sees most of the chip, so that it knows the chip better than itself. So a small convolutional
# tower reads the same captions here. It has two stages and eight by eight patches, each of which sees some forty pixels around its own
# eight; one learned query pools them. No mask is read in training.
#
# Sea and land are asked for with several sentences in the words of the captions, chosen on validation chips. The sentence that fits a
# patch best speaks for its class there.

# %% mystnb={"code_prompt_show": "Code: model and test chips with masks"} tags=["hide-input"]
begun = rounds.load_or_begin(options, chips, ground_cover.SIZES, recompute)
net = rsvlm.load(begun, device=target).eval()
most = 24 if few else 150
items = [
    true_masks.Item(*parts)
    for parts in earth_masks.read(chips, "test", limit=most)
]
pixels = [images.decode(item.image) for item in items]
records = {
    sample.key: sample.record for sample in benchmarks.samples(chips, "test")
}
blocks = shared_ground.blocks([records[item.key] for item in items])

# %% [markdown]
# *Similarity* is the cosine of each patch's own vector and the sentences (`raw`); *part of the score* is what each patch adds to the score
# of the whole chip (`attention`).

# %%
covers = list(ground_cover.SEA_AND_LAND)
vectors = [
    heat.text_vectors(net, texts)
    for texts in ground_cover.SEA_AND_LAND.values()
]
asked = {"similarity": "raw", "part of the score": "attention"}


def patch_maps(image):
    maps = [
        heat.maps(net, image, vectors, method=method, size="patches")
        for method in asked.values()
    ]
    return np.stack(maps, axis=1)


# %% mystnb={"code_prompt_show": "Code: maps of sea and land on three chips"} tags=["hide-input"]
nothing = np.zeros((64, 64), bool)
truths = np.stack(
    [[item.masks.get(name, nothing) for name in covers] for item in items]
)
halves = np.abs(truths[:, 0].mean(axis=(1, 2)) - 0.5)
shown = np.argsort(halves, kind="stable")[:3]  # coasts through the middle
three = [
    {
        "image": pixels[i],
        "name": f"chip {number}",
        "ground": records[items[i].key],
        "alt": scale.described(records[items[i].key]),
    }
    for number, i in enumerate(shown, 1)
]
attention.explore(
    three,
    [patch_maps(pixels[i]) for i in shown],
    texts=covers,
    views=list(asked),
    kinds=("what is asked for", "map"),
)

# %% tags=["remove-input"]
numbers.prose(
    f"These are three of {len(items)} test chips: those where sea and land "
    "are most nearly equal."
)

# %% [markdown]
# ## Where do the decoder and the pooling look?
#
# The decoder looks at the patches while it writes; the pooling weighs them. Both are attention, in several heads. The small model was not taught to write, so the decoder here is that of {doc}`02_training`. It reads “Dark blue sea.” for each of
# the three chips:

# %% mystnb={"code_prompt_show": "Code: model of the training page"} tags=["hide-input"]
run = train.load_or_train(*recipe.prepare(options))
torch.set_grad_enabled(False)  # nothing is trained below
writer = rsvlm.load(run / "model", device=target).eval()

# %% [markdown]
# Its cross-attention, token by token, as an array of chips, tokens, layers that look at patches, heads, rows and columns:

# %%
batch = heat.to_batch(writer, [pixels[i] for i in shown], 64, 64)
sentence = "Dark blue sea."
read = heat.cross_attention(writer, batch, [sentence], by_token=True)
read = read[:, 0]

# %% [markdown]
# Choose a {term}`token` to see where the decoder looked to guess it. `<eos>` is the end of the text. Each map has a range of its own, which
# is printed below it; even attention would give every patch the mean.

# %% mystnb={"code_prompt_show": "Code: attention of the decoder"} tags=["hide-input"]
tokens = tokenizer.encode(writer.tokenizer, [sentence])[0][1:]
layers, heads = read.shape[2:4]
both = 100 * np.concatenate([read.mean(axis=3, keepdims=True), read], axis=3)
attention.explore(
    three,
    both.reshape(*both.shape[:2], -1, *both.shape[4:]),
    "%",
    texts=[
        writer.tokenizer.decode([token]).strip() for token in tokens.tolist()
    ],
    views=[
        f"layer {k + 1}, {f'head {n}' if n else 'mean'}"
        for k, n in np.ndindex(layers, heads + 1)
    ],
    kinds=("token that is guessed", "layer and head"),
)

# %% [markdown]
# What does this decoder write on its own about the first chip? The text is cut off after forty tokens:

# %% tags=["remove-input"]
written = writer.captions(batch[:1], max_new_tokens=40)[0].split()
pairs = [*itertools.pairwise(written)]
again = 100 * (1 - len(set(pairs)) / max(len(pairs), 1))
why = (
    f"{again:.0f} % of its pairs of neighbouring words repeat an earlier one. "
    f"It was trained for {options.train.steps:,} steps from random weights, "
    f"with a weight of {options.train.caption_weight:g} on captions."
)
numbers.Prose(
    f"> {' '.join(written)}"
    + (f"\n\n{numbers.minus(why)}" if again > 10 else "")
)

# %% [markdown]
# The pooling of the small model has heads as well:

# %% mystnb={"code_prompt_show": "Code: weights of the pooling"} tags=["hide-input"]


def look(pictures):
    return heat.look(net, heat.to_batch(net, pictures, 64, 64))


weights = look([pixels[i] for i in shown]).scores.flatten(2).softmax(-1)
weights = weights.unflatten(-1, (8, 8)).cpu().numpy()  # (3, heads, 8, 8)
means = np.concatenate([weights.mean(axis=1, keepdims=True), weights], axis=1)
pools = ["mean of all", *(f"head {k + 1}" for k in range(weights.shape[1]))]
attention.explore(
    three,
    100 * means[:, None],
    "%",
    views=pools,
    kinds=("", "head of the pooling"),
)

# %% tags=["remove-input"]
at_sea = np.stack(
    [truths[i, 0].reshape(8, 8, 8, 8).mean((1, 3)) > 0.5 for i in shown]
)
on_sea = (read * at_sea[:, None, None, None]).sum((-1, -2)).mean((0, 1))
numbers.prose(
    f"{100 * at_sea.mean():.0f} % of the patches of these chips are sea. "
    "While the decoder reads “Dark blue sea.”, its heads put "
    f"{100 * on_sea.min():.0f} to {100 * on_sea.max():.0f} % of their "
    "attention on sea: about what chance gives."
    if abs(100 * on_sea - 100 * at_sea.mean()).max() < 10
    else f"{100 * at_sea.mean():.0f} % of the patches of these chips are sea. "
    "While the decoder reads “Dark blue sea.”, its heads put "
    f"{100 * on_sea.min():.0f} to {100 * on_sea.max():.0f} % of their "
    "attention on sea.",
    "The pooling knows no text, so its weights are the same whatever is asked "
    f"for. The largest is {100 * weights.max():.1f} %, where "
    f"{100 / 64:.1f} % would be even.",
)

# %% [markdown]
# ## Smoothing on pictures
#
# The same windows on the three chips. A map is the probability of sea against land, from 0 (dark) to 1 (yellow); what the line encloses is
# called sea.

# %%
windows = [1, 3, 5, 7, 15]


def sea_against_land(image):
    return [
        heat.maps(net, image, vectors, window=w, background=[])[0]
        for w in windows
    ]


odds = np.stack([sea_against_land(pixels[i]) for i in shown])

# %% mystnb={"code_prompt_show": "Code: windows over three chips"} tags=["hide-input"]
titles = ["1, raw patches", "3", "5", "7", "15, whole chip"]
told, sea_of = odds > 0.5, truths[shown, :1]
ious = (told & sea_of).sum((-1, -2)) / (told | sea_of).sum((-1, -2))
attention.explore(
    three,
    odds[:, None],
    views=titles,
    kinds=("", "window, in patches"),
    notes=[
        [[f"IoU of the sea: {100 * value:.0f} %." for value in row]]
        for row in ious
    ],
    limits=(0, 1),
)

# %% [markdown]
# ## How large a window, and is it the pooling or only blur?
#
# The operation pools *values*, with the model's own weights, and compares with the text afterwards. Three other ways look alike: pool the
# values with even weights; ask each patch and blur the answers (box); ask each patch and take the median. All work on the same patches, and
# all maps are enlarged to pixels in the same way. What is compared is {term}`mIoU`.

# %% mystnb={"code_prompt_show": "Code: four ways to smooth"} tags=["hide-input"]
sentences = torch.from_numpy(np.concatenate(vectors))
starts = [0, len(vectors[0])]


def cosines(embeddings):  # (B, 2, h, w)
    fits = (embeddings.cpu() @ sentences.T).movedim(-1, 1).numpy()
    return np.maximum.reduceat(fits, starts, axis=1)


def box(answers, window):
    flat = np.moveaxis(answers.reshape(-1, *answers.shape[2:]), 0, 2)
    even = np.zeros(flat.shape[:2], np.float32)
    blurred = smoothing.smooth_pool(even, np.ascontiguousarray(flat), window)
    return np.moveaxis(blurred, 2, 0).reshape(answers.shape)


def median(answers, window):
    r = window // 2
    around = ((0, 0), (0, 0), (r, r), (r, r))
    padded = np.pad(answers, around, constant_values=np.nan)
    views = np.lib.stride_tricks.sliding_window_view(
        padded, (window, window), (2, 3)
    )
    return np.nanmedian(views, axis=(-2, -1))


def even_weights(found, window):
    pooled = smoothing.smooth_attention(0 * found.scores, found.values, window)
    return cosines(heat.project(net, pooled, found.rest))


# %% mystnb={"code_prompt_show": "Code: maps of all ways and windows"} tags=["hide-input"]
def lookup(grids):
    grids = torch.from_numpy(grids)
    how = {"size": 64, "mode": "bilinear", "align_corners": False}
    large = F.interpolate(grids, **how).numpy()
    pairs = zip(pixels, large, strict=True)
    table = {image.tobytes(): part for image, part in pairs}
    return lambda image: table[image.tobytes()]


found = look(pixels)
raw = cosines(heat.smooth(net, found, 1))
grids = {"raw": raw}
for w in windows[1:]:
    grids |= {
        f"smooth, {w}": cosines(heat.smooth(net, found, w)),
        f"even weights, {w}": even_weights(found, w),
        f"box, {w}": box(raw, w),
        f"median, {w}": median(raw, w),
    }
methods = {name: lookup(one) for name, one in grids.items()}
methods |= baselines.methods(covers, seed)
methods["contributions"] = lambda image: heat.maps(
    net, image, vectors, method="attention"
)
methods["pooling weights"] = lambda image: heat.maps(
    net, image, vectors, method="weights"
)

# %% [markdown]
# Test chips overlap, so their errors do too. Intervals therefore draw {term}`blocks <block>` of chips that share ground, and differences are
# taken on the same draws:

# %%
common = {"dataset": earth.NAME, "split": "test", "seed": seed}
common["bootstrap_samples"] = options.evaluate.bootstrap_samples
common["blocks"] = blocks
rules = scoring.Rules(background=False)
measured = scoring.measure(items, methods, covers, rules)

# %% mystnb={"code_prompt_show": "Code: mean IoU by window"} tags=["hide-input"]
kept = ("miou", "iou[sea]", "iou[land]", "pointing")
rows = [
    row
    for name, one in measured.items()
    for row in scoring.rows(one, protocol=name, **common)
    if row["metric"] in kept
]
miou = {row["protocol"]: row for row in rows if row["metric"] == "miou"}
kinds = {
    "smooth": "the operation",
    "even weights": "even weights",
    "box": "box blur of the answers",
    "median": "median of the answers",
}
points = [miou["raw"] | {"label": "1: raw", "series": "single patches"}]
points += [
    miou[f"{kind}, {w}"]
    | {"label": "15: all" if w == 15 else str(w), "series": title}
    for w in windows[1:]
    for kind, title in kinds.items()
]
charts.picture(
    charts.interval_dots(points, "mean IoU of sea and land, percent"),
    "Mean IoU by window for four ways to smooth, with intervals.",
)

# %% mystnb={"code_prompt_show": "Code: paired differences"} tags=["hide-input"]
pairs = [(f"smooth, {w}", "raw") for w in windows[1:]]
pairs += [("smooth, 3", f"{kind}, 3") for kind in list(kinds)[1:]]
others = ("contributions", "pooling weights", "random", "centre", "brightness")
pairs += [("smooth, 3", name) for name in others]
apart = [
    row
    for one, other in pairs
    for row in scoring.rows(
        measured[one], measured[other], protocol=f"{one} - {other}", **common
    )
    if row["metric"] == "miou"
]
gain = {row["protocol"]: row for row in apart}


def signed(name):
    return numbers.interval(gain[name], signed=True)


# %% tags=["remove-input"]
count = len(set(blocks.tolist()))
numbers.prose(
    f"n = {len(items)} chips in {numbers.counted(count, 'block')}: so few "
    f"blocks make rough intervals. In points of mean IoU, windows of three "
    f"change raw patches by {signed('smooth, 3 - raw')}. At that window the "
    f"operation differs from even weights by "
    f"{signed('smooth, 3 - even weights, 3')}, from a blur of the answers by "
    f"{signed('smooth, 3 - box, 3')} and from their median by "
    f"{signed('smooth, 3 - median, 3')}."
)

# %% [markdown]
# Beside it stand maps of other kinds, and three {term}`baselines <baseline>` that take no model. *Contributions* are the maps
# called *part of the score* above. *Pooling weights* know no text, so they are one map for sea and land: all pixels tie, and count as the first of the two, sea.
# Mean IoU in percent:

# %% mystnb={"code_prompt_show": "Code: table of maps and baselines"} tags=["hide-input"]
names = ["random", "centre", "brightness", "pooling weights", "contributions"]
numbers.table(
    pd.DataFrame(
        [
            {"map": name, "mean IoU": numbers.interval(miou[name])}
            for name in (*names, "raw", "smooth, 3")
        ]
    )
)

# %% [markdown]
# ## The best, the median and the worst chip
#
# Chips are ordered by the mean IoU of windows of three. What does the window fix in them, and what does it break?

# %% mystnb={"code_prompt_show": "Code: what the window changes in three chips"} tags=["hide-input"]


def of_chips(name):
    parts = measured[name].cells[:, 0, :2].astype(float)
    told, true, both = np.moveaxis(parts, -1, 0)  # each (chips, 2)
    iou = both / np.maximum(told + true - both, 1)
    return np.nanmean(np.where(true > 0, iou, np.nan), axis=1)


each = {name: 100 * of_chips(name) for name in ("raw", "smooth, 3")}
order = np.argsort(each["smooth, 3"], kind="stable")
picked = {"best": order[-1], "median": order[len(order) // 2]}
picked["worst"] = order[0]
beside = [
    {
        "image": pixels[i],
        "name": name,
        "ground": records[items[i].key],
        "alt": scale.described(records[items[i].key]),
    }
    for name, i in picked.items()
]
attention.changes(
    beside,
    [
        np.stack([methods[name](pixels[i]).argmax(axis=0) for name in each])
        for i in picked.values()
    ],
    [
        np.where(truths[i].any(axis=0), truths[i].argmax(axis=0), -1)
        for i in picked.values()
    ],
    ["raw patches", "windows of 3"],
    dict(zip(covers, (PALETTE["sky"], PALETTE["yellow"]), strict=True)),
)

# %% tags=["remove-input"]
said = (
    f"{name} {each['raw'][i]:.0f} and {each['smooth, 3'][i]:.0f} %"
    for name, i in picked.items()
)
numbers.prose(
    f"Mean IoU of raw patches and of windows of three: {'; '.join(said)}."
)

# %% [markdown]
# ## Where does smoothing lose?
#
# Wrong pixels by their distance from the coast, in pixels; a patch is eight of them wide.

# %% mystnb={"code_prompt_show": "Code: errors by distance from the coast"} tags=["hide-input"]
sea = np.ascontiguousarray(np.moveaxis(truths[:, 0], 0, 2), np.float32)
far = np.full(sea.shape, 64)  # (64, 64, chips)
flat = np.zeros((64, 64), np.float32)
for d in range(32, 0, -1):  # within d pixels there are both
    share = smoothing.smooth_pool(flat, sea, 2 * d + 1)
    far[(share > 1e-4) & (share < 1 - 1e-4)] = d
scored = np.moveaxis(truths.any(axis=1), 0, 2)
bands = [(1, 1), (2, 2), (3, 4), (5, 8), (9, 16), (17, 64)]
inside = [scored & (far >= low) & (far <= high) for low, high in bands]


def errors(name):
    answers = [np.diff(methods[name](p), axis=0)[0] <= 0 for p in pixels]
    wrong = np.stack(answers, axis=2) != (sea > 0)
    return [100 * wrong[where].mean() for where in inside]


nearest = [low for low, _ in bands]
curves = {
    name: pd.DataFrame({"x": nearest, "value": errors(name)})
    for name in ("raw", "smooth, 3", "smooth, 5")
}
charts.picture(
    charts.curves_with_bands(
        curves, "pixels from the coast, at least", "wrong pixels, percent"
    ),
    "Share of wrong pixels by distance from the coast, for raw patches and "
    "windows of three and five.",
)

# %% [markdown]
# The same by patches, in percent that are right. Some have one class in all their window; some are of one class beside another one; through
# some the coast runs, and these count as what most of the patch is.

# %% mystnb={"code_prompt_show": "Code: right patches by their place"} tags=["hide-input"]
shares = truths[:, 0].reshape(-1, 8, 8, 8, 8).mean(axis=(2, 4))
shares = shares.astype(np.float32)  # of sea in each patch
near = smoothing.smooth_pool(
    np.zeros((8, 8), np.float32),
    np.ascontiguousarray(np.moveaxis(shares, 0, 2)),
    3,
)
near = np.moveaxis(near, 2, 0)
pure, calm = (shares == 0) | (shares == 1), (near < 1e-4) | (near > 1 - 1e-4)
groups = {
    "away from coasts": calm,
    "beside a coast": pure & ~calm,
    "on a coast": ~pure,
}
ways = {"raw": "raw patches", "smooth, 3": "windows of 3"}
by_place = pd.DataFrame(
    {
        title: [
            100
            * ((grids[name].argmax(axis=1) == 0) == (shares > 0.5))[of].mean()
            for of in groups.values()
        ]
        for name, title in ways.items()
    },
    index=pd.Index(list(groups), name="place of the patch"),
)
by_place["patches"] = [int(of.sum()) for of in groups.values()]
lost = by_place["windows of 3"] - by_place["raw patches"]
worst = lost.idxmin()
numbers.table(by_place.reset_index())

# %% [markdown]
# A window that holds both sides is named after the larger part of it. Its weights do not know the text, so they cannot tell the sides apart.
#
# ## Would it help on noisy pictures?
#
# If smoothing trades noise against edges, it could win where patches are noisy. So the chips get Gaussian noise, the same for all methods,
# of a standard deviation of 30, 60 and 90 grey levels.

# %% mystnb={"code_prompt_show": "Code: maps of noisy chips"} tags=["hide-input"]
levels, noisy = [0, 30, 60, 90], {}
for level in levels:
    drawn = np.random.default_rng([seed, level])
    grainy = [
        np.clip(p + drawn.normal(0, level, p.shape), 0, 255).astype(np.uint8)
        if level
        else p
        for p in pixels
    ]
    other = look(grainy)
    answers = cosines(heat.smooth(net, other, 1))
    pooled = cosines(heat.smooth(net, other, 3))
    noisy[f"raw, noise {level}"] = lookup(answers)
    noisy[f"smooth, 3, noise {level}"] = lookup(pooled)
    noisy[f"box, 3, noise {level}"] = lookup(box(answers, 3))
by_noise = scoring.measure(items, noisy, covers, rules)

# %% mystnb={"code_prompt_show": "Code: mean IoU by noise"} tags=["hide-input"]
own = [
    row
    for name, one in by_noise.items()
    for row in scoring.rows(one, protocol=name, **common)
    if row["metric"] == "miou"
]
points = []
for row in own:
    name, level = row["protocol"].rsplit(", ", 1)
    points.append(row | {"label": level, "series": name})
for level in levels:
    more = scoring.rows(
        by_noise[f"smooth, 3, noise {level}"],
        by_noise[f"raw, noise {level}"],
        protocol=f"smooth, 3 - raw, noise {level}",
        **common,
    )
    gain |= {row["protocol"]: row for row in more if row["metric"] == "miou"}
charts.picture(
    charts.interval_dots(points, "mean IoU of sea and land, percent"),
    "Mean IoU at four levels of noise, of raw patches, of windows of three "
    "and of blurred answers, with intervals.",
)

# %% tags=["remove-input"]
said = [
    f"{signed(f'smooth, 3 - raw, noise {level}')} at {level} grey levels"
    for level in levels[1:]
]
turn = [
    level
    for level in levels
    if gain[f"smooth, 3 - raw, noise {level}"]["ci_low"] > 0
]
never = (
    "At no level does it win beyond chance. If noise makes neighbouring "
    "patches wrong in the same way, the mean of their answers is wrong, too."
)
numbers.prose(
    f"Against raw patches the operation is worth {signed('smooth, 3 - raw')} "
    f"points without noise, {', '.join(said)}.",
    f"From {turn[0]} grey levels on it wins beyond chance." if turn else never,
)

# %% [markdown]
# ## What others do: train for dense features, or sharpen what there is
#
# The operation changes no weight of the model. Three lines of work go further. TIPS {cite:p}`maninis2025tips` trains for dense features.
# Beside captions of the web it learns from synthetic ones that describe the whole picture; and beside the contrastive loss from
# self-distillation and masked patches, so that each patch has to know what lies on it. SegEarth-OV {cite:p}`li2025segearth` leaves CLIP as
# it is. An upsampler that has learned from unlabelled imagery gives its patches their detail back, and a share of the vector of the whole
# picture is subtracted from every patch (`global_share` does that here). FarSLIP {cite:p}`li2025farslip` finetunes CLIP on remote sensing,
# with distillation from patch to patch.
#
# Mean IoU as printed, in percent. Numbers of one column were measured alike; those of different columns were not, even where the data set
# has the same name. A cell is empty where nothing is printed.

# %% mystnb={"code_prompt_show": "Code: table of published mean IoU"} tags=["hide-input"]
printed = results.published().assign(system=results.systems)
sets = ["mean of 8 OVSS sets", "iSAID", "ADE20K-150"]
dense = printed[
    (printed["task"] == "segmentation") & printed["dataset"].isin(sets)
]
side_by_side = dense.pivot(
    index="system", columns=["dataset", "protocol"], values="value"
)
order_of = (
    side_by_side.iloc[:, 0]
    .fillna(0)
    .sort_values(ascending=False, kind="stable")
    .index
)
numbers.table(side_by_side.loc[order_of], index=True)

# %% tags=["remove-input"]
# Gains over the best before, as the abstract of arXiv 2410.01768 tells them
gains = {
    "semantic segmentation": 5.8,
    "buildings": 8.2,
    "roads": 4.0,
    "floods": 15.3,
}
own_columns = dense[dense["protocol"] == "farslip"].pivot(
    index="system", columns="dataset", values="value"
)
eight, isaid = own_columns["mean of 8 OVSS sets"], own_columns["iSAID"]
clip, tips = "CLIP, ViT-B/16", "TIPS, ViT-B/14-448"
tuned = "FarSLIP-s1, ViT-B/16"
told = ", ".join(f"{value:g} % for {name}" for name, value in gains.items())
sizes_of = dense[dense["model"] == "TIPSv2"].set_index("backbone")["value"]
numbers.points(
    f"Over eight sets of aerial pictures TIPS has {eight[tips]:.1f} %, CLIP "
    f"{eight[clip]:.1f} %, and FarSLIP, which has read captions of such "
    f"pictures, {eight[tuned]:.1f} %. On the small objects of iSAID they have "
    f"{isaid[tips]:.1f}, {isaid[clip]:.1f} and {isaid[tuned]:.1f} %. Most of "
    "these were read from a figure, and none has an interval"
    + (
        ": in pictures from above they show no gain from training for dense "
        "features on photographs."
        if eight[tips] <= eight[clip] and isaid[tips] <= isaid[clip]
        else "."
    ),
    "The largest model is not always the best. On photographs of ADE20K the "
    f"best TIPSv2 is {sizes_of.idxmax()} with {sizes_of.max():.1f} %; the "
    f"largest, ViT-g/14, has {sizes_of['ViT-g/14']:.1f} %."
    if sizes_of.idxmax() != "ViT-g/14"
    else "",
    "Without training the model, SegEarth-OV reports gains over the best "
    f"methods before it: {told}.",
)

# %% [markdown]
# ## On real masks
#
# VHR-10 has outlines of ten kinds of objects in aerial pictures. Where it is on disk, some of its pictures are shown with their masks, and
# with maps of `model` if that is given: a folder of a model that has read captions of such pictures. The model of this chapter knows sea
# and land from space alone.

# %% mystnb={"code_prompt_show": "Code: pictures of VHR-10 and their masks"} tags=["hide-input"]
home = Path(
    data
    or os.environ.get("RSVLM_DATA")
    or stages.root().parent / "shared" / "data"
)
vhr = next(
    (
        path
        for path in (home, home / "vhr10")
        if (path / "instances.json").is_file()
    ),
    None,
)
real_items = list(true_masks.read(vhr, "coco", limit=4)) if vhr else []
reader = rsvlm.load(model, device=target).eval() if model else None
tiles, over, answers = [], [], []
for item in real_items:
    picture = images.decode(item.image)
    areas = {kind: mask.sum() for kind, mask in item.masks.items()}
    name = max(areas, key=areas.get, default="")
    mask = item.masks.get(name, np.zeros(picture.shape[:2], bool))
    said = f"{item.key}: {name or 'nothing'}"
    tile = {"image": galleries.mask_image(picture, mask, mask)}
    alt = f"Aerial picture in which each {name or 'object'} is outlined"
    tiles.append(tile | {"alt": alt, "caption": said})
    if reader and name:
        over.append({"image": picture, "name": said, "alt": alt})
        texts = [f"a photo of a {name}"]
        answers.append(heat.maps(reader, picture, texts, size="patches")[None])
absent = "VHR-10 is not on disk: `-p data=FOLDER` names the folder that holds "
absent += "`instances.json`."
galleries.gallery(tiles, 200) if tiles else numbers.prose(absent)

# %% tags=["remove-input"]
attention.explore(over, answers, "") if over else None

# %% [markdown]
# Stored runs of `rsvlm evaluate localize` are of two models that learned RSICD from random weights ({doc}`12_rsicd`); the second has
# standardized weights in its convolutions. Wording, scales and temperature were chosen with the first. The {term}`pointing game`, in
# percent of the pairs of picture and class, and `smooth - raw` in points:

# %% mystnb={"code_prompt_show": "Code: table of pointing games"} tags=["hide-input"]
stored = list((stages.root() / "results" / "localize").glob("*/metrics.json"))
real = (
    results.table("localize")
    if stored
    else pd.DataFrame(columns=["run", *results.ROW])
)
real = real[real["dataset"] != earth.NAME]
real = real[real["metric"].isin(["pointing", "miou"])]
real = real.assign(
    shown=[
        numbers.interval(row, signed=" - " in row["protocol"])
        for row in real.to_dict("records")
    ]
)
runs = {
    ("VHR-10", "first"): "vhr10-rsicd-without-chosen-on",
    ("VHR-10", "second"): "vhr10-rsicd-standard-without-chosen-on",
    ("buildings", "first"): "buildings-rsicd",
    ("buildings", "second"): "buildings-rsicd-standard",
}
KINDS = ["raw", "smooth", "smooth - raw", "random", "centre", "brightness"]


def wide(metric):
    of = real[(real["metric"] == metric) & real["run"].isin(runs.values())]
    named = of.set_index(["run", "protocol"])["shown"]
    columns = {
        f"{place}, {which}": [named.get((run, kind), "") for kind in KINDS]
        for (place, which), run in runs.items()
    }
    return numbers.table(pd.DataFrame({"map": KINDS} | columns))


wide("pointing")

# %% [markdown]
# Mean IoU of the same runs:

# %% mystnb={"code_prompt_show": "Code: table of mean IoU on real masks"} tags=["hide-input"]
wide("miou")

# %% [markdown]
# On buildings smoothing helps the first model and not the second; on the small objects of VHR-10 it lowers mean IoU for both. All
# stored runs, with energy inside the mask and presence, are on the page {doc}`../generated/results`.
#
# ## Exercise
#
# In the toy grid let the noise be 1 everywhere, and leave the scores as they are. They now say nothing about the values. In windows of three
# cells, is the operation still as good as pooling with even weights?
#
# ```{dropdown} Answer
# No. With `noise = np.ones_like(noise)` in the line of `values`, and seed 0, the operation has 90 % of the cells right and even weights have 97 %;
# even weights are ahead with each of the seeds 0 to 4. A high score counts about seven times as much as a low one. So a window of nine
# cells hears mostly those with high scores, and its mean is as noisy as that of fewer cells. Weights help only as far as they know which
# value to trust.
# ```
#
# ## Takeaways

# %% tags=["remove-input"]
origin = provenance.provenance(
    options,
    benchmarks.fingerprint(chips),
    target,
    started,
    "rsvlm run notebooks/13_attention.ipynb",
)
keep = rows + apart
keep += [row for row in own if "noise 0" not in row["protocol"]]
keep += [gain[f"smooth, 3 - raw, noise {level}"] for level in levels[1:]]
name = run_name or f"{profile}-seed{seed}"
saved = results.save_result("localize", name, options, keep, origin)
numbers.points(
    "Captions alone teach where the sea is: raw patches have a mean IoU of "
    f"{numbers.interval(miou['raw'], unit='%')}, random maps "
    f"{miou['random']['value']:.1f} %, brightness "
    f"{miou['brightness']['value']:.1f} %.",
    "The Smooth-Attention-Operation with a window of three changes that by "
    f"{signed('smooth, 3 - raw')} points, a plain blur of the answers by "
    f"{miou['box, 3']['value'] - miou['raw']['value']:+.1f}.",
    f"It changes most {worst}, by {lost.min():+.1f} points of right patches; "
    f"away from coasts by {lost.iloc[0]:+.1f}.",
    f"With noise of {levels[-1]} grey levels it changes raw patches by "
    f"{signed(f'smooth, 3 - raw, noise {levels[-1]}')} points.",
)

# %% tags=["remove-input"]
tables.provenance(origin)
