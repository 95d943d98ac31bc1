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
# # Names, prompts and few shots
#
# **A model trained on captions alone sorts pictures into classes that are only words: {term}`zero-shot` classification. How well it does
# depends on the words too, not on the pictures alone.**
#
# Time: a quarter of an hour to read; a minute to run, once the model of [](02_training) is trained. What the few shots gave is read from
# `results/`; with `-p recompute=True` they run here. With RSICD on disk and a model that knows such scenes
# (`-p data=FOLDER -p model=FOLDER`), RSICD's classes are tried as well.
#
# A classifier is trained for its classes: a new class needs new labels and a new training. A model that compares pictures with sentences
# needs neither; you write down the names. That is the promise. How much of it holds for classes that nobody had in mind, for other words
# for the same things, and against a few labelled pictures?

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
import os
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
from rsvlm import config
from rsvlm.book.figures import (
    amounts,
    charts,
    galleries,
    numbers,
    scale,
    tables,
)
from rsvlm.data import benchmarks
from rsvlm.data.catalogue import prompt_set
from rsvlm.data.demo import earth, recipe
from rsvlm.evaluation import (
    baselines,
    classification,
    coverage,
    embeddings,
    few_shots,
    shared_ground,
    statistics,
)
from rsvlm.model import images
from rsvlm.model.device import resolve_device
from rsvlm.model.others import opening as encoders
from rsvlm.records import results, stages
from rsvlm.records.provenance import provenance
from rsvlm.records.text import batched
from rsvlm.training import train

# %% mystnb={"code_prompt_show": "Code: data and model"} tags=["hide-input"]
started = time.time()
given = {"seed": seed, "device": device}
options = config.load(profile, given | config.pairs(overrides))
chips = earth.load_or_build(options)
run = train.load_or_train(*recipe.prepare(options))
encoder = encoders.open_encoder(str(run / "model"), device=device)

# %% [markdown]
# ## Classes that are measured
#
# Nobody labelled these {term}`chips <chip>`; their classes are measured. A chip that is at least half sea is “sea”. If its land has the
# same colour in at least five of its nine sectors, it is land of that colour. All others are mixed, and left out.


# %%
def measured_class(record):
    facts = record["measurements"]
    if facts["sea_share"] >= 0.5:
        return "sea"
    colours = Counter(filter(None, facts["land_colours"]))
    colour, sectors = colours.most_common(1)[0]
    return f"{colour} land" if sectors >= 5 else None


# %% mystnb={"code_prompt_show": "Code: typical chips"} tags=["hide-input"]
samples = list(benchmarks.samples(chips, "test"))
measured = pd.Series([measured_class(sample.record) for sample in samples])
counts = measured.value_counts()
class_names = [name for name in counts.index if counts[name] >= 5]
kept = np.flatnonzero(measured.isin(class_names))
labels = np.array([class_names.index(name) for name in measured[kept]])
pictures = [images.decode(samples[i].image) for i in kept]
typical = [int(np.flatnonzero(labels == c)[0]) for c in range(len(class_names))]
galleries.gallery(
    [
        {
            "image": pictures[i],
            "alt": scale.described(samples[kept[i]].record),
            "caption": f"{class_names[labels[i]]}: "
            f"{numbers.counted(int(counts[class_names[labels[i]]]), 'chip')}",
        }
        | {"ground": samples[kept[i]].record}
        for i in typical
    ],
    thumbnail_px=100,
)

# %% tags=["remove-input"]
few_of_a_kind = len(samples) - len(kept) - measured.isna().sum()
numbers.prose(
    f"{len(kept)} of {len(samples)} test chips fall into "
    f"{numbers.counted(len(class_names), 'class', 'classes')}; "
    f"{measured.isna().sum()} are mixed, and {few_of_a_kind} belong to classes "
    f"of fewer than 5 chips. Always answering “{class_names[0]}” would be "
    f"right for {100 * counts.iloc[0] / len(kept):.0f} %."
)

# %% [markdown]
# ## Which prompt?
#
# A sentence turns a class into a vector, and a picture goes to the class with the nearest one. `paper` is the paper's sentence, `plain`
# the name of the class alone, `clip` and `skyscript` the sentences of those projects, `ensemble` the mean of several sentences, and `as in
# training` the ways in which captions of the training set begin.

