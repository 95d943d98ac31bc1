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
# **Copies of test images in a training set can be found, even if they were rotated, mirrored or re-encoded, but not once a tenth is cut
# off at every edge. What leaked test pairs do to a score is measured too. RSICD's own splits share hardly any pictures but many
# sentences, which are counted where RSICD is on disk.**
#
# Time: a quarter of an hour to read; a minute to run on two CPU cores the first time, once the model of [](02_training) is trained. What
# three further trainings did is read from `results/`; with `-p recompute=True` they run here, in another half a minute. With RSICD on disk
# (`-p data=FOLDER`) its own splits are compared as well, which takes half a minute more.
#
# Models are trained on millions of pictures from everywhere, and tested on a thousand from somewhere. Few people check whether the thousand
# are among the millions. A score on pictures from the training set measures memory, not understanding. So: can copies be found, and how
# much is a leak worth?

# %% mystnb={"code_prompt_show": "Code: parameters of this page"} tags=["parameters", "after:02_training", "hide-input"]
profile = "laptop"
seed = 0
device = "auto"
recompute = False
run_name = ""
overrides = ""
data = ""

# %% mystnb={"code_prompt_show": "Code: imports"} tags=["hide-input"]
import io
import itertools
import json
import os
import textwrap
import time
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from rsvlm import config
from rsvlm.book.figures import amounts, charts, galleries, numbers, tables
from rsvlm.data import benchmarks, duplicates, pairs, shards
from rsvlm.data.demo import earth, recipe
from rsvlm.evaluation import embeddings, leakage, retrieval, statistics
from rsvlm.model import images
from rsvlm.model.device import resolve_device
from rsvlm.records import results
from rsvlm.records.files import write_atomic
from rsvlm.records.provenance import provenance
from rsvlm.records.stages import root, source_hash, stage
from rsvlm.training import train

# %% mystnb={"code_prompt_show": "Code: data and model"} tags=["hide-input"]
started = time.time()
given = {"seed": seed, "device": device}
options = config.load(profile, given | config.pairs(overrides))
chips = earth.load_or_build(options)
run = train.load_or_train(*recipe.prepare(options))

# %% [markdown]
# ## A training set with test images in it
#
# Some test {term}`chips <chip>` are copied into a training set, each changed in one way. Two of the changes need a function:


# %%
def jpeg(array, quality=75):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def cropped(array, share):
    edge = round(share * len(array))
    return images.resize(array[edge:-edge, edge:-edge], *array.shape[:2])


# %% [markdown]
# A copy is the same file, or it is saved again, rotated, mirrored, made smaller, brighter or cropped:

