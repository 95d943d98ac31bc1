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
# # What does Recall@k mean?
#
# **One model on one test split gets a different score under each of the five protocols that papers use without naming them; ties, captions
# per image and the size of the gallery move it further, so only numbers that share all of these can be compared.**
#
# Cost: seconds, once the model of [](02_training) is trained. With RSICD on disk (`-p data=FOLDER`), its captions are counted as well.

# %% tags=["parameters", "after:02_training"]
profile = "laptop"
seed = 0
device = "auto"
recompute = False
run_name = ""
overrides = ""
data = ""

# %% tags=["hide-input"]
import os
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import Markdown

# %% tags=["hide-input"]
from rsvlm import config
from rsvlm.book.figures import charts, galleries, scale, tables
from rsvlm.data import benchmarks, catalogue
from rsvlm.data.demo import earth, recipe
from rsvlm.evaluation import embeddings, reading, retrieval, shared_ground
from rsvlm.model import images
from rsvlm.model.device import resolve_device
from rsvlm.model.others import opening as encoders
from rsvlm.records import results, stages
from rsvlm.records.provenance import provenance
from rsvlm.training import train

# %% tags=["hide-input"]
started = time.time()
options = config.load(profile, {"seed": seed, "device": device} | config.pairs(overrides))
chips = earth.load_or_build(options)
run = train.load_or_train(*recipe.prepare(options))

# %% [markdown]
# ## By hand: four images, eight captions
#
# A model gives every pair of image and caption a score. The rank of a query is the place of its best right answer when everything is
# sorted by score; R@k is the share of queries with a rank of at most k. Two images carry the same words here, “tan land”, as happens in
# every remote-sensing caption set: a score cannot tell those two captions apart.

# %%
captions = ["a lake", "green land", "tan land", "sea to the west", "tan land", "white land", "many islands", "a wide bay"]
owner = np.repeat(np.arange(4), 2)
scores = np.array(
    [
        [0.81, 0.35, 0.22, 0.30, 0.22, 0.10, 0.41, 0.38],
        [0.25, 0.18, 0.66, 0.58, 0.66, 0.31, 0.20, 0.45],
        [0.12, 0.21, 0.74, 0.15, 0.74, 0.52, 0.08, 0.11],
        [0.33, 0.27, 0.14, 0.64, 0.14, 0.19, 0.60, 0.49],
    ]
)
right = owner == np.arange(4)[:, None]

# %% [markdown]
# Counted with the pessimistic rule, which this book uses everywhere: whatever scores as high as the right answer comes before it.

# %%
best_caption = np.where(right, scores, -1).max(1, keepdims=True)  # of each image
image_ranks = (scores >= best_caption).sum(1)
own_score = np.where(right, scores, -1).max(0)  # of each caption
caption_ranks = (scores >= own_score).sum(0)
charts.picture(
    charts.score_matrix(scores, right, (["image A", "image B", "image C", "image D"], captions), (image_ranks, caption_ranks)),
    "Matrix of the scores of four images and eight captions; right pairs are framed, and each row and column has its rank.",
)

# %% tags=["hide-input"]
library = retrieval.ranks(np.eye(4, dtype=np.float32), scores.T.astype(np.float32), owner)
agree = np.array_equal(library[0], image_ranks) and np.array_equal(library[1], caption_ranks)
Markdown(
    f"Image → text: {np.sum(image_ranks == 1)} of 4 images have a right caption in first place, so R@1 is "
    f"{100 * np.mean(image_ranks == 1):.0f} %. Text → image: {np.sum(caption_ranks == 1)} of 8 captions find their image first, "
    f"R@1 is {100 * np.mean(caption_ranks == 1):.1f} %. `retrieval.ranks` counts {'the same' if agree else 'something else'}. Images B and "
    f"C have rank {image_ranks[1]} and {image_ranks[2]}, because the other's “tan land” has the same score as their own."
)

# %% [markdown]
# ## Counted before the eyes
#
# Four searches of the model of [](02_training) among its test chips, each by the first caption of a chip: the right one comes first, among the first
# five, among the first ten, or later, each with a middling rank of its kind. Only the rank counts: an answer that shows the same ground from a little further east (dashed) is as wrong
# as one from another continent.