# %%
prompts = {
    n: prompt_set(n)
    for n in ("paper", "plain", "clip", "skyscript", "ensemble")
}
prompts["as in training"] = [
    "{class}.",
    "A satellite picture of {class}.",
    "Seen from above: {class}.",
]
vectors = {
    name: classification.class_embeddings(encoder, class_names, templates)
    for name, templates in prompts.items()
}

# %% [markdown]
# How often is each of them right? Intervals resample {term}`blocks <block>` of test chips that share ground; grey marks are
# {term}`chance`.

# %% mystnb={"code_prompt_show": "Code: prompts, evaluated"} tags=["hide-input"]
found = embeddings.read(
    embeddings.load_or_embed(
        run / "model", chips, "test", recompute=recompute, device=device
    )
)
image_embeddings = found.image_embeddings[kept]
settings = {
    "dataset": f"{earth.NAME}-cover",
    "split": "test",
    "seed": seed,
    "logit_scale": encoder.logit_scale,
}
settings |= {
    "bootstrap_samples": options.evaluate.bootstrap_samples,
    "blocks": shared_ground.blocks([samples[i].record for i in kept]),
}
rows = []
for name, of_classes in vectors.items():
    rows += classification.evaluate(
        image_embeddings,
        labels,
        of_classes,
        class_names,
        protocol=name,
        **settings,
    )

# %% mystnb={"code_prompt_show": "Code: scores of the prompts"} tags=["hide-input"]
top = {row["protocol"]: row for row in rows if row["metric"] == "top1"}
best, worst = (
    pick(top, key=lambda name: top[name]["value"]) for pick in (max, min)
)
PANELS = {"top1": "top-1", "balanced_accuracy": "mean over classes"}
shown = [
    row | {"label": row["protocol"], "panel": PANELS[row["metric"]]}
    for row in rows
    if row["metric"] in PANELS
]
charts.picture(
    charts.interval_dots(shown, "right, percent"),
    "Dots with intervals: top-1 and the mean over classes for each prompt set, "
    f"beside marks of chance. The highest top-1 is that of {best}, the lowest "
    f"that of {worst}.",
)

# %% tags=["remove-input"]
numbers.prose(
    f"`{best}` is right for **{numbers.interval(top[best], unit='%')}** of "
    f"{len(kept)} chips, `{worst}` for "
    f"{numbers.interval(top[worst], unit='%')}; guessing gives "
    f"{top[best]['chance']:.1f} %. Pictures and model are the same; only the "
    "words differ."
)

# %% [markdown]
# ## Other names for the same things
#
# These classes have the names that the training captions use. A person would say “desert” or “forest”, words that the model never read
# in a caption. The same chips and prompts, with everyday names:

# %% mystnb={"code_prompt_show": "Code: everyday words"} tags=["hide-input"]
EVERYDAY = {
    "sea": "ocean",
    "pale sand land": "sandy desert",
    "tan land": "desert",
}
EVERYDAY |= {"light brown land": "dry steppe", "brown land": "bare hills"}
EVERYDAY |= {"reddish brown land": "red desert", "khaki land": "dry grassland"}
EVERYDAY |= {"olive land": "savanna", "light green land": "fields"}
EVERYDAY |= {"green land": "grassland", "dark green land": "forest"}
EVERYDAY |= {"very dark green land": "dense conifer forest"}
EVERYDAY |= {"white land": "snow and ice", "grey land": "rock"}
renamed = [
    EVERYDAY.get(name, f"{name}, in other words") for name in class_names
]
everyday = {
    name: classification.class_embeddings(encoder, renamed, prompts[name])
    for name in ("paper", "plain", "ensemble")
}

# %% mystnb={"code_prompt_show": "Code: accuracy with everyday words"} tags=["hide-input"]
told = []
for series, names, systems in (
    ("words of the captions", class_names, vectors),
    ("everyday words", renamed, everyday),
):
    for name in everyday:
        part = classification.evaluate(
            image_embeddings,
            labels,
            systems[name],
            names,
            protocol=name,
            **settings,
        )
        told += [
            row | {"label": name, "series": series}
            for row in part
            if row["metric"] == "top1"
        ]
