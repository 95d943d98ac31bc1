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
# # Where is it? Attention and smoothing
#
# **A model that has read captions alone maps the sea patch by patch; the Smooth-Attention-Operation makes calmer maps of it, at the price
# of the coasts.**
#
# Cost: a minute or two on two cores: one small model on captions, then maps. `data` and `model` take a folder of pictures with masks
# (COCO) and a model of yours.

# %% tags=["parameters", "after:02_training"]
profile = "laptop"
seed = 0
device = "auto"
recompute = False
run_name = ""
overrides = ""
data = ""
model = ""

# %% tags=["hide-input"]
import itertools
import os
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from IPython.display import Markdown

# %% tags=["hide-input"]
import rsvlm
from rsvlm import config
from rsvlm.book.figures import attention, charts, galleries, tables
from rsvlm.book.figures.style import PALETTE
from rsvlm.data import benchmarks
from rsvlm.data.demo import earth, earth_masks, recipe
from rsvlm.evaluation import shared_ground
from rsvlm.localization import heat, smoothing, true_masks
from rsvlm.model import images, tokenizer
from rsvlm.model.device import resolve_device

# %% tags=["hide-input"]
started = time.time()
from rsvlm.data.demo import ground_cover
from rsvlm.localization import baselines, rounds, scoring
from rsvlm.records import provenance, results, stages
from rsvlm.training import train

options = config.load(profile, {"seed": seed, "device": device} | config.pairs(overrides))
chips = earth.load_or_build(options)
target = str(resolve_device(device))
few = options.train.steps < 100

# %% [markdown]
# ## What does the operation do?
#
# Attention pooling makes one vector of a picture: each patch $i$ has a value $v_i$ and a score $s_i$, and counts with the weight
# $a_i = e^{s_i}$. The Smooth-Attention-Operation does the same in a window $N(p)$ around every place $p$:
#
# $$z_p = \frac{\sum_{i \in N(p)} a_i v_i}{\sum_{i \in N(p)} a_i}$$
#
# A window of one place is the value itself; a window over everything is the pooling of the whole picture, everywhere. The paper names
# the operation and prints no formula {cite:p}`barzilai2025recipe`; this one is ours. Here is a toy grid: a coast from corner to corner,
# values that know the side of it with much noise, and scores that are higher where a value can be trusted.

# %%
rng, side = np.random.default_rng(seed), 15
truth = np.where(np.add.outer(np.arange(side), np.arange(side)) < side, 1.0, -1.0).astype(np.float32)
noise = rng.choice([0.5, 2.0], truth.shape)
values = (truth + noise * rng.standard_normal(truth.shape)).astype(np.float32)
scores = np.where(noise < 1, 1.0, -1.0).astype(np.float32)
toy = {"truth": truth, "values": values, "scores": scores}
galleries.gallery(
    [{"image": galleries.heat_image(v, -2, 2), "alt": f"Toy grid: {n}", "caption": n} for n, v in toy.items()], 110
)

# %% [markdown]
# Here windows of several sizes pool that grid, laid over the truth. The line is where the pooled value changes its sign, and so the coast as a
# window sees it.

# %%
steps = [1, 3, 5, 7, 9, 2 * side - 1]
pooled = {window: smoothing.smooth_pool(scores, values, window) for window in steps}
right = {window: 100 * float((np.sign(z) == truth).mean()) for window, z in pooled.items()}

# %%
attention.explore(
    [
        {
            "image": galleries.heat_image(truth, -2, 2),
            "alt": "Toy grid with a coast from the lower left corner to the upper right",
        }
    ],
    [np.stack([*pooled.values()])[None]],
    views=[f"window {w}" if w < steps[-1] else "all cells" for w in steps],
    kinds=("", "window, in cells"),
    notes=[[[f"{share:.0f} % of the cells are on the right side." for share in right.values()]]],
    limits=(-2, 2),
)