# %%
PICTURES = {
    "the same file": None,
    "saved again as PNG": lambda a: a,
    "saved as JPEG": jpeg,
    "rotated by 90°": lambda a: np.rot90(a),
    "mirrored, as JPEG": lambda a: jpeg(a[:, ::-1]),
    "half as large": lambda a: images.resize(a, len(a) // 2, len(a) // 2),
    "brighter": lambda a: np.clip(1.2 * a + 10.0, 0, 255).astype(np.uint8),
    "2 % cropped": lambda a: cropped(a, 0.02),
    "10 % cropped": lambda a: cropped(a, 0.1),
}


# %% [markdown]
# Other copies take only the captions, with another picture. Copies of pictures keep their captions in another order, which is how
# benchmarks leak into each other.


# %% mystnb={"code_prompt_show": "Code: copies of captions"} tags=["hide-input"]
def reword(text, rng):
    words = text.split()
    words[rng.integers(len(words))] = "somewhere"
    return " ".join(words)


TEXTS = {
    "captions copied": lambda texts, rng: texts,
    "captions with a word changed": lambda texts, rng: [
        reword(text, rng) for text in texts
    ],
}
KINDS = [*PICTURES, *TEXTS]


# %% mystnb={"code_prompt_show": "Code: planted copies"} tags=["hide-input"]
def encoded(sample, change):
    made = (
        sample.image if change is None else change(images.decode(sample.image))
    )
    if isinstance(made, bytes):
        return made, "jpg" if change else "png"
    return images.encode_png(np.ascontiguousarray(made)), "png"


def plant(kind, number, test, other, rng):
    picture = test if kind in PICTURES else other
    texts = (
        TEXTS[kind](test.captions, rng)
        if kind in TEXTS
        else [*test.captions[1:], test.captions[0]]
    )
    record = {
        "key": f"copy-{number:04d}",
        "kind": kind,
        "of": test.key,
        "captions": texts,
    }
    return record, *encoded(picture, PICTURES.get(kind))


# %% mystnb={"code_prompt_show": "Code: shards of planted copies"} tags=["hide-input"]
def make(folder):
    rng = np.random.default_rng(seed)
    test, clean = (
        list(shards.stream(chips, split)) for split in ("test", "train")
    )
    drawn, others = (
        rng.permutation(len(split))[: each * len(KINDS)]
        for split in (test, clean)
    )
    planned = enumerate(zip(drawn, others))
    copies = [
        plant(KINDS[n % len(KINDS)], n, test[i], clean[j], rng)
        for n, (i, j) in planned
    ]
    write_atomic(
        folder / "shards" / "train" / "000000.tar", shards.pack(copies, [])[1]
    )


each = {"smoke": 4}.get(profile, 20)
parts = {
    "chips": benchmarks.fingerprint(chips),
    "seed": seed,
    "each": each,
    "kinds": KINDS,
    "code": source_hash("data/*"),
}
planted = stage("planted", parts, make, recompute) / "shards"
copies = pd.DataFrame(
    [sample.record for sample in shards.stream(planted, "train")]
)

# %% [markdown]
# ## Are they found?
#
# A copied picture should be found by its pixels, a copied caption by its words. `rsvlm evaluate leakage` does this from the command
# line; in Python it is one call:

# %%
overlap = leakage.find(planted, chips, split="test")

# %% [markdown]
# The whole training set of [](02_training) is searched too. It lies on other ground than the test chips, so whatever is found there is a
# false alarm.

# %% mystnb={"code_prompt_show": "Code: searches, with several limits"} tags=["hide-input"]
LIMITS = range(0, 17, 2)


def bare(folder, split):
    return pd.concat(leakage.tables(folder, split), ignore_index=True)


def search(out):
    leakage.write_list(overlap, out / "copies.csv")
    test, clean, copied = (
        bare(chips, "test"),
        bare(chips, "train"),
        bare(planted, "train"),
    )
    leakage.write_list(leakage.pairs(clean, test), out / "clean.csv")
    for limit, (name, table) in itertools.product(
        LIMITS, {"clean": clean, "copies": copied}.items()
    ):
        near = leakage.pairs(table.assign(text=""), test.assign(text=""), limit)
        leakage.write_list(near, out / f"{name}-{limit}.csv")


# %% mystnb={"code_prompt_show": "Code: matrix of copies by what found them"} tags=["hide-input"]
code = source_hash("evaluation", "data/*", "model/images")
lists = stage(
    "overlap",
    parts | {"planted": benchmarks.fingerprint(planted), "code": code},
    search,
    recompute,
)
copied, clean = (
    leakage.read_list(lists / f"{name}.csv") for name in ("copies", "clean")
)
hits = copied.merge(
    copies, left_on=["train_key", "benchmark_key"], right_on=["key", "of"]
)
fitting = hits["kind"].isin(PICTURES) == hits["reason"].isin(leakage.PICTURES)
first = (
    hits[fitting].drop_duplicates("train_key").set_index("train_key")["reason"]
)
copies["found by"] = copies["key"].map(first).fillna("not found")
order = [*leakage.PICTURES, *leakage.TEXTS, "not found"]
matrix = pd.crosstab(copies["kind"], copies["found by"]).reindex(
    index=KINDS, columns=order, fill_value=0
)
charts.picture(
    amounts.share_matrix(matrix, "found by", "kind of copy"),
    "Matrix in percent of each row, kinds of copies against what found them: "
    f"{(copies['found by'] == 'not found').sum()} of {len(copies)} copies are "
    "in the last column, not found.",
)

# %% tags=["remove-input"]
lost = matrix["not found"] / matrix.sum(axis=1)
told = ", ".join(
    f"{kind} ({100 * share:.0f} % missed)"
    for kind, share in lost[lost > 0].items()
)
numbers.prose(
    f"{int(matrix.drop(columns='not found').to_numpy().sum())} of "
    f"{len(copies)} copies are found.",
    f"Not always found: {told}." if told else "Every kind is found.",
)

# %% [markdown]
# Here are some of them in pairs: the copy in the training set, then the test picture whose pixels or captions it copies.

# %% mystnb={"code_prompt_show": "Code: copies beside their originals"} tags=["hide-input"]
genuine = hits.loc[fitting, list(copied.columns)]
items = leakage.look(genuine, planted, chips, split="test", count=12, seed=seed)
grounds = {sample.key: sample.record for sample in shards.stream(chips, "test")}
cells = []
for item in items:
    for side, words in (("train", "copy"), ("benchmark", "test picture")):
        text = item[f"{side}_captions"][0]
        cell = {
            "image": item[f"{side}_image"],
            "alt": f"The {words}, found as {item['reason']}: {text}",
            "badge": words,
        }
        cell["ground"] = (
            grounds.get(item["benchmark_key"]) if side == "benchmark" else None
        )
        begins = textwrap.shorten(text, 60, placeholder=" …")
        cells.append(cell | {"caption": f"{item['reason']}: {begins}"})
galleries.gallery(cells, thumbnail_px=130)

# %% [markdown]
# ## How many false alarms are there?
#
# Short captions are often equal by chance, so equal captions alone do not count as an overlap unless you ask for it.

# %% mystnb={"code_prompt_show": "Code: table of false alarms"} tags=["hide-input"]
alarms = clean.drop_duplicates(["train_key", "reason"])["reason"].value_counts()
table = pd.DataFrame(
    {"copies found": copies["found by"].value_counts(), "false alarms": alarms}
).reindex(order[:-1])
table = table.fillna(0).astype(int)
table["precision, %"] = 100 * table["copies found"] / table.sum(axis=1)
numbers.table(table.rename_axis("found by").reset_index())

# %% [markdown]
# How near is near? Two pictures are near if at most 6 of the 64 bits of their hashes differ, under the best of eight rotations and
# mirrorings. The same search with other limits:

# %% mystnb={"code_prompt_show": "Code: table of limits"} tags=["hide-input"]
lines = []
is_picture = copies["kind"].isin(PICTURES)
for limit in LIMITS:
    near, alarm = (
        leakage.read_list(lists / f"{name}-{limit}.csv")
        for name in ("copies", "clean")
    )
    right = near.merge(
        copies[is_picture],
        left_on=["train_key", "benchmark_key"],
        right_on=["key", "of"],
    )
    found = 100 * right["train_key"].nunique() / is_picture.sum()
    lines.append(
        {
            "bits that may differ": limit,
            "copies found, %": found,
            "false alarms": alarm["train_key"].nunique(),
        }
    )
numbers.table(pd.DataFrame(lines), digits=0)

# %% [markdown]
# Others can use the plain list of keys and reasons, which holds no pictures or captions. `distance` is in bits of the hash, and for
# texts 1 minus their Jaccard similarity; `turn`, from 0 to 7, is the rotation or mirroring that takes the copy back, and −1 for texts. (The
# names of both data sets, the same in every row, are left out here.)

# %% mystnb={"code_prompt_show": "Code: list of overlaps"} tags=["hide-input"]
first_of_each = copied.groupby("reason").head(1)
numbers.table(
    first_of_each.drop(columns=["train_set", "benchmark"]),
    digits=2,
)

# %% [markdown]
# ## What does it do to the scores?
#
# The model of [](02_training) is trained a little further, three times, with the same settings and equally many pairs. Once all pairs are
# from the training split; once they include a tenth of all test pairs; once two fifths. Further training alone changes scores too, so
# the model that saw no test pair is the one to compare with.

# %% mystnb={"code_prompt_show": "Code: training sets with and without test pairs"} tags=["hide-input"]
SHARES = {"none": 0.0, "a tenth": 0.1, "two fifths": 0.4}  # of the test pairs


def leak(folder):
    test, clean = (
        list(shards.stream(chips, split)) for split in ("test", "train")
    )
    rng = np.random.default_rng([seed, 1])
    drawn, others = rng.permutation(len(test)), rng.permutation(len(clean))
    for name, share in SHARES.items():
        count, total = (
            round(part * len(test)) for part in (share, max(SHARES.values()))
        )
        taken = [test[i] for i in drawn[:count]] + [
            clean[i] for i in others[: total - count]
        ]
        records = [
            ({"key": f"pair-{n:05d}", "captions": list(p.captions)}, p.image)
            for n, p in enumerate(taken)
        ]
        pairs.write(folder / name, name, {"train": records})


# %% mystnb={"code_prompt_show": "Code: further training on each of them"} tags=["hide-input"]
code_of_pairs = source_hash("data/*")
steps, batch = {"smoke": (4, 16)}.get(profile, (16, 64))
more = {
    "train.learning_rate": 1e-3,
    "train.warmup_steps": 2,
    "train.batch_size": batch,
}
more |= {
    "train.stages": [{"steps": steps, "data": {"pairs": 1}}],
    "train.checkpoint_every": steps,
    "train.caption_weight": 0,
}


def vectors_after(pairs_of):
    """Vectors of the test chips, once the model has learned from pairs."""
    given = {"seed": seed, "device": device} | config.pairs(overrides)
    begin = {"train.start": str(run / "model")}
    going_on = config.load(profile, given | more | begin)
    model = train.load_or_train(going_on, {"pairs": pairs_of}, recompute)
    stored = embeddings.load_or_embed(
        model / "model", chips, "test", recompute=recompute, device=device
    )
    return embeddings.read(stored)


def trained_on_leaks():
    """Vectors by each model, and the overlap of each share."""
    known = {"chips": benchmarks.fingerprint(chips), "seed": seed}
    known |= {"shares": SHARES, "code": code_of_pairs}
    leaks = stage("leaks", known, leak, recompute)
    vectors = {name: vectors_after(leaks / name) for name in SHARES}
    overlaps = {
        name: leakage.find(leaks / name, chips, split="test")
        for name in list(SHARES)[1:]
    }
    return vectors, overlaps


# %% [markdown]
# `leakage.compare` scores each model three times: on the whole test split; without the overlap, that is, without the pictures that
# `leakage.find` finds in its training pairs; and, because a smaller gallery is easier, without as many other pictures instead. The model
# without test pairs is scored on the same pictures.

# %% mystnb={"code_prompt_show": "Code: how the models are scored"} tags=["hide-input"]
often = options.evaluate.bootstrap_samples


def compared(vectors, overlaps):
    """Rows of recalls, of each share of leaked pairs and of none."""
    about = {"dataset": earth.NAME, "bootstrap_samples": often, "seed": seed}
    rows = []
    for share in list(SHARES)[1:]:
        for name in ("none", share):
            scored = leakage.compare(
                vectors[name], overlaps[share], split="test", **about
            )
            series = "no test pair" if name == "none" else "with test pairs"
            rows += [row | {"share": share, "series": series} for row in scored]
    return rows


def recall_of(vectors, group, times):
    """R@5 of some captions."""
    v = vectors
    ranks = retrieval.ranks(
        v.image_embeddings, v.caption_embeddings, v.image_of_caption
    )[1]
    owners = v.image_of_caption[group]
    return statistics.summary(
        statistics.recall, [ranks[None][:, group]], owners, 5, times=times
    )


# %% mystnb={"code_prompt_show": "Code: how leaked captions are scored"} tags=["hide-input"]
def changes(vectors, overlaps):
    """By how much R@5 changes for captions of leaked chips and of others."""
    keys, image = vectors["none"].keys, vectors["none"].image_of_caption
    times = statistics.resamples(len(keys), often, seed)
    changed = []
    for share, overlap in overlaps.items():
        is_picture = overlap["reason"].isin(leakage.PICTURES)
        pictures = set(overlap.loc[is_picture, "benchmark_key"])
        leaked = np.isin(np.array(keys)[image], list(pictures))
        for name, group in (("leaked", leaked), ("not leaked", ~leaked)):
            gap = statistics.difference(
                recall_of(vectors[share], group, times),
                recall_of(vectors["none"], group, times),
            )
            gap = statistics.row(gap) | {"seeds": gap["seeds"]}
            changed.append({"label": share, "series": name} | gap)
    return changed


# %% mystnb={"code_prompt_show": "Code: read what the leaks did, or train"} tags=["hide-input"]
saved_as = run_name or f"{profile}-seed{seed}"
before = None
decides = {"shares": SHARES, "options": more}
if not recompute:
    before = results.stored("leaks", saved_as, options, decides)
if before is None:
    begun = time.time()
    of_leaks = trained_on_leaks()
    measured = {"rows": compared(*of_leaks), "rise": changes(*of_leaks)}
    results.save_result(
        "leaks",
        saved_as,
        options,
        [
            {name: row[name] for name in results.ROW}
            | {
                "protocol": f"{row['protocol']}, {row['share']} leaked, "
                f"{row['series']}"
            }
            for row in measured["rows"]
        ],
        provenance(
            options,
            benchmarks.fingerprint(chips),
            str(resolve_device(device)),
            begun,
            "rsvlm run notebooks/10_leakage.ipynb -p recompute=True",
        ),
        decides | measured,
    )
else:
    measured = before

# %% tags=["remove-input"]
numbers.measured_before(before, "These three trainings")

# %% mystnb={"code_prompt_show": "Code: mean recalls with and without test pairs"} tags=["hide-input"]
rows = measured["rows"]
shown = [
    row | {"label": row["split"], "panel": f"{row['share']} leaked"}
    for row in rows
    if row["metric"] == "mR"
]
charts.picture(
    charts.interval_dots(shown, "mean recall, percent"),
    "Dots with intervals of mean recall with and without test pairs in "
    "training, a panel for each leaked share: on the whole split, without the "
    "overlap, and without as many others.",
)

# %% tags=["remove-input"]
of_mean = {
    (row["share"], row["split"], row["series"]): row
    for row in rows
    if row["metric"] == "mR"
}
mean = {key: row["value"] for key, row in of_mean.items()}
gain = {
    (share, split): mean[share, split, "with test pairs"] - value
    for (share, split, name), value in mean.items()
    if name == "no test pair"
}
told_gains = [
    f"With {share} of the test pairs in training, mean recall changes by "
    f"{gain[share, 'test']:+.1f} points on the whole split"
    + (
        f" and by {gain[share, 'test without overlap']:+.1f} on the pictures "
        "that were not leaked."
        if (share, "test without overlap") in gain
        else "."
    )
    for share in list(SHARES)[1:]
]


def meet(share, split):
    """Whether the intervals of both models overlap."""
    names = "no test pair", "with test pairs"
    lows, highs = (
        [of_mean[share, split, name][end] for name in names]
        for end in ("ci_low", "ci_high")
    )
    return None not in (*lows, *highs) and max(lows) <= min(highs)


meeting = [meet(*line) for line in gain]
numbers.prose(
    *told_gains,
    "In the figure the intervals of the two models overlap on "
    f"{sum(meeting)} of {numbers.counted(len(meeting), 'line')}.",
)

# %% [markdown]
# The same, query by query: how text → image R@5 in the whole gallery differs from the model without test pairs, for captions whose chip
# was leaked and for the others.

# %% mystnb={"code_prompt_show": "Code: changes of leaked chips and of others"} tags=["hide-input"]
rise = {(one["label"], one["series"]): one for one in measured["rise"]}
dots = measured["rise"]
charts.picture(
    charts.interval_dots(dots, "change of text → image R@5, points"),
    "Dots with intervals of the change of R@5, a line for each share of leaked "
    "test pairs, one dot for leaked chips and one for the others.",
)


# %% tags=["remove-input"]
def stands_out(share):
    low = rise[share, "leaked"]["ci_low"]
    high = rise[share, "not leaked"]["ci_high"]
    return None not in (low, high) and low > high


clear = [share for share in list(SHARES)[1:] if stands_out(share)]
memory = (
    f"With {' and with '.join(clear)} of the test pairs leaked, leaked chips "
    "gain more than the others, beyond both intervals."
    if clear
    else "The intervals of leaked chips and of the others overlap: after so "
    "little further training, leaked chips show no clear advantage."
)
numbers.prose(
    *(
        f"With {share} leaked, R@5 changes by "
        f"{statistics.in_words(rise[share, 'leaked'])} for leaked chips and by "
        f"{statistics.in_words(rise[share, 'not leaked'])} for the others."
        for share in list(SHARES)[1:]
    ),
    "A score on the whole split mixes the two.",
    memory,
)

# %% [markdown]
# ## RSICD against itself
#
# RSICD is cut from web maps, several times from the same ground. Here its training split is compared with its validation split, and so are
# the captions of other data sets, if they are on disk. Rows that begin with *images* count validation images, rows that begin with
# *captions* count validation captions, in percent:

# %% mystnb={"code_prompt_show": "Code: search in RSICD"} tags=["hide-input"]
home = Path(
    data or os.environ.get("RSVLM_DATA") or root().parent / "shared" / "data"
)
rsicd = next(
    (
        path
        for path in (home, home / "rsicd")
        if (path / "dataset_rsicd.json").is_file()
    ),
    None,
)
others_there = (
    home / "captions" / f"{name}_captions.json" for name in ("rsitmd", "ucm")
)
caption_files = [path for path in others_there if path.is_file()]


def search_rsicd(out):
    found = [leakage.find(rsicd, rsicd, split="val")]
    found += [
        leakage.find(path, rsicd, split="val", train_split=leakage.EVERYTHING)
        for path in caption_files
    ]
    write_atomic(
        out / "rows.json",
        json.dumps([row for part in found for row in leakage.rows(part)]),
    )


# %% mystnb={"code_prompt_show": "Code: rows of RSICD"} tags=["hide-input"]
rsicd_rows = []
if rsicd and profile != "smoke":
    known = {
        "data": benchmarks.fingerprint(rsicd),
        "others": [path.name for path in caption_files],
        "code": code,
    }
    rsicd_rows = json.loads(
        (
            stage("overlap-rsicd", known, search_rsicd, recompute) / "rows.json"
        ).read_text()
    )

# %% mystnb={"code_prompt_show": "Code: table of what RSICD's splits share"} tags=["hide-input"]
wide = pd.DataFrame(rsicd_rows, columns=results.ROW).pivot(
    index="metric", columns="protocol", values="value"
)
numbers.table(wide.reset_index(), digits=2) if rsicd_rows else numbers.prose(
    "Not measured in this build: it takes RSICD on disk (`-p data=FOLDER`, "
    "which holds `dataset_rsicd.json` and `RSICD_images/`) and a profile other "
    "than `smoke`. Then the table stands here, and below it the captions of "
    "the training split that the validation split repeats most often."
)

# %% tags=["remove-input"]
numbers.prose(
    "In the table a caption counts as often as it stands in the validation "
    "split. These known captions are repeated most often there:"
    if rsicd_rows
    else ""
)

# %% mystnb={"code_prompt_show": "Code: table of repeated captions"} tags=["hide-input"]
listed = (
    json.loads((rsicd / "dataset_rsicd.json").read_text(encoding="utf-8"))[
        "images"
    ]
    if rsicd_rows
    else []
)
words = {"train": [], "val": [], "test": []}
for picture in listed:
    words[picture["split"]] += [
        sentence["raw"] for sentence in picture["sentences"]
    ]
normal = {
    split: duplicates.normalise_text(pd.Series(words[split], dtype=str))
    for split in ("train", "val")
}
different = (
    normal["val"][normal["val"] != ""]
    .value_counts()
    .rename("in val")
    .rename_axis("caption")
    .to_frame()
)
different["in train"] = (
    different.index.map(normal["train"].value_counts()).fillna(0).astype(int)
)
seen = different[different["in train"] > 0]
numbers.table(seen.head(8).reset_index()) if len(seen) else None

# %% tags=["remove-input"]
value = {
    row["metric"]: row["value"]
    for row in rsicd_rows
    if row["protocol"] == "overlap with rsicd"
}
once = 100 * len(seen) / max(len(different), 1)
if rsicd_rows:
    rsicd_rows.append(
        rsicd_rows[0]
        | {
            "metric": "captions: same text, each once",
            "value": once,
            "n": len(different),
        }
    )

# %% tags=["remove-input"]
leak_of_texts = (
    f"{value['captions: same text']:.0f} % of the validation captions are "
    "word for word in the training split, and "
    f"{value['images: same text']:.0f} % of the validation images have such a "
    f"caption; but only {value['images: any picture']:.1f} % of the "
    f"{rsicd_rows[0]['n']:,} images have an equal or nearly equal picture there"
    if rsicd_rows
    else ""
)
numbers.prose(
    f"**{leak_of_texts}.** A few sentences cause this: {once:.0f} % of the "
    f"{len(different):,} different ones are known from training, and each of "
    f"these occurs {seen['in val'].mean():.0f} times in the validation split "
    "on average. A model that trained on RSICD has read such a query with "
    "other pictures as its answers; a model that did not, has not. This is the "
    "leak that matters when the two are compared, and no search for equal "
    "pictures finds it."
    if rsicd_rows
    else ""
)

# %% tags=["remove-input"]
origin = provenance(
    options,
    benchmarks.fingerprint(chips),
    str(resolve_device(device)),
    started,
    "rsvlm run notebooks/10_leakage.ipynb",
)
found_row = {
    "dataset": earth.NAME,
    "split": "test",
    "protocol": "planted copies",
    "direction": "both",
}
found_row |= {"ci_low": None, "ci_high": None, "chance": None, "n": each}
kept = [
    found_row | {"metric": f"found: {kind}", "value": 100 * (1 - lost[kind])}
    for kind in KINDS
]
saved = results.save_result("leakage", saved_as, options, kept, origin)
if rsicd_rows:  # which a build without RSICD leaves as they are
    results.save_result(
        "leakage",
        f"{saved_as}-rsicd",
        options,
        rsicd_rows,
        origin | {"data_hash": known["data"]},
    )

# %% [markdown]
# ## Exercise
#
# A benchmark has 1,000 test images; 100 of them were in the training set. On these the model has a recall of 90 %, on the others of 50 %.
# What is the score on the whole split, and what is it without the overlap? Why must the second be compared with the score without 100
# *other* images?
#
# ```{dropdown} Answer
# On the whole split it is 54 %: a tenth of 90 plus nine tenths of 50. Without the overlap it is about 50 %, but not exactly: each query is
# now ranked among 900 images instead of 1,000, which is easier for any model, leaked or not. To see what the leak alone is worth, the
# gallery of the comparison has to shrink by as many images that were not leaked.
# ```
#
# ## Takeaways

# %% tags=["remove-input"]
by_picture = table.loc[list(leakage.PICTURES), "false alarms"]
false_alarms = int(by_picture.sum())
by_caption = int(table.loc[list(leakage.TEXTS), "false alarms"].sum())
searched = sum(1 for _ in shards.stream(chips, "train"))
numbers.points(
    f"{100 * (1 - (copies['found by'] == 'not found').mean()):.0f} % of "
    f"{len(copies)} planted copies are found, with "
    f"{numbers.counted(false_alarms, 'false alarm')} "
    f"by picture and {by_caption:,} by caption among {searched:,} training "
    "chips."
    f"{f' Not always found: {told}.' if told else ''}",
    *told_gains,
    memory,
    f"In RSICD {leak_of_texts}." if leak_of_texts else "",
)

# %% tags=["remove-input"]
tables.provenance(origin, {"These three trainings": before})