charts.picture(
    charts.interval_dots(told, "top-1, percent"),
    "Dots with intervals of top-1 for three prompts: with the words of the "
    "captions, and with everyday words.",
)

# %% tags=["remove-input"]
ours, theirs = (
    [row["value"] for row in told if row["series"] == s]
    for s in ("words of the captions", "everyday words")
)
numbers.prose(
    "With everyday words the best of the three prompts reaches "
    f"{max(theirs):.1f} %, with the captions' words {max(ours):.1f} %; "
    f"guessing gives {told[0]['chance']:.1f} %. A zero-shot "
    "classifier knows the words that it was trained on, so a low score on "
    "somebody's list of classes may have nothing to do with the pictures."
)

# %% [markdown]
# ## Which classes does it confuse?
#
# Rows are what was measured, columns what the model says with the best of the prompts above.

# %% mystnb={"code_prompt_show": "Code: confusion matrix"} tags=["hide-input"]
matrix = classification.confusion(image_embeddings, labels, vectors[best])
short = [name.removesuffix(" land") for name in class_names]
charts.picture(
    amounts.share_matrix(
        pd.DataFrame(matrix, short, short), "said by the model", "measured"
    ),
    "Confusion matrix in percent of each row, what was measured against what "
    f"the model says: {np.diag(matrix).sum()} of {matrix.sum()} chips lie on "
    "the diagonal.",
)

# %% tags=["remove-input"]
per_class = [
    row | {"label": row["metric"][5:-1]}
    for row in rows
    if row["protocol"] == best and row["metric"].startswith("top1[")
]
errors = matrix - np.diag(np.diag(matrix))
true, said = np.unravel_index(errors.argmax(), errors.shape)
easy, hard = (
    pick(per_class, key=lambda row: row["value"]) for pick in (max, min)
)
numbers.prose(
    f"“{easy['label']}” is recognised best ({easy['value']:.0f} % of "
    f"{easy['n']}), “{hard['label']}” worst ({hard['value']:.0f} % of "
    f"{hard['n']}). The commonest error is to call “{class_names[true]}” "
    f"“{class_names[said]}”: {errors.max()} of {errors.sum()} errors."
)

# %% [markdown]
# ## Does it know how sure it is?
#
# The model's own scale turns scores into probabilities of the classes. A calibrated model is right in 80 % of the cases in which it is
# 80 % sure. The expected calibration error is the mean distance from the dashed line.

# %% mystnb={"code_prompt_show": "Code: reliability diagrams"} tags=["hide-input"]
bins = {
    name: classification.reliability(
        image_embeddings, labels, vectors[name], encoder.logit_scale
    )
    for name in ("paper", best)
}
charts.picture(
    charts.reliability(bins),
    "Reliability diagrams of two prompt sets: above, the share of right "
    "answers against confidence, beside the dashed line of equal "
    "values; below, how many answers have each confidence.",
)

# %% tags=["remove-input"]
ece = {row["protocol"]: row for row in rows if row["metric"] == "ece"}
sure = {
    name: 100 * (table["n"] * table["confidence"]).sum() / table["n"].sum()
    for name, table in bins.items()
}
numbers.prose(
    *(
        f"With `{name}` the model is {sure[name]:.0f} % sure on average and "
        f"right for {top[name]['value']:.0f} %; its calibration error is "
        f"{numbers.interval(ece[name], unit='points')}."
        for name in bins
    )
)

# %% [markdown]
# ## What are a few labelled pictures worth?
#
# If you have a list of classes, you often have a few pictures of each. There are three ways of using them; none is fitted to the test
# pictures:
#
# - the nearest class mean;
# - logistic regression that starts from the texts and is penalised for leaving them;
# - logistic regression that knows no text, a *linear probe*.
#
# Shots are drawn from the training split five times. The curves are means over these draws; their intervals cover test chips and draws
# together. (The class mean is not drawn; its numbers are in `results/`.) Penalties are fixed beforehand, except for the linear probe on
# all pictures, whose penalty is chosen on a fifth of the training pictures. The second model is EfficientNet-Lite0 as ImageNet left it, which the book's model started from; it knows no text. The
# {term}`baseline` is the chip's colours: mean and deviation of each channel in nine sectors, 54 numbers without any
# training. The same from the command line:
#
# ```text
# rsvlm evaluate classify --model MODEL --root FOLDER --split test \
#     --shots 1,2,4,8,16
# ```