# %% tags=["hide-input"]
best = max(right, key=right.get)
alike = 100 * float((np.sign(smoothing.smooth_pool(0 * scores, values, best)) == truth).mean())
Markdown(
    f"Of single values {right[1]:.0f} % are on the right side, of windows of {best} {right[best]:.0f} % ({alike:.0f} % if all weights are "
    f"even), of the whole grid {right[steps[-1]]:.0f} %: windows take noise away, until they reach over the coast. What follows asks on which side of that best "
    "window a real model is."
)

# %% [markdown]
# ## A model whose patches know of themselves
#
# The tower of [](02_training) sees most of the chip around every patch, so that its patches know the chip and not themselves. Here a
# small convolutional tower reads the same captions: two stages, eight by eight patches, each sees some forty pixels around its own
# eight, and one learned query pools them. No mask is read in training. Sea and land are asked for with several sentences in the words
# of the captions, chosen on validation chips; the best one in a patch speaks for its class there.

# %%
net = rsvlm.load(rounds.load_or_begin(options, chips, ground_cover.SIZES, recompute), device=target).eval()
items = [true_masks.Item(*parts) for parts in earth_masks.read(chips, "test", limit=24 if few else 150)]
pixels = [images.decode(item.image) for item in items]
records = {sample.key: sample.record for sample in benchmarks.samples(chips, "test")}
blocks = shared_ground.blocks([records[item.key] for item in items])

# %%
vectors = [heat.text_vectors(net, texts) for texts in ground_cover.SEA_AND_LAND.values()]
truths = np.stack([[item.masks.get(name, np.zeros((64, 64), bool)) for name in ground_cover.SEA_AND_LAND] for item in items])
shown = np.argsort(np.abs(truths[:, 0].mean(axis=(1, 2)) - 0.5), kind="stable")[:3]  # coasts through the middle
three = [{"image": pixels[i], "name": f"chip {n}", "ground": records[items[i].key]} for n, i in enumerate(shown, 1)]
three = [one | {"alt": f"Satellite picture of a coast, {one['name']}"} for one in three]
covers = list(ground_cover.SEA_AND_LAND)
asked = {"similarity": "raw", "contribution": "attention"}
found = [[heat.maps(net, pixels[i], vectors, method=method, size="patches") for method in asked.values()] for i in shown]
attention.explore(
    three, [np.stack(maps, axis=1) for maps in found], texts=covers, views=list(asked), kinds=("what is asked for", "map")
)

# %% tags=["hide-input"]
Markdown(
    f"Three of {len(items)} test chips, those whose coast runs most nearly through the middle. *Similarity* is the cosine of each patch with "
    "the sentences of the sea or of the land; *contribution* is what each patch adds to the score of the whole chip."
)

# %% [markdown]
# ## Where do the decoder and the pooling look?
#
# The decoder that describes a picture looks at its patches while it writes; the pooling weighs them. Both are attention, in several
# heads, and the decoder in several layers. The small model was not taught to write; the decoder here is that of [](02_training), while it
# reads “Dark blue sea.” for each of the three chips. Choose a token to see where it looked to guess it. `<eos>` is the end of the text.

# %%
writer = rsvlm.load(train.load_or_train(*recipe.prepare(options)) / "model", device=target).eval()
torch.set_grad_enabled(False)
batch, sentence = heat.to_batch(writer, [pixels[i] for i in shown], 64, 64), "Dark blue sea."
tokens = tokenizer.encode(writer.tokenizer, [sentence])[0][1:]
read = heat.cross_attention(writer, batch, [sentence], by_token=True)[:, 0]  # (3, tokens, layers, heads, h, w)
layers, heads = read.shape[2:4]

# %%
both = 100 * np.concatenate([read.mean(axis=3, keepdims=True), read], axis=3)
attention.explore(
    three,
    both.reshape(*both.shape[:2], -1, *both.shape[4:]),
    "%",
    texts=[writer.tokenizer.decode([token]).strip() for token in tokens.tolist()],
    views=[f"layer {k + 1}, {f'head {n}' if n else 'mean'}" for k, n in np.ndindex(layers, heads + 1)],
    kinds=("token that is guessed", "layer and head"),
)

# %% [markdown]
# What does this decoder write when nobody tells it the words? One specimen, cut off after forty tokens:

