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
# # Leakage: test images in the training set
#
# **Copies of test images are found in a training set however they were turned, mirrored or saved anew, though not when they were cropped;
# what a share of leaked test pairs does to a score is measured with the overlap, without it, and without as many others. What RSICD's own
# splits share is sentences, not pictures.**
#
# Cost: about two minutes on two CPU cores the first time, once the model of chapter 2 is trained. With RSICD on disk (`-p data=FOLDER`) its own
# splits are compared as well, which takes half a minute more.

# %% tags=["parameters", "after:02_training"]
profile = "laptop"
seed = 0
device = "auto"
recompute = False
run_name = ""
overrides = ""
data = ""

# %% tags=["hide-input"]
import io
import itertools
import json
import os
import time
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import Markdown
from PIL import Image

from rsvlm import config
from rsvlm.book.figures import amounts, charts, galleries, tables

# %% tags=["hide-input"]
from rsvlm.data import benchmarks, duplicates, pairs, shards
from rsvlm.data.demo import earth, recipe
from rsvlm.evaluation import embeddings, leakage, retrieval, statistics
from rsvlm.model import images
from rsvlm.model.device import resolve_device

# %% tags=["hide-input"]
from rsvlm.records.files import write_atomic
from rsvlm.records.provenance import provenance
from rsvlm.records.results import ROW, save_result
from rsvlm.records.stages import root, source_hash, stage
from rsvlm.training import train

# %% tags=["hide-input"]
started = time.time()
options = config.load(profile, {"seed": seed, "device": device} | config.pairs(overrides))
chips = earth.load_or_build(options)
run = train.load_or_train(*recipe.prepare(options))

# %% [markdown]
# ## A training set with test images in it
#
# Test chips are copied into a training set, each in one way: as the file that it is, saved as JPEG, turned, mirrored, made smaller,
# brighter, cropped; or only their captions, over another picture.


# %%
def jpeg(array, quality=75):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def cropped(array, share):
    edge = round(share * len(array))
    return images.resize(array[edge:-edge, edge:-edge], *array.shape[:2])