# %% mystnb={"code_prompt_show": "Code: labelled pictures to draw from"} tags=["hide-input"]
few = options.train.steps < 100
most = 4 if few else 40
chosen, taken = [], Counter()
for sample in benchmarks.samples(chips, "train"):
    name = measured_class(sample.record)
    if name in class_names and taken[name] < most:
        taken[name] += 1
        chosen.append((images.decode(sample.image), name))
shot_names = [name for name in class_names if taken[name] >= 2]
known_pictures = [picture for picture, name in chosen if name in shot_names]
known_labels = np.array(
    [shot_names.index(name) for _, name in chosen if name in shot_names], int
)
tested = np.flatnonzero([class_names[label] in shot_names for label in labels])
shot_labels = np.array(
    [shot_names.index(class_names[label]) for label in labels[tested]], int
)

# %% mystnb={"code_prompt_show": "Code: few-shot classifiers"} tags=["hide-input"]
TOWER = "ImageNet's tower"
known_colours, asked_colours = (
    np.stack([baselines.colours(picture) for picture in several])
    for several in (known_pictures, [pictures[i] for i in tested])
)
how = {
    "dataset": f"{earth.NAME}-cover",
    "seed": seed,
    "bootstrap_samples": options.evaluate.bootstrap_samples,
}
how |= {
    "shots": (1, 2) if few else few_shots.SHOTS,
    "seeds": 2 if few else few_shots.SEEDS,
}


def vectors_of(one, several):
    return np.concatenate([one.images(part) for part in batched(several, 64)])


def few_shot_rows():
    """Rows of both models and of the colours."""
    tower = encoders.open_encoder("timm:tf_efficientnet_lite0", device)
    columns = [class_names.index(name) for name in shot_names]
    shown = {"as in training": vectors["as in training"][columns]}
    asked = [pictures[i] for i in tested]
    mine = vectors_of(encoder, known_pictures), image_embeddings[tested], shown
    theirs = vectors_of(tower, known_pictures), vectors_of(tower, asked), {}
    systems = {"the book's model": mine, TOWER: theirs}
    systems["colours"] = known_colours, asked_colours, {}
    return {
        name: few_shots.evaluate(
            known, known_labels, asked, shot_labels, shot_names, texts, **how
        )
        for name, (known, asked, texts) in systems.items()
    }


# %% mystnb={"code_prompt_show": "Code: read what few shots gave, or fit them"} tags=["hide-input"]
saved_as = run_name or f"{profile}-seed{seed}"
before = None
decides = {"most": most, "classes": shot_names}
if not recompute:
    before = results.stored("few-shots", saved_as, options, decides)
if before is None:
    begun = time.time()
    shot_rows = few_shot_rows()
    of_shots = [
        row | {"protocol": f"{row['protocol']} of {system}"}
        for system, of_system in shot_rows.items()
        for row in of_system
    ]
    origin = provenance(
        options,
        benchmarks.fingerprint(chips),
        str(resolve_device(device)),
        begun,
        "rsvlm run notebooks/08_classification.ipynb -p recompute=True",
    )
    kept_shots = decides | {"rows": shot_rows}
    results.save_result(
        "few-shots", saved_as, options, of_shots, origin, kept_shots
    )
else:
    shot_rows = before["rows"]

# %% tags=["remove-input"]
numbers.measured_before(before, "The few-shot classifiers")