# %% tags=["hide-input"]
written = writer.captions(batch[:1], max_new_tokens=40)[0].split()
pairs = [*itertools.pairwise(written)]
again = 100 * (1 - len(set(pairs)) / max(len(pairs), 1))
why = (
    f"{again:.0f} % of its pairs of neighbouring words stand in it before. {options.train.steps} steps from nothing, with a weight of "
    f"{options.train.caption_weight:g} on captions, teach which words often follow each other, and no sentences yet. So the heads are shown "
    "while they read a text that is given."
)
Markdown(f"> {' '.join(written)}\n\n" + (why if again > 10 else "It hardly repeats itself."))

# %% [markdown]
# And the pooling of the small model:


# %%
def look(pictures):
    return heat.look(net, heat.to_batch(net, pictures, 64, 64))


weights = look([pixels[i] for i in shown]).scores.flatten(2).softmax(-1).unflatten(-1, (8, 8)).cpu().numpy()  # (3, n, 8, 8)
means = np.concatenate([weights.mean(axis=1, keepdims=True), weights], axis=1)
pools = ["mean of all", *(f"head {k + 1}" for k in range(weights.shape[1]))]
attention.explore(three, 100 * means[:, None], "%", views=pools, kinds=("", "head of the pooling"))

# %% tags=["hide-input"]
at_sea = np.stack([truths[i, 0].reshape(8, 8, 8, 8).mean((1, 3)) > 0.5 for i in shown])
on_sea = (read * at_sea[:, None, None, None]).sum((-1, -2)).mean((0, 1))
Markdown(
    f"{100 * at_sea.mean():.0f} % of the patches of these chips are sea. Reading “Dark blue sea.”, the heads put {100 * on_sea.min():.0f} to "
    f"{100 * on_sea.max():.0f} % of their attention on it. The pooling knows no text: its weights are the same whatever is asked "
    f"for, and its largest is {100 * weights.max():.1f} %, where {100 / 64:.1f} % would be even."
)

# %% [markdown]
# ## Smoothing on pictures
#
# The same window on the three chips: the sea's share in its contrast with land, from 0 (dark) to 1 (yellow). What the line encloses is called
# sea.

# %%
windows = [1, 3, 5, 7, 15]
titles = ["1, raw patches", "3", "5", "7", "15, whole chip"]
odds = np.stack([[heat.maps(net, pixels[i], vectors, window=w, background=[])[0] for w in windows] for i in shown])
told, sea_of = odds > 0.5, truths[shown, :1]
ious = 100 * (told & sea_of).sum((-1, -2)) / (told | sea_of).sum((-1, -2))
said = [[[f"IoU of the sea: {value:.0f} %." for value in row]] for row in ious]
attention.explore(three, odds[:, None], views=titles, kinds=("", "window, in patches"), notes=said, limits=(0, 1))

# %% [markdown]
# ## How large a window, and is it the pooling or only blur?
#
# The operation pools *values*, with the model's own weights, and only then asks. Three things that look alike: pool the values with
# even weights; ask each patch and blur the answers (box); ask each patch and take the median. All on the same patches, enlarged to pixels in
# the same way.


# %%
sentences = torch.from_numpy(np.concatenate(vectors))
starts = [0, len(vectors[0])]


def cosines(embeddings):
    return np.maximum.reduceat((embeddings.cpu() @ sentences.T).movedim(-1, 1).numpy(), starts, axis=1)  # (B, 2, h, w)


# %%
def box(answers, window):
    flat = np.moveaxis(answers.reshape(-1, *answers.shape[2:]), 0, 2)
    blurred = smoothing.smooth_pool(np.zeros(flat.shape[:2], np.float32), np.ascontiguousarray(flat), window)
    return np.moveaxis(blurred, 2, 0).reshape(answers.shape)


def median(answers, window):
    r = window // 2
    padded = np.pad(answers, ((0, 0), (0, 0), (r, r), (r, r)), constant_values=np.nan)
    return np.nanmedian(np.lib.stride_tricks.sliding_window_view(padded, (window, window), (2, 3)), axis=(-2, -1))