# %%
PICTURES = {
    "the same file": None,
    "saved as PNG anew": lambda a: a,
    "saved as JPEG": jpeg,
    "turned a quarter": lambda a: np.rot90(a),
    "mirrored, as JPEG": lambda a: jpeg(a[:, ::-1]),
    "half as large": lambda a: images.resize(a, len(a) // 2, len(a) // 2),
    "brighter": lambda a: np.clip(1.2 * a + 10.0, 0, 255).astype(np.uint8),
    "2 % cropped": lambda a: cropped(a, 0.02),
    "10 % cropped": lambda a: cropped(a, 0.1),
}


# %%
def reword(text, rng):
    words = text.split()
    words[rng.integers(len(words))] = "somewhere"
    return " ".join(words)


TEXTS = {
    "captions copied": lambda texts, rng: texts,
    "captions with a word changed": lambda texts, rng: [reword(text, rng) for text in texts],
}
KINDS = [*PICTURES, *TEXTS]


# %%
def encoded(sample, change):
    made = sample.image if change is None else change(images.decode(sample.image))
    if isinstance(made, bytes):
        return made, "jpg" if change else "png"
    return images.encode_png(np.ascontiguousarray(made)), "png"


# %% [markdown]
# Copies of pictures bring their captions along, in another order: that is how benchmarks leak into each other.


# %%
def plant(kind, number, test, other, rng):
    picture = test if kind in PICTURES else other
    texts = TEXTS[kind](test.captions, rng) if kind in TEXTS else [*test.captions[1:], test.captions[0]]
    record = {"key": f"copy-{number:04d}", "kind": kind, "of": test.key, "captions": texts}
    return record, *encoded(picture, PICTURES.get(kind))


# %%
def make(folder):
    rng = np.random.default_rng(seed)
    test, clean = (list(shards.stream(chips, split)) for split in ("test", "train"))
    drawn, others = (rng.permutation(len(split))[: each * len(KINDS)] for split in (test, clean))
    planned = enumerate(zip(drawn, others))
    copies = [plant(KINDS[n % len(KINDS)], n, test[i], clean[j], rng) for n, (i, j) in planned]
    write_atomic(folder / "shards" / "train" / "000000.tar", shards.pack(copies, [])[1])


# %%
each = {"smoke": 4}.get(profile, 20)
parts = {
    "chips": benchmarks.fingerprint(chips),
    "seed": seed,
    "each": each,
    "kinds": KINDS,
    "code": source_hash("data/*"),
}
planted = stage("planted", parts, make, recompute) / "shards"
copies = pd.DataFrame([sample.record for sample in shards.stream(planted, "train")])
charts.picture(amounts.count_bars(copies["kind"].value_counts().to_dict(), "planted copies"), "Bars of copies of each kind.")

# %% [markdown]
# ## Are they found?
#
# `leakage.find` compares training sets with a benchmark; the same from the command line is `rsvlm evaluate leakage`. A copy of a picture
# should be found by its picture, a copied caption by its words. The whole training set of chapter 2 is searched too: it lies on other
# ground than the test chips, so whatever is found in it is a false alarm.

# %%
LIMITS = range(0, 17, 2)


def bare(folder, split):
    return pd.concat(leakage.tables(folder, split), ignore_index=True)


def search(out):
    leakage.write_list(leakage.find(planted, chips, split="test"), out / "copies.csv")
    test, clean, copied = bare(chips, "test"), bare(chips, "train"), bare(planted, "train")
    leakage.write_list(leakage.pairs(clean, test), out / "clean.csv")
    for limit, (name, table) in itertools.product(LIMITS, {"clean": clean, "copies": copied}.items()):
        near = leakage.pairs(table.assign(text=""), test.assign(text=""), limit)
        leakage.write_list(near, out / f"{name}-{limit}.csv")


# %%
code = source_hash("evaluation", "data/*", "model/images")
lists = stage("overlap", parts | {"planted": benchmarks.fingerprint(planted), "code": code}, search, recompute)
copied, clean = (leakage.read_list(lists / f"{name}.csv") for name in ("copies", "clean"))
hits = copied.merge(copies, left_on=["train_key", "benchmark_key"], right_on=["key", "of"])
fitting = hits["kind"].isin(PICTURES) == hits["reason"].isin(leakage.PICTURES)
first = hits[fitting].drop_duplicates("train_key").set_index("train_key")["reason"]
copies["found by"] = copies["key"].map(first).fillna("not found")
order = [*leakage.PICTURES, *leakage.TEXTS, "not found"]
matrix = pd.crosstab(copies["kind"], copies["found by"]).reindex(index=KINDS, columns=order, fill_value=0)
charts.picture(
    amounts.share_matrix(matrix, "found by", "kind of copy"),
    "Matrix of kinds of copies against what found them, in percent of each row.",
)

# %% tags=["hide-input"]
lost = matrix["not found"] / matrix.sum(axis=1)
told = ", ".join(f"{kind} ({100 * share:.0f} % not found)" for kind, share in lost[lost > 0].items())
Markdown(
    f"{int(matrix.drop(columns='not found').to_numpy().sum())} of {len(copies)} copies are found. All are of: "
    f"{', '.join(kind for kind in KINDS if lost[kind] == 0)}. {f'Lost, wholly or in part: {told}.' if told else 'No kind is lost.'}"
)

# %% [markdown]
# How they are found, side by side: the copy in the training set, and the test picture that it is of.

# %%
items = leakage.look(copied, planted, chips, split="test", count=12, seed=seed)
cells = []
for item in items:
    note = f"{item['reason']}, {item['distance']:.2g}, turn {item['turn']}"
    for side in ("train", "benchmark"):
        cell = {"image": item[f"{side}_image"], "alt": f"{side} picture {item[f'{side}_key']}", "badge": side}
        cells.append(cell | {"caption": f"{note}: {item[f'{side}_captions'][0][:60]}…"})
galleries.gallery(cells, thumbnail_px=130)

# %% [markdown]
# ## And what is found that is no copy?
#
# Short captions are equal by chance, which is why captions alone do not count as an overlap unless asked for.

# %%
alarms = clean.drop_duplicates(["train_key", "reason"])["reason"].value_counts()
table = pd.DataFrame({"copies found": copies["found by"].value_counts(), "false alarms": alarms}).reindex(order[:-1])
table = table.fillna(0).astype(int)
table["precision, %"] = 100 * table["copies found"] / table.sum(axis=1)
table.style.format(precision=1, na_rep="")

# %% [markdown]
# How near is near? Two pictures are near when at most 6 of the 64 bits of their hashes differ, under the best of eight turns. The same search
# with other limits:

# %%
lines = []
is_picture = copies["kind"].isin(PICTURES)
for limit in LIMITS:
    near, alarm = (leakage.read_list(lists / f"{name}-{limit}.csv") for name in ("copies", "clean"))
    right = near.merge(copies[is_picture], left_on=["train_key", "benchmark_key"], right_on=["key", "of"])
    found = 100 * right["train_key"].nunique() / is_picture.sum()
    lines.append({"bits": limit, "copies found, %": found, "false alarms": alarm["train_key"].nunique()})
limits = pd.DataFrame(lines).set_index("bits")
limits.T.style.format(precision=0)

# %% tags=["hide-input"]
texts = table.loc[list(leakage.TEXTS), "false alarms"].sum()
searched = sum(1 for _ in shards.stream(chips, "train"))
Markdown(
    f"Among {searched:,} training chips {table.loc[list(leakage.PICTURES), 'false alarms'].sum()} are taken for copies by their picture and {texts} "
    f"by a caption. At 6 bits {limits.loc[6, 'copies found, %']:.0f} % of the copied pictures are found, at 0 bits "
    f"{limits.loc[0, 'copies found, %']:.0f} %, at 16 bits {limits.loc[16, 'copies found, %']:.0f} % with "
    f"{limits.loc[16, 'false alarms']:.0f} false alarms."
)

# %% [markdown]
# ## The list
#
# What others can use: a plain file with keys, reasons and turns, without pictures or captions.

# %%
copied.groupby("reason").head(2).style.hide(axis="index").format(precision=2)

# %% [markdown]
# ## What does it do to the scores?
#
# The model of chapter 2 goes on for a few steps, on equally many pairs each time and with the same settings: once all of them are from
# the training split, once a tenth of all test pairs is among them, once two fifths. Further training alone changes scores too, so the
# model that saw no test pair is what the others are compared with.

# %%
SHARES = {"none": 0.0, "a tenth": 0.1, "two fifths": 0.4}  # of the test pairs


def leak(folder):
    test, clean = (list(shards.stream(chips, split)) for split in ("test", "train"))
    rng = np.random.default_rng([seed, 1])
    drawn, others = rng.permutation(len(test)), rng.permutation(len(clean))
    for name, share in SHARES.items():
        count, total = (round(part * len(test)) for part in (share, max(SHARES.values())))
        taken = [test[i] for i in drawn[:count]] + [clean[i] for i in others[: total - count]]
        records = [({"key": f"pair-{n:05d}", "captions": list(p.captions)}, p.image) for n, p in enumerate(taken)]
        pairs.write(folder / name, name, {"train": records})


# %%
code_of_pairs = source_hash("data/*")
known = {"chips": benchmarks.fingerprint(chips), "seed": seed, "shares": SHARES, "code": code_of_pairs}
leaks = stage("leaks", known, leak, recompute)
steps, batch = {"smoke": (4, 16)}.get(profile, (16, 64))
more = {"train.start": str(run / "model"), "train.learning_rate": 1e-3, "train.warmup_steps": 2, "train.batch_size": batch}
more |= {"train.stages": [{"steps": steps, "data": {"pairs": 1}}], "train.checkpoint_every": steps, "train.caption_weight": 0}
going_on = config.load(profile, {"seed": seed, "device": device} | config.pairs(overrides) | more)

# %%
vectors, overlaps = {}, {}
for name in SHARES:
    folder = train.load_or_train(going_on, {"pairs": leaks / name}, recompute)
    vectors[name] = embeddings.read(
        embeddings.load_or_embed(folder / "model", chips, "test", recompute=recompute, device=device)
    )
    if SHARES[name]:
        overlaps[name] = leakage.find(leaks / name, chips, split="test")

# %% [markdown]
# Each is scored on the whole test split; without the pictures that `leakage.find` finds in its training pairs; and, because a smaller
# gallery is an easier one, without as many others. So is the model without test pairs, on the same pictures.

# %%
about = {"dataset": earth.NAME, "bootstrap_samples": options.evaluate.bootstrap_samples, "seed": seed}
rows = []
for share in list(SHARES)[1:]:
    for name in ("none", share):
        scored = leakage.compare(vectors[name], overlaps[share], split="test", **about)
        rows += [row | {"share": share, "series": "no test pair" if name == "none" else "with test pairs"} for row in scored]
shown = [row | {"label": row["split"], "panel": f"{row['share']} leaked"} for row in rows if row["metric"] == "mR"]
charts.picture(
    charts.interval_dots(shown, "mean recall, percent"),
    "Mean recall with and without test pairs in training: on the whole split, without the overlap, and without as many others.",
)

# %% tags=["hide-input"]
mean = {(row["share"], row["split"], row["series"]): row["value"] for row in rows if row["metric"] == "mR"}
gain = {
    (share, split): mean[share, split, "with test pairs"] - value
    for (share, split, name), value in mean.items()
    if name == "no test pair"
}
Markdown(
    " ".join(
        f"With **{share}** of the test pairs in training, mean recall changes by {gain[share, 'test']:+.1f} points on the whole split, against "
        f"the model without, and by {gain.get((share, 'test without overlap'), np.nan):+.1f} on the pictures that were not leaked."
        for share in list(SHARES)[1:]
    )
)

# %% [markdown]
# The same, query by query: text → image R@5 in the whole gallery, of captions whose chip was leaked and of the others, against the model
# without test pairs.

# %%
image = vectors["none"].image_of_caption
times = statistics.resamples(len(vectors["none"].keys), options.evaluate.bootstrap_samples, seed)
ranks = {n: retrieval.ranks(v.image_embeddings, v.caption_embeddings, v.image_of_caption)[1][None] for n, v in vectors.items()}
rise = {}
for share in list(SHARES)[1:]:
    pictures = overlaps[share].loc[overlaps[share]["reason"].isin(leakage.PICTURES), "benchmark_key"]
    leaked = np.isin(np.array(vectors["none"].keys)[image], list(set(pictures)))
    for name, group in (("leaked", leaked), ("not leaked", ~leaked)):
        one, other = (
            statistics.summary(statistics.recall, [ranks[n][:, group]], image[group], 5, times=times) for n in (share, "none")
        )
        rise[share, name] = statistics.difference(one, other)

# %%
dots = [{"label": share, "series": name, **gap} for (share, name), gap in rise.items()]
charts.picture(
    charts.interval_dots(dots, "change of text → image R@5, points"),
    "Change of R@5 of leaked chips and of the others, for two shares of leaked test pairs, with intervals.",
)

# %% tags=["hide-input"]
Markdown(
    " ".join(
        f"With {share} leaked, R@5 of the leaked chips changes by {statistics.in_words(rise[share, 'leaked'])}, of the others by "
        f"{statistics.in_words(rise[share, 'not leaked'])}."
        for share in list(SHARES)[1:]
    )
    + f" With {share} leaked, the leaked chips gain {rise[share, 'leaked']['value'] - rise[share, 'not leaked']['value']:+.1f} points on the others; "
    "a score on the whole split mixes both."
)

# %% [markdown]
# ## RSICD against itself
#
# RSICD is cut from web maps, several times over the same ground. Its training split against its validation split, and the captions of other
# data sets against the same validation split, where they are on disk:

# %%
home = Path(data or os.environ.get("RSVLM_DATA") or root().parent / "shared" / "data")
rsicd = next((path for path in (home, home / "rsicd") if (path / "dataset_rsicd.json").is_file()), None)
caption_files = [
    path for path in (home / "captions" / f"{name}_captions.json" for name in ("rsitmd", "ucm")) if path.is_file()
]


def search_rsicd(out):
    found = [leakage.find(rsicd, rsicd, split="val")]
    found += [leakage.find(path, rsicd, split="val", train_split=leakage.EVERYTHING) for path in caption_files]
    write_atomic(out / "rows.json", json.dumps([row for part in found for row in leakage.rows(part)]))


# %%
rsicd_rows = []
if rsicd and profile != "smoke":
    known = {"data": benchmarks.fingerprint(rsicd), "others": [path.name for path in caption_files], "code": code}
    rsicd_rows = json.loads((stage("overlap-rsicd", known, search_rsicd, recompute) / "rows.json").read_text())
wide = pd.DataFrame(rsicd_rows, columns=ROW).pivot(index="metric", columns="protocol", values="value")
wide.style.format(precision=2, na_rep="") if rsicd_rows else Markdown(
    "Not measured here: this takes RSICD on disk (`-p data=FOLDER`) and the profile `laptop`."
)

# %% [markdown]
# A caption counts above as often as it stands in the validation split. Each different one counted once, and those that most validation
# captions repeat:

# %%
listed = json.loads((rsicd / "dataset_rsicd.json").read_text(encoding="utf-8"))["images"] if rsicd_rows else []
words = {"train": [], "val": [], "test": []}
for picture in listed:
    words[picture["split"]] += [sentence["raw"] for sentence in picture["sentences"]]
normal = {split: duplicates.normalise_text(pd.Series(words[split], dtype=str)) for split in ("train", "val")}
different = normal["val"][normal["val"] != ""].value_counts().rename("in val").rename_axis("caption").to_frame()
different["in train"] = different.index.map(normal["train"].value_counts()).fillna(0).astype(int)
seen = different[different["in train"] > 0]
seen.head(8).reset_index().style.hide(axis="index") if len(seen) else None

# %% tags=["hide-input"]
value = {row["metric"]: row["value"] for row in rsicd_rows if row["protocol"] == "overlap with rsicd"}
once = 100 * len(seen) / max(len(different), 1)
if rsicd_rows:
    rsicd_rows.append(rsicd_rows[0] | {"metric": "captions: same text, each once", "value": once, "n": len(different)})

# %% tags=["hide-input"]
leak_of_texts = (
    f"{value['captions: same text']:.0f} % of the validation captions stand word for word in the training split, and "
    f"{value['images: same text']:.0f} % of the validation images have such a caption; only {value['images: any picture']:.1f} % of the "
    f"{rsicd_rows[0]['n']:,} images are, or nearly are, there as well"
    if rsicd_rows
    else ""
)
Markdown(
    f"**{leak_of_texts}.** Few sentences do it: {once:.0f} % of the {len(different):,} different ones are known from training, and each of these "
    f"stands {seen['in val'].mean():.0f} times in the validation split on average. A model that trained on RSICD has read such a query with other "
    "pictures as its answers; one that did not has not. This is the leak that matters when the two are compared, and no search for equal pictures "
    "finds it."
    if rsicd_rows
    else ""
)

# %% tags=["hide-input"]
origin = provenance(
    options,
    benchmarks.fingerprint(chips),
    str(resolve_device(device)),
    started,
    "rsvlm run notebooks/10_leakage.ipynb",
)
kept = [{**row, "protocol": f"{row['protocol']}, {row['share']} leaked, {row['series']}"} for row in rows]
kept = [{name: row[name] for name in ROW} for row in kept]
found_row = {"dataset": earth.NAME, "split": "test", "protocol": "planted copies", "direction": "both"}
found_row |= {"ci_low": None, "ci_high": None, "chance": None, "n": each}
kept += [found_row | {"metric": f"found: {kind}", "value": 100 * (1 - lost[kind])} for kind in KINDS]
saved = save_result("leakage", run_name or f"{profile}-seed{seed}", options, kept + rsicd_rows, origin)

# %% [markdown]
# ## What we found

# %% tags=["hide-input"]
Markdown(
    f"- {100 * (1 - (copies['found by'] == 'not found').mean()):.0f} % of {len(copies)} planted copies are found, with "
    f"{table.loc[list(leakage.PICTURES), 'false alarms'].sum()} false alarms by picture among {searched:,} training chips."
    f"{f' Lost, wholly or in part: {told}.' if told else ''}\n"
    + "".join(
        f"- With {share} of the test pairs in training, mean recall changes by {gain[share, 'test']:+.1f} points on the whole split and by "
        f"{gain.get((share, 'test without overlap'), np.nan):+.1f} on what was not leaked.\n"
        for share in list(SHARES)[1:]
    )
    + f"- In RSICD {leak_of_texts}.\n" * bool(leak_of_texts)
)

# %% [markdown]
# ### Three edits to try
#
# - Plant a kind of your own, say a chip with a logo in one corner. From which size on is it lost?
# - `leakage.compare(..., reasons=leakage.PICTURES + leakage.TEXTS)`: leave out what shares a caption too. What does that do to the gallery?
# - Change `SHARES`, or give more `steps`: from when on does the whole split rise?

# %% tags=["hide-input"]
tables.provenance(origin)