# %% mystnb={"code_prompt_show": "Code: curves of accuracy by number of shots"} tags=["hide-input"]
curves = {}
for system, of_system in shot_rows.items():
    told = pd.DataFrame(of_system)
    told = told[
        told["metric"].str.fullmatch(r"top1@[1-9]\d*")
        & ~told["protocol"].str.contains("mean")
    ]
    for way, part in told.groupby("protocol", sort=False):
        name = f"{system}, {way.removeprefix('few-shot ').partition(':')[0]}"
        curves[name] = part.assign(x=part["metric"].str[5:].astype(int))[
            ["x", "value", "ci_low", "ci_high"]
        ]
guess = 100 / len(shot_names)
chance = pd.DataFrame(
    {"x": [min(how["shots"]), max(how["shots"])], "value": [guess, guess]}
)
ends = "; ".join(
    f"{name} from {curve['value'].iloc[0]:.0f} to {curve['value'].iloc[-1]:.0f}"
    for name, curve in curves.items()
)
charts.picture(
    charts.curves_with_bands(
        curves, "labelled pictures of each class", "top-1, percent", chance
    ),
    "Curves of top-1 by the number of labelled pictures of each class, from "
    f"the fewest to the most: {ends}.",
)

# %% tags=["remove-input"]
first, last = min(how["shots"]), max(how["shots"])
shot = {
    (
        s,
        r["protocol"].partition(":")[0].split()[1],
        r["metric"].partition("@")[2],
    ): r
    for s, rs in shot_rows.items()
    for r in rs
    if r["metric"][:4] == "top1"
}

# %% tags=["remove-input"]
mine = {
    key[1:]: row["value"]
    for key, row in shot.items()
    if key[0] == "the book's model"
}
ahead = [
    mine["text", str(many)] - mine["linear", str(many)]
    for many in (first, last)
]
numbers.prose(
    "With the sentences of `as in training` and no picture, the book's model "
    f"is right for {mine['text', '0']:.1f} % of {len(tested)} chips of "
    f"{len(shot_names)} classes. With {numbers.counted(first, 'picture')} of "
    f"each class as well it is right for {mine['text', str(first)]:.1f} %, and "
    f"without the sentences for {mine['linear', str(first)]:.1f} %; with "
    f"{last} pictures for {mine['text', str(last)]:.1f} and "
    f"{mine['linear', str(last)]:.1f} %. So sentences are worth "
    f"{ahead[0]:.1f} points beside {numbers.counted(first, 'picture')} of each "
    f"class, and {ahead[1]:.1f} beside {last}.",
    f"On all {len(known_labels)} training chips, at most {most} of a class, "
    f"the linear probe reaches {mine['linear', 'all']:.1f} %, that of "
    f"ImageNet's tower {shot[TOWER, 'linear', 'all']['value']:.1f} %, colours "
    f"alone {shot['colours', 'linear', 'all']['value']:.1f} %.",
)

# %% [markdown]
# The model has seen these training chips, with their captions but without these labels; the test chips lie elsewhere. With other weights
# (`--model open_clip:NAME:FILE`, or vectors in a file) you have to ask again what was seen: [](10_leakage).

# %% [markdown]
# ## Do the intervals keep their promise?
#
# Of a hundred 95 % intervals, about 95 should contain the truth. Where the truth is known this can be counted. So test sets are drawn from
# models with a known score, and each gets two intervals: percentiles over resamples, and this package's own. The package uses percentiles
# if there are at least a hundred independent units and fifteen hits and misses; in all other cases, and for calibration errors and
# few-shot seeds, it uses something wider. Each row is one kind of test set.

# %% mystnb={"code_prompt_show": "Code: table of how often intervals hold the truth"} tags=["hide-input"]
rng = np.random.default_rng(seed)
worlds = [
    coverage.accuracy(n, p)
    for n, p in ((50, 90), (50, 98), (200, 98), (500, 60), (2000, 90))
]
worlds += [
    coverage.captions(n, p, rng) for n, p in ((50, 5), (200, 40), (1000, 90))
]
worlds += [
    coverage.blocks(n, p, rng)
    for n, p in ((20, 30), (50, 90), (300, 60), (300, 97))
]
worlds += [coverage.blocks(100, 30, rng, whole=False)]
worlds += [
    coverage.balanced(5),
    coverage.area(100, 5, 2.5),
    coverage.precision(100, 10, 1.5, seed),
]
worlds += [coverage.difference(50, 99, 97), coverage.difference(1000, 95, 90)]
worlds += [
    coverage.calibration(500, 1.0),
    coverage.calibration(500, 1.5),
    coverage.seeds(500, 5),
]
counted = coverage.simulate(
    worlds,
    sets=10 if few else 200,
    bootstrap_samples=100 if few else 500,
    seed=seed,
)
HEADS = {
    "kind": "test set",
    "truth": "true score",
    "images": "images",
    "units": "units",
    "percentiles": "percentiles, %",
    "shipped": "package, %",
}
of_rows = counted["metric"] + ": " + counted["kind"]
numbers.table(counted.assign(kind=of_rows)[list(HEADS)].rename(columns=HEADS))