def even(found, window):
    return cosines(heat.project(net, smoothing.smooth_attention(0 * found.scores, found.values, window), found.rest))


# %%
def lookup(grids):
    large = F.interpolate(torch.from_numpy(grids), size=64, mode="bilinear", align_corners=False).numpy()
    table = {image.tobytes(): part for image, part in zip(pixels, large, strict=True)}
    return lambda image: table[image.tobytes()]


found = look(pixels)
raw = cosines(heat.smooth(net, found, 1))
grids = {"raw": raw}
for w in windows[1:]:
    grids |= {f"smooth, {w}": cosines(heat.smooth(net, found, w)), f"even weights, {w}": even(found, w)}
    grids |= {f"box, {w}": box(raw, w), f"median, {w}": median(raw, w)}

# %%
methods = {name: lookup(one) for name, one in grids.items()} | baselines.methods(list(ground_cover.SEA_AND_LAND), seed)
methods["contributions"] = lambda image: heat.maps(net, image, vectors, method="attention")
methods["pooling weights"] = lambda image: heat.maps(net, image, vectors, method="weights")
measured = scoring.measure(items, methods, list(ground_cover.SEA_AND_LAND), scoring.Rules(background=False))
common = {"dataset": earth.NAME, "split": "test", "bootstrap_samples": options.evaluate.bootstrap_samples, "seed": seed}
common["blocks"] = blocks
kept = ("miou", "iou[sea]", "iou[land]", "pointing")
rows = [row for name, one in measured.items() for row in scoring.rows(one, protocol=name, **common) if row["metric"] in kept]
miou = {row["protocol"]: row for row in rows if row["metric"] == "miou"}

# %%
kinds = {
    "smooth": "the operation",
    "even weights": "even weights",
    "box": "box blur of the answers",
    "median": "median of the answers",
}

# %%
points = [miou["raw"] | {"label": "1: raw", "series": "single patches"}]
points += [
    miou[f"{kind}, {w}"] | {"label": "15: all" if w == 15 else str(w), "series": title}
    for w in windows[1:]
    for kind, title in kinds.items()
]
charts.picture(
    charts.interval_dots(points, "mean IoU of sea and land, percent"),
    "Mean IoU by window for four ways to smooth, with intervals.",
)

# %%
pairs = [(f"smooth, {w}", "raw") for w in windows[1:]] + [("smooth, 3", f"{kind}, 3") for kind in list(kinds)[1:]]
pairs += [("smooth, 3", name) for name in ("contributions", "pooling weights", "random", "centre", "brightness")]
apart = [
    row
    for one, other in pairs
    for row in scoring.rows(measured[one], measured[other], protocol=f"{one} - {other}", **common)
    if row["metric"] == "miou"
]
gain = {row["protocol"]: row for row in apart}
charts.picture(
    charts.interval_dots(
        [row | {"label": row["protocol"]} for row in apart[: len(windows) + 2]], "difference of mean IoU, points"
    ),
    "Paired differences of mean IoU between the operation, raw patches and other ways to smooth, with intervals.",
)


# %% tags=["hide-input"]
def signed(name):
    row = gain[name]
    return f"{row['value']:+.1f} points [{row['ci_low']:.1f}, {row['ci_high']:.1f}]"


Markdown(
    f"n = {len(items)} chips, intervals over {len(set(blocks.tolist()))} blocks of chips that share ground; so few make them rough. Raw patches reach {miou['raw']['value']:.1f} %, windows of three "
    f"{miou['smooth, 3']['value']:.1f} % ({signed('smooth, 3 - raw')} on the same chips), of five "
    f"{miou['smooth, 5']['value']:.1f} %. At a window of three the operation differs from even weights by "
    f"{signed('smooth, 3 - even weights, 3')}, from blurring the answers by {signed('smooth, 3 - box, 3')} and from their median by "
    f"{signed('smooth, 3 - median, 3')}. From what each patch adds to the attention pooling it differs by "
    f"{signed('smooth, 3 - contributions')}."
)