# %% tags=["hide-input"]
found = embeddings.read(embeddings.load_or_embed(run / "model", chips, "test", recompute=recompute, device=device))
encoder = encoders.open_encoder(str(run / "model"), device=device)
by_key = {sample.key: sample for sample in benchmarks.samples(chips, "test")}
test = [by_key[key] for key in found.keys]
firsts = np.sort(np.unique(found.image_of_caption, return_index=True)[1])
asked, asking = [found.captions[i] for i in firsts], found.caption_embeddings[firsts]
chip_ranks = retrieval.ranks(found.image_embeddings, asking, np.arange(len(test)))[1]
cosines, best = embeddings.search(asking, found.image_embeddings, k=5)
reached = [(chip_ranks >= low) & (chip_ranks <= high) for low, high in ((1, 1), (2, 5), (6, 10), (11, len(test)))]
drawn = [np.flatnonzero(of)[chip_ranks[of].argsort()[of.sum() // 2]] for of in reached if of.any()]
words = reading.importance(found.image_embeddings, [asked[q] for q in drawn], drawn, encoder.texts)


# %% tags=["hide-input", "full-width"]
def chip(i, q, cosine):
    record, overlap = test[i].record, shared_ground.overlap(test[q].record, test[i].record)
    shown = {"image": images.decode(test[i].image), "alt": scale.described(record), "ground": record, "score": cosine}
    return shown | {"right": i == q, "overlaps": overlap > 0, "rank": chip_ranks[q]}


def strip(q, word):
    counts = [f"R@{k}" for k in (1, 5, 10) if chip_ranks[q] <= k]
    told = {"query": asked[q], "spans": word.spans, "changes": word.changes, "kind": f"rank {chip_ranks[q]}"}
    told |= {"reason": f"counts for {', '.join(counts) or 'none of R@1, R@5 and R@10'}."}
    return told | {"images": [chip(i, q, s) for i, s in zip(best[q], cosines[q])], "right_one": chip(q, q, word.cosine)}


galleries.text_to_image(list(map(strip, drawn, words)))

# %% [markdown]
# ## The same vectors under five protocols
#
# The model of [](02_training), its test chips, all captions of each. The five protocols found in public code:

# %%
pd.DataFrame(retrieval.PROTOCOLS.items(), columns=["protocol", "rule"]).style.hide(axis="index")

# %% [markdown]
# `plain` is what the public package clip_benchmark computes: an image has found its text if any of its captions is among the first k, a
# caption if its one image is. A test runs that package's own evaluator on a model of ours, with one to seven captions per image: the
# same recalls, to 1e-6. It breaks ties in whatever order the sorting gives them; what that is worth is measured below.
#
# A protocol decides two things: which strings the text tower reads, and what counts. First the counting alone, from the very same vectors;
# then with the words as the protocol changes them, each distinct string embedded once.

# %%
strings = {name: retrieval.caption_text(name, found.captions) for name in retrieval.PROTOCOLS}
vectors = embeddings.caption_variants(encoder, found.captions, strings)
common = {"captions": found.captions, "dataset": earth.NAME, "seed": seed}
common |= {"bootstrap_samples": options.evaluate.bootstrap_samples}
pair = found.image_embeddings, found.image_of_caption


def score(protocol, caption_embeddings, split):
    return retrieval.evaluate(pair[0], caption_embeddings, pair[1], protocol=protocol, split=split, **common)


counted = [row for name in retrieval.PROTOCOLS for row in score(name, found.caption_embeddings, "test, words as they are")]
worded = [row for name in retrieval.PROTOCOLS for row in score(name, vectors[name], "test")]

# %%
METRICS = {("both", "mR"): "mean recall", ("i2t", "R@5"): "image → text R@5", ("t2i", "R@5"): "text → image R@5"}


def dots(rows, series):
    wanted = [row | {"panel": METRICS.get((row["direction"], row["metric"]))} for row in rows]
    return [row | {"label": row["protocol"], "series": series} for row in wanted if row["panel"]]


charts.picture(
    charts.interval_dots(dots(counted, "the same vectors") + dots(worded, "with the protocol's words"), "percent"),
    "Mean recall and R@5 both ways under five protocols: dots with intervals that differ between the protocols.",
)

# %%
table = pd.DataFrame(worded)
table["measure"] = table["direction"] + " " + table["metric"]
chosen = ["i2t R@1", "i2t R@5", "i2t R@10", "t2i R@1", "t2i R@5", "t2i R@10", "both mR"]
wide = table.pivot(index="protocol", columns="measure", values="value").loc[list(retrieval.PROTOCOLS), chosen]
queries = table[table["metric"] == "R@1"].pivot(index="protocol", columns="direction", values="n")
wide.join(queries.rename(columns={"i2t": "image queries", "t2i": "text queries"})).style.format(precision=1)

# %% tags=["hide-input"]
by_words, by_count = wide["both mR"], pd.Series({r["protocol"]: r["value"] for r in counted if r["metric"] == "mR"})
width = next(row["ci_high"] - row["ci_low"] for row in worded if row["protocol"] == "plain" and row["metric"] == "mR")
Markdown(
    f"Mean recall goes from {by_words.min():.1f} % ({by_words.idxmin()}) to {by_words.max():.1f} % ({by_words.idxmax()}): "
    f"{np.ptp(by_words):.1f} points between protocols, where the 95 % interval of the data is {width:.1f} points wide. Counting alone moves "
    f"it by {np.ptp(by_count):.1f} points."
)

# %% [markdown]
# ## Ties: three rules
#
# Equal captions have equal vectors, so their scores tie exactly. Beside the trained model stands one that has learned nothing at all: every
# image and every caption gets the same vector.

# %%
same = np.ones_like(found.image_embeddings), np.ones_like(found.caption_embeddings)
same = [array / np.sqrt(array.shape[1]) for array in same]
systems = {"trained model": (found.image_embeddings, found.caption_embeddings), "one vector for everything": same}
tied = []
for name, (image_embeddings, caption_embeddings) in systems.items():
    for ties in ("pessimistic", "average", "optimistic"):
        rows = retrieval.evaluate(image_embeddings, caption_embeddings, found.image_of_caption, ties=ties, **common)
        named = [
            row | {"label": ties, "panel": name, "series": METRICS.get((row["direction"], row["metric"]))} for row in rows
        ]
        tied += [row for row in named if row["series"]]
charts.picture(
    charts.interval_dots(tied, "percent"),
    "Recall under three rules for ties: close together for the trained model, from 0 to 100 percent for the constant one.",
)

# %% tags=["hide-input"]
mean_of = {(row["panel"], row["label"]): row["value"] for row in tied if row["metric"] == "mR"}
repeated = Counter(found.captions)
share = 100 * sum(n for n in repeated.values() if n > 1) / len(found.captions)
trained_rules, constant_rules = ([mean_of[name, rule] for rule in ("pessimistic", "optimistic")] for name in systems)
Markdown(
    f"{share:.0f} % of the {len(found.captions)} captions are also those of another chip ({len(repeated)} are different). For the trained "
    f"model the rule is worth {trained_rules[1] - trained_rules[0]:.2f} points of mean recall. A model that answers nothing gets "
    f"{constant_rules[0]:.0f} % by the pessimistic rule and {constant_rules[1]:.0f} % by the optimistic one: code that sorts with "
    "a stable sort and happens to list right answers first measures the second."
)

# %% [markdown]
# ## More captions per image
#
# With more captions an image has more chances to find one of its own, but there are as many more of the others; and the first caption here is
# the fullest, so each further one is a harder query. The same vectors, cut to the first captions of each chip:

# %%
place = np.arange(len(found.captions)) - np.searchsorted(found.image_of_caption, found.image_of_caption)
per_image = []
for count in range(1, place.max() + 2):
    part = np.flatnonzero(place < count)
    ranks = retrieval.ranks(found.image_embeddings, found.caption_embeddings[part], found.image_of_caption[part])
    for way, reached in zip(("image → text", "text → image"), ranks):
        per_image.append({"label": f"{count}", "series": way, "value": 100 * np.mean((reached >= 1) & (reached <= 5))})
charts.picture(
    charts.interval_dots(per_image, "R@5, percent (rows: captions per image)"),
    "R@5 both ways for one to all captions per image.",
)

# %% tags=["hide-input"]
ways = pd.DataFrame(per_image).pivot(index="label", columns="series", values="value")
first, last = ways.iloc[0], ways.iloc[-1]
Markdown(
    f"From one caption to {len(ways)}, image → text goes from {first['image → text']:.1f} % to {last['image → text']:.1f} %, text → image "
    f"from {first['text → image']:.1f} % to {last['text → image']:.1f} %."
)

# %% [markdown]
# ## A larger gallery
#
# The same model on random parts of the test split, each chip with all its captions: ten draws of each size, and the band that holds them.


# %%
def recall_within(part):
    kept = np.isin(found.image_of_caption, part)
    place = np.searchsorted(part, found.image_of_caption[kept])
    return 100 * np.mean(retrieval.ranks(found.image_embeddings[part], found.caption_embeddings[kept], place)[1] <= 5)


rng, N = np.random.default_rng(seed), len(found.keys)
sizes = np.unique(np.geomspace(min(20, N), N, 8).astype(int))
drawn = {n: [recall_within(np.sort(rng.choice(N, n, replace=False))) for _ in range(1 if n == N else 10)] for n in sizes}
curve = pd.DataFrame([{"x": n, "value": np.mean(v), "ci_low": min(v), "ci_high": max(v)} for n, v in drawn.items()])
guess = pd.DataFrame({"x": sizes, "value": 100 * np.minimum(5 / sizes, 1)})
charts.picture(
    charts.curves_with_bands({"the trained model": curve}, "images in the gallery", "text → image R@5, percent", guess),
    "R@5 falls as the gallery grows, and guessing falls faster.",
)

# %% tags=["hide-input"]
small, large = curve.iloc[0], curve.iloc[-1]
Markdown(
    f"Among {small['x']:.0f} chips R@5 is {small['value']:.0f} %, among {large['x']:.0f} it is {large['value']:.1f} %: the same model. "
    f"Against guessing it is {small['value'] / guess['value'].iloc[0]:.1f} and {large['value'] / guess['value'].iloc[-1]:.1f} times as good. "
    "A test split of 210 images and one of 1,093 give numbers of different size, whatever the model."
)

# %% [markdown]
# ## Which published numbers may be compared?
#
# Mean recalls as others published them, by protocol. Only what stands in one column of this table, the same protocol, direction, data
# set and split, is one quantity; a figure whose protocol is not stated can stand beside no other.

# %%
published = results.published().assign(system=results.systems)
shown = published[published["task"] == "retrieval"]
quantity = ["protocol", "direction", "metric", "dataset", "split"]
means = shown[shown["metric"] == "mR"]
means.pivot(index="system", columns=quantity, values="value").style.format(precision=1, na_rep="")

# %% tags=["hide-input"]
cells = shown.groupby(quantity).size()
stated = cells.drop("unstated", level="protocol", errors="ignore")
pairs, comparable = len(shown) * (len(shown) - 1) // 2, int((stated * (stated - 1) // 2).sum())
Markdown(
    f"{len(shown)} retrieval figures fall into {len(cells)} columns: of {pairs} pairs of figures {comparable} are of one "
    f"quantity ({100 * comparable / pairs:.0f} %). Figures without a stated protocol: {int(cells.sum() - stated.sum())}."
)

# %% [markdown]
# ## One average over eight sets, and one over seven
#
# Zero-shot classification is often told as one number, the mean accuracy over SkyScript's own set and seven others. SkyScript's authors leave
# their own out. DOFA-CLIP's table has its own rows over eight sets and most rivals' over seven in one column. Both averages of every system whose
# single figures are printed, beside what is printed as its average:

# %%
EIGHT, SEVEN = (f"mean of {number} SkyScript sets" for number in (8, 7))
sets = published[(published["task"] == "classification") & (published["protocol"] == "skyscript")]
single = sets.pivot(index="system", columns="dataset", values="value")
printed = single[[EIGHT, SEVEN]].rename(columns={EIGHT: "printed, over eight", SEVEN: "printed, over seven"})
single = single.drop(columns=[EIGHT, SEVEN]).dropna()
averages = pd.DataFrame({"over eight": single.mean(axis=1), "over seven": single.drop(columns="SkyScript").mean(axis=1)})
averages = averages.join(printed).sort_values("over eight", ascending=False)
averages.style.format(precision=2, na_rep="")

# %% tags=["hide-input"]
first, second = "DOFA-CLIP, SigLIP So400M/14-384", "SkyCLIP-50, ViT-L/14"
as_printed = averages.loc[first, "printed, over eight"] - averages.loc[second, "printed, over seven"]
lead = averages.loc[first] - averages.loc[second]
sizes = catalogue.populations()
part, whole = (sizes["EuroSAT", split]["images"] for split in ("skyscript-test", "all"))
same = published[(published["system"] == "GeoRSCLIP, ViT-B/32") & (published["dataset"] == "EuroSAT")]
one = same.set_index("split")["value"]
Markdown(
    f"As printed, {first} leads {second} by {as_printed:.1f} points; over eight sets of both it is {lead['over eight']:.1f}, over seven "
    f"{lead['over seven']:.1f}. Nor is a set what its name says: SkyScript's EuroSAT is {part:,} of {whole:,} images, and one checkpoint, "
    f"GeoRSCLIP ViT-B/32, has {one['skyscript-test']:.1f} % there and {one['all']:.1f} % on all of them, under other sentences around other "
    "class words. Here such a part is a split of its own, and a figure stands beside ours only if the pictures, the sentences and the words "
    "are the same."
)

# %% [markdown]
# ## RSICD's captions
#
# RSICD's authors filled up to five captions per image by repeating those they had. What the protocols make of its validation split:

# %%
home = Path(data or os.environ.get("RSVLM_DATA") or stages.root().parent / "shared" / "data")
folder = next((path for path in (home, home / "rsicd") if (path / "dataset_rsicd.json").is_file()), None)
samples = list(benchmarks.samples(folder, "val")) if folder else []
texts = [sample.captions for sample in samples]
within = sum(len(own) - len(set(own)) for own in texts)
pooled = Counter(text for own in texts for text in set(own))

# %%
facts = {
    "images": len(texts),
    "captions": sum(map(len, texts)),
    "repeated within their image": within,
    "different strings": len(pooled),
    "strings that several images carry": sum(n > 1 for n in pooled.values()),
    "images that share a caption with another": sum(any(pooled[text] > 1 for text in own) for own in texts),
}
pd.Series(facts, name="RSICD val").to_frame().style if texts else Markdown(
    "RSICD is not on disk: `-p data=FOLDER` names the folder that holds `dataset_rsicd.json` and `RSICD_images/`."
)

# %% tags=["hide-input"]
one = {
    "plain, remoteclip, rs5m": facts["captions"],
    "skyscript": len(set(retrieval.caption_text("skyscript", list(pooled)))) if texts else 0,
    "one-to-one": facts["images"],
}
Markdown(
    f"Of {facts['captions']:,} captions {within:,} ({100 * within / facts['captions']:.0f} %) repeat another of the same image. The text → image "
    f"queries are therefore {', '.join(f'{n:,} under {name}' for name, n in one.items())}: three different averages, all called R@k."
    if texts
    else ""
)

# %% tags=["hide-input"]
origin = provenance(
    options,
    benchmarks.fingerprint(chips),
    str(resolve_device(device)),
    started,
    "rsvlm run notebooks/07_recall_at_k.ipynb",
)
saved = results.save_result("recall-at-k", run_name or f"{profile}-seed{seed}", options, counted + worded, origin)

# %% [markdown]
# ## What we found

# %% tags=["hide-input"]
Markdown(
    f"- The five protocols give one model mean recalls from {by_words.min():.1f} % to {by_words.max():.1f} %.\n"
    f"- The rule for ties is worth {trained_rules[1] - trained_rules[0]:.2f} points here and everything for a model that has collapsed; the "
    "default here is the pessimistic one.\n"
    f"- From {small['x']:.0f} to {large['x']:.0f} images in the gallery R@5 falls by {small['value'] - large['value']:.0f} points.\n"
    f"- Of the published retrieval figures only {100 * comparable / pairs:.0f} % of the pairs may be compared.\n"
    f"- A lead of {as_printed:.1f} points between two printed averages of classification is one of {lead['over seven']:.1f} over the same seven "
    f"sets, and of {lead['over eight']:.1f} over the same eight."
)

# %% [markdown]
# ### Three edits to try
#
# - Change a score of the example so that image D loses first place. Which ranks of captions change with it?
# - `-p overrides="landmarks.captions_per_chip=2"`: fewer captions, another model. Which protocol moves most?
# - Give the constant model a little noise: `same[0] + 1e-6 * rng.standard_normal(same[0].shape)`. What is left of the difference?

# %% tags=["hide-input"]
tables.provenance(origin)