# %% tags=["remove-input"]
single = counted["kind"] == "overlapping chips, resampled one by one"
short = counted[~single & (counted["percentiles"] < coverage.TARGET)]
left = counted[~single & (counted["shipped"] < coverage.TARGET)]
numbers.prose(
    "Percentiles contain the truth in fewer than "
    f"{coverage.TARGET:.0f} of 100 cases in {len(short)} of {(~single).sum()} "
    "rows, at worst in "
    f"{counted['percentiles'][~single].min():g}; this package's intervals in "
    f"{numbers.counted(len(left), 'row')}, at worst in "
    f"{counted['shipped'][~single].min():g}. (A share of "
    f"{10 if few else 200} sets is itself uncertain by three points.) If chips "
    "that share ground are resampled one by one, no method helps: "
    f"{counted['shipped'][single].iloc[0]:g} of 100."
)

# %% [markdown]
# ## The clearest chips, and the worst mistakes
#
# Chips are ordered by how far the score of the true class is above the best other. First come the clearest chips of six classes, then the
# six chips whose true class is furthest behind.

# %% mystnb={"code_prompt_show": "Code: clearest chips and worst mistakes"} tags=["hide-input"]
scores = image_embeddings @ vectors[best].T
own = scores[np.arange(len(labels)), labels]
others = np.where(
    np.arange(len(class_names)) == labels[:, None], -np.inf, scores
)
lead = own - others.max(1)
order = np.argsort(-lead)
clearest = order[np.sort(np.unique(labels[order], return_index=True)[1])[:6]]
galleries.gallery(
    [
        {
            "image": pictures[i],
            "alt": scale.described(samples[kept[i]].record),
            "badge": "✓" if lead[i] > 0 else "✗",
        }
        | {
            "caption": f"{class_names[labels[i]]}; said: "
            f"{class_names[scores[i].argmax()]}",
            "ground": samples[kept[i]].record,
        }
        for i in [*clearest, *order[-6:][::-1]]
    ],
    thumbnail_px=100,
)

# %% [markdown]
# ## Scenes of RSICD
#
# RSICD's file names tell the class of a scene. How often is a model right about them that was told no label? The small model of this book
# has never seen an airport, so this takes RSICD and a model that has: one that [](12_rsicd) trains, or any that
# `rsvlm evaluate classify --model` takes.
#
# ```bash
# rsvlm run notebooks/08_classification.ipynb -p data=RSICD -p model=MODEL
# ```

# %% mystnb={"code_prompt_show": "Code: scenes of RSICD"} tags=["hide-input"]
home = Path(
    data
    or os.environ.get("RSVLM_DATA")
    or stages.root().parent / "shared" / "data"
)
folder = next(
    (
        path
        for path in (home, home / "rsicd")
        if (path / "dataset_rsicd.json").is_file()
    ),
    None,
)
scene_rows = []
if folder and model:
    other = encoders.open_encoder(model, device=device)
    names, items = benchmarks.labelled(folder, "RSICD-scenes", "val")
    parts = {"model": other.fingerprint, "data": benchmarks.fingerprint(folder)}
    parts["code"] = stages.source_hash(*embeddings.ROOMS)
    stage = stages.stage(
        "scenes",
        parts,
        lambda out: embeddings.labelled(other, items, out, class_names=names),
        recompute,
    )
    scenes = embeddings.read_labelled(stage)
    for name in ("paper", "plain", "ensemble"):
        of_classes = classification.class_embeddings(
            other, names, prompt_set(name)
        )
        about = settings | {
            "dataset": "RSICD-scenes",
            "split": "val",
            "logit_scale": other.logit_scale,
            "protocol": name,
        }
        scene_rows += classification.evaluate(
            scenes.image_embeddings, scenes.labels, of_classes, names, **about
        )