# %%
names = ["random", "centre", "brightness", "pooling weights", "contributions", "raw", "smooth, 3"]
table = pd.DataFrame([miou[name] for name in names]).set_index("protocol")[["value", "ci_low", "ci_high", "n"]]
table.style.format(precision=1)

# %% [markdown]
# ## The best, the median and the worst
#
# Chips by the mean IoU of windows of three, and what the window changes in them: it fixes some places and breaks others.


# %%
def of_chips(name):
    told, true, both = np.moveaxis(measured[name].cells[:, 0, :2].astype(float), -1, 0)  # each (chips, 2)
    return np.nanmean(np.where(true > 0, both / np.maximum(told + true - both, 1), np.nan), axis=1)


# %%
each = {name: 100 * of_chips(name) for name in ("raw", "smooth, 3")}
order = np.argsort(each["smooth, 3"], kind="stable")
picked = {"best": order[-1], "median": order[len(order) // 2], "worst": order[0]}
beside = [{"image": pixels[i], "name": name, "ground": records[items[i].key]} for name, i in picked.items()]
beside = [one | {"alt": f"Satellite picture, the {one['name']} chip by mean IoU"} for one in beside]
answers = [np.stack([methods[name](pixels[i]).argmax(axis=0) for name in each]) for i in picked.values()]
truth_of = [np.where(truths[i].any(axis=0), truths[i].argmax(axis=0), -1) for i in picked.values()]
colours = dict(zip(covers, (PALETTE["sky"], PALETTE["yellow"]), strict=True))
attention.changes(beside, answers, truth_of, ["raw patches", "windows of 3"], colours)

# %% tags=["hide-input"]
said = (f"{name} ({items[i].key}): {each['raw'][i]:.0f} %, {each['smooth, 3'][i]:.0f} %" for name, i in picked.items())
Markdown(f"Mean IoU of single patches, and of windows of three: {'; '.join(said)}.")

# %% [markdown]
# ## Where does smoothing lose?
#
# Wrong pixels by their distance from the coast, in pixels; a patch is eight of them wide.

# %%
sea = np.ascontiguousarray(np.moveaxis(truths[:, 0], 0, 2), np.float32)  # (64, 64, chips)
far = np.full(sea.shape, 64)
for d in range(32, 0, -1):
    share = smoothing.smooth_pool(np.zeros((64, 64), np.float32), sea, 2 * d + 1)
    far[(share > 1e-4) & (share < 1 - 1e-4)] = d  # within d pixels there are both
scored = np.moveaxis(truths.any(axis=1), 0, 2)

# %%
bands = [(1, 1), (2, 2), (3, 4), (5, 8), (9, 16), (17, 64)]
curves = {}
for name in ("raw", "smooth, 3", "smooth, 5"):
    wrong = np.stack([np.diff(methods[name](p), axis=0)[0] <= 0 for p in pixels], axis=2) != (sea > 0)
    inside = [scored & (far >= low) & (far <= high) for low, high in bands]
    curves[name] = pd.DataFrame({"x": [low for low, _ in bands], "value": [100 * wrong[where].mean() for where in inside]})
charts.picture(
    charts.curves_with_bands(curves, "pixels from the coast, at least", "wrong pixels, percent"),
    "Share of wrong pixels by distance from the coast, for raw patches and windows of three and five.",
)

# %% [markdown]
# And patch by patch: those in whose window there is one class alone, those that are of one class beside another one, and those that the
# coast runs through, by what most of the patch is.

# %%
shares = truths[:, 0].reshape(-1, 8, 8, 8, 8).mean(axis=(2, 4)).astype(np.float32)  # of sea in each patch
near = np.moveaxis(
    smoothing.smooth_pool(np.zeros((8, 8), np.float32), np.ascontiguousarray(np.moveaxis(shares, 0, 2)), 3), 2, 0
)
pure, calm = (shares == 0) | (shares == 1), (near < 1e-4) | (near > 1 - 1e-4)
groups = {"inside: window of one class": calm, "beside a coast": pure & ~calm, "coast runs through": ~pure}
correct = {name: (grids[name].argmax(axis=1) == 0) == (shares > 0.5) for name in ("raw", "smooth, 3")}
by_place = pd.DataFrame(
    {name: [100 * ok[of].mean() for of in groups.values()] for name, ok in correct.items()}, index=list(groups)
)
by_place["patches"] = [int(of.sum()) for of in groups.values()]
by_place.style.format(precision=1)

# %% tags=["hide-input"]
lost = by_place["smooth, 3"] - by_place["raw"]
worst, share = lost.idxmin(), by_place["patches"] / by_place["patches"].sum()
Markdown(
    f"Inside, which is {100 * share.iloc[0]:.0f} % of the patches, windows change what is right by {lost.iloc[0]:+.1f} points; beside a coast by "
    f"{lost.iloc[1]:+.1f}, and where the coast runs through a patch by {lost.iloc[2]:+.1f}. A window that holds both sides is named after the "
    "larger part of it: its weights do not know the text, so that they cannot tell the sides apart."
)

# %% [markdown]
# ## When would it help?
#
# If smoothing is a trade of noise against edges, it could win where patches are noisy. So the chips get noise, the same for all methods,
# of a standard deviation of so many grey levels.

# %%
levels = [0, 30, 60, 90]
noisy = {}
for level in levels:
    drawn = np.random.default_rng([seed, level])
    grainy = [np.clip(p + drawn.normal(0, level, p.shape), 0, 255).astype(np.uint8) if level else p for p in pixels]
    other = look(grainy)
    answers = cosines(heat.smooth(net, other, 1))
    noisy[f"raw, noise {level}"] = lookup(answers)
    noisy[f"smooth, 3, noise {level}"] = lookup(cosines(heat.smooth(net, other, 3)))
    noisy[f"box, 3, noise {level}"] = lookup(box(answers, 3))
by_noise = scoring.measure(items, noisy, list(ground_cover.SEA_AND_LAND), scoring.Rules(background=False))

# %%
own = [row for name, one in by_noise.items() for row in scoring.rows(one, protocol=name, **common) if row["metric"] == "miou"]
points = []
for row in own:
    name, level = row["protocol"].rsplit(", ", 1)
    points.append(row | {"label": level, "series": name})
for level in levels:
    ways = by_noise[f"smooth, 3, noise {level}"], by_noise[f"raw, noise {level}"]
    more = scoring.rows(*ways, protocol=f"smooth, 3 - raw, noise {level}", **common)
    gain |= {row["protocol"]: row for row in more if row["metric"] == "miou"}
charts.picture(
    charts.interval_dots(points, "mean IoU of sea and land, percent"),
    "Mean IoU at four levels of noise, of raw patches, of windows of three and of blurred answers, with intervals.",
)

# %% tags=["hide-input"]
said = [f"at {level} grey levels {signed(f'smooth, 3 - raw, noise {level}')}" for level in levels[1:]]
turn = [level for level in levels if gain[f"smooth, 3 - raw, noise {level}"]["ci_low"] > 0]
never = "At none of these levels does it win beyond chance: noise that all patches have makes them wrong in the same way, and a mean of wrong answers is wrong."
Markdown(
    f"Against raw patches the operation is worth {signed('smooth, 3 - raw')} without noise, {'; '.join(said)}. "
    + (f"From {turn[0]} grey levels on it wins beyond chance: there single patches are unsure." if turn else never)
)

# %% [markdown]
# ## What others do about it: train for dense features, or sharpen what there is
#
# The operation changes no weight of the model. Two lines of work go further. TIPS {cite:p}`maninis2025tips` trains for dense features:
# beside the captions of the web it learns from synthetic ones that describe the whole picture, and beside the contrastive loss from
# self-distillation and masked patches, so that each patch has to know what lies on it. SegEarth-OV {cite:p}`li2025segearth` leaves CLIP as it
# is: an upsampler that has learned from unlabelled imagery gives its patches their detail back, and a share of the vector of the whole
# picture is subtracted from every patch (`global_share` does that here). FarSLIP {cite:p}`li2025farslip` finetunes CLIP on remote sensing
# with distillation from patch to patch.
#
# Mean IoU as printed, in percent. Numbers of one column were measured alike; those of different columns were not, even where the data set
# has the same name.

# %%
printed = results.published().assign(system=results.systems)
dense = printed[(printed["task"] == "segmentation") & printed["dataset"].isin(["mean of 8 OVSS sets", "iSAID", "ADE20K-150"])]
side_by_side = dense.pivot(index="system", columns=["dataset", "protocol"], values="value")
order_of = side_by_side.iloc[:, 0].fillna(0).sort_values(ascending=False, kind="stable").index
side_by_side.loc[order_of].style.format(precision=1, na_rep="")

# %%
# Gains over the best before, as the abstract of SegEarth-OV tells them (arXiv 2410.01768)
gains = {"semantic segmentation": 5.8, "buildings": 8.2, "roads": 4.0, "floods": 15.3}
eight, isaid = (
    dense[(dense["dataset"] == name) & (dense["protocol"] == "farslip")] for name in ("mean of 8 OVSS sets", "iSAID")
)
eight, isaid = (part.set_index("system")["value"] for part in (eight, isaid))
clip, tips, tuned = "CLIP, ViT-B/16", "TIPS, ViT-B/14-448", "FarSLIP-s1, ViT-B/16"
told = ", ".join(f"{value:g} % for {name}" for name, value in gains.items())
others = dense[dense["protocol"] == "skysense-o"].set_index("system")["value"]
sizes_of = dense[dense["model"] == "TIPSv2"].set_index("backbone")["value"]

# %% tags=["hide-input"]
Markdown(
    f"- Training for dense features pays on photographs, and not by itself from above: over eight sets of aerial pictures TIPS has {eight[tips]:.1f} %, "
    f"CLIP {eight[clip]:.1f} %, and FarSLIP, which has read captions of such pictures, {eight[tuned]:.1f} %. On the small things of iSAID it is "
    f"{isaid[tips]:.1f}, {isaid[clip]:.1f} and {isaid[tuned]:.1f} %. Most of these were read from a figure.\n"
    f"- Nor does size alone help: on photographs of ADE20K TIPSv2 has {sizes_of.min():.1f} to {sizes_of.max():.1f} %, the most with "
    f"{sizes_of.idxmax()}, and {sizes_of['ViT-g/14']:.1f} % with the largest, {'ViT-g/14'}.\n"
    f"- Without training of the model SegEarth-OV reports gains of {told} over the best before it. As "
    f"SkySense-O prints iSAID, it has {others['SegEarth-OV, ViT-B/16']:.1f} % there and SkySense-O, which is trained, {others['SkySense-O']:.1f} %."
)

# %% [markdown]
# ## On real masks
#
# VHR-10 has outlines of ten kinds of things in aerial pictures. What is shown below them are all stored runs of `rsvlm evaluate localize`; where the
# pictures are on disk there are some of them with their masks, and with maps of `model` if it is given, a folder of a model that has
# read captions of such pictures. The chapter's own model knows sea and land from space alone. Runs on RSICD are of the two models of
# [](12_rsicd), the second of which has `standard` in its name; wording, scales and temperature were chosen with the first.

# %%
home = Path(data or os.environ.get("RSVLM_DATA") or stages.root().parent / "shared" / "data")
vhr = next((path for path in (home, home / "vhr10") if (path / "instances.json").is_file()), None)
real_items = list(true_masks.read(vhr, "coco", limit=4)) if vhr else []
reader = rsvlm.load(model, device=target).eval() if model else None

# %%
tiles, over, answers = [], [], []
for item in real_items:
    picture, name = images.decode(item.image), max(item.masks, key=lambda kind: item.masks[kind].sum(), default="")
    mask, said = item.masks.get(name, np.zeros(picture.shape[:2], bool)), f"{item.key}: {name or 'nothing'}"
    tiles.append({"image": galleries.mask_image(picture, mask, mask), "alt": f"{said}, mask", "caption": f"{said}, mask"})
    if reader and name:
        over.append({"image": picture, "name": said, "alt": f"Aerial picture {said}"})
        answers.append(heat.maps(reader, picture, [f"a photo of a {name}"], size="patches")[None])
absent = "VHR-10 is not on disk: `-p data=FOLDER` names the folder that holds `instances.json`."
galleries.gallery(tiles, 200) if tiles else Markdown(absent)

# %% tags=["hide-input"]
attention.explore(over, answers, "") if over else Markdown("")

# %% tags=["hide-input"]
stored = list((stages.root() / "results" / "localize").glob("*/metrics.json"))
real = results.table("localize") if stored else pd.DataFrame(columns=["run", *results.ROW])
real = real[(real["dataset"] != earth.NAME) & real["metric"].isin(["pointing", "miou", "energy", "presence_auc"])]
real = real.assign(shown=[f"{r.value:.1f} ({r.ci_low:.1f} to {r.ci_high:.1f})" for r in real.itertuples()])
alone = real[~real["protocol"].str.contains(" - ")]


def wide(metric):
    by_method = alone[alone["metric"] == metric].pivot(index=["dataset", "run"], columns="protocol", values="shown")
    return by_method.reindex(columns=["raw", "smooth", "random", "centre", "brightness"]).style.format(na_rep="")


wide("pointing") if len(real) else Markdown("No run on real masks is stored in `results/localize` yet.")

# %% [markdown]
# These were pointing games, in percent of the pairs of picture and class; and this is mean IoU. Differences with their intervals, energy
# inside the mask and presence are on the page {doc}`../generated/results`.

# %%
wide("miou") if len(real) else Markdown("")

# %% tags=["hide-input"]
sets = {
    "VHR-10": ("vhr10-rsicd{}-without-chosen-on", "all without chosen-on"),
    "buildings": ("buildings-rsicd{}", "all, half b"),
}
by_run = real.set_index(["run", "split", "protocol", "metric"])["shown"]
said = (
    "{}, {} model: raw patches point right at {} % and have a mean IoU of {} %; smoothing changes these by {} and {} points."
)
lines = []
for (place, (run, part)), (which, ending) in itertools.product(sets.items(), [("first", ""), ("second", "-standard")]):
    asked = itertools.product(("raw", "smooth - raw"), ("pointing", "miou"))
    told = [by_run.get((run.format(ending), part, *pair)) for pair in asked]
    lines += ["- " + said.format(place, which, *told)] if all(told) else []
Markdown("\n".join(lines))

# %% [markdown]
# ## What we found

# %% tags=["hide-input"]
origin = provenance.provenance(
    options, benchmarks.fingerprint(chips), target, started, "rsvlm run notebooks/13_attention.ipynb"
)
keep = rows + apart + [row for row in own if "noise 0" not in row["protocol"]]
keep += [gain[f"smooth, 3 - raw, noise {level}"] for level in levels[1:]]
saved = results.save_result("localize", run_name or f"{profile}-seed{seed}", options, keep, origin)
Markdown(
    f"- Captions alone teach where the sea is: {miou['raw']['value']:.0f} % mean IoU by single patches, "
    f"{miou['random']['value']:.0f} % at random, {miou['brightness']['value']:.0f} % by brightness, {miou['pooling weights']['value']:.0f} % by the pooling's weights, which know no text.\n"
    f"- The Smooth-Attention-Operation with a window of three changes that by {signed('smooth, 3 - raw')}. It loses most "
    f"in patches of the kind “{worst}” ({lost.min():+.1f} points of them are right); inside the change is {lost.iloc[0]:+.1f}.\n"
    f"- Against a plain blur of the answers with the same window: {signed('smooth, 3 - box, 3')}.\n"
    f"- With noise of {levels[-1]} grey levels: {signed(f'smooth, 3 - raw, noise {levels[-1]}')} against raw patches."
)

# %% [markdown]
# ### Three edits to try
#
# - `scale=2` in the maps: pictures enlarged first, so that a window covers less ground.
# - `toy`: let the noise be the same everywhere. What are the scores worth then?
# - Several windows at once, `window=[1, 3]`, whose answers are averaged.

# %% tags=["hide-input"]
tables.provenance(origin)