# %% tags=["remove-input"]
told = {row["protocol"]: row for row in scene_rows if row["metric"] == "top1"}
lines = [
    f"`{name}` {numbers.interval(row, unit='%')}" for name, row in told.items()
]
needed = {
    "RSICD on disk (`data`)": folder,
    "a model of scenes (`model`)": model,
}
missing = " and ".join(name for name, there in needed.items() if not there)
numbers.prose(
    f"Top-1 on the scenes of {told['plain']['n']} validation images, of "
    f"{len(names)} classes: {'; '.join(lines)}. Guessing gives "
    f"{told['plain']['chance']:.1f} %."
    if scene_rows
    else f"Not measured in this build, which lacks {missing}. With them, top-1 "
    "on the scenes of RSICD's validation images stands here for the prompts "
    "`paper`, `plain` and `ensemble`, with intervals and beside guessing."
)

# %% tags=["remove-input"]
beside, resampled = [], {}
if shot_names == class_names:
    of_model = (
        image_embeddings,
        labels,
        vectors["as in training"],
        class_names,
    )
    facts = settings | {"protocol": "as in training"}
    model_rows = classification.evaluate(
        *of_model, resampled=resampled, **facts
    )
    of_colours = known_colours, known_labels, asked_colours, labels, class_names
    many = statistics.count_blocks(settings["blocks"], len(labels))
    without = baselines.of_classes(*of_colours, **facts)
    for which, (which_rows, drawn) in without.items():
        beside += baselines.beside(
            model_rows, resampled, which, which_rows, drawn, many
        )

# %% tags=["remove-input"]
origin = provenance(
    options,
    benchmarks.fingerprint(chips),
    str(resolve_device(device)),
    started,
    "rsvlm run notebooks/08_classification.ipynb",
)
saved = results.save_result(
    "classification", saved_as, options, rows + beside + scene_rows, origin
)

# %% [markdown]
# ## Exercise
#
# Give the few shots a text that misleads: `vectors["paper"]` instead of `vectors["as in training"]`, with `recompute = True`, or the page
# reads what is stored. Where does the curve with texts begin now, and where does it end?
#
# ```{dropdown} Answer
# With no picture it is at the accuracy of the prompt `paper`, because there is nothing but the text. A penalty holds the regression to its
# texts but does not bind it: each labelled picture pulls, and the more there are, the less the texts count. So the curve rises faster
# than the one above and ends near the linear probe, which knows no text. A bad sentence costs most where pictures are fewest, as a good
# one is worth most there.
# ```
#
# ## Takeaways

# %% tags=["remove-input"]
numbers.points(
    f"Without a single label the model is right for {top[best]['value']:.1f} % "
    f"of {len(kept)} chips from "
    f"{numbers.counted(len(class_names), 'class', 'classes')}; guessing gives "
    f"{top[best]['chance']:.1f} %.",
    "The words matter: the best prompt and the worst are "
    f"{top[best]['value'] - top[worst]['value']:.1f} points apart (`{best}` "
    f"and `{worst}`), and everyday names of the same classes cost "
    f"{max(ours) - max(theirs):.1f}.",
    f"With {last} labelled pictures of each class it is right for "
    f"{mine['text', str(last)]:.1f} % with texts and "
    f"{mine['linear', str(last)]:.1f} % without; with "
    f"{numbers.counted(first, 'picture')}, for "
    f"{mine['text', str(first)]:.1f} and {mine['linear', str(first)]:.1f} %.",
    "Depending on the prompt, the calibration error is between "
    f"{min(row['value'] for row in ece.values()):.1f} and "
    f"{max(row['value'] for row in ece.values()):.1f} points.",
)

# %% tags=["remove-input"]
tables.provenance(origin, {"The few-shot classifiers": before})
