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
# # Unseen classes
#
# **Remove every chip that shows the sea from the training data, and every caption that says the word. What does the model still know of
# the sea, compared with one that saw as many chips of all kinds?**
#
# Time: ten minutes to read, and seconds to run: what six short trainings gave, three kinds of data with two seeds each, is read from
# `results/`. With `-p recompute=True` they run here, in a few minutes on two CPU cores.
#
# {term}`Zero-shot <zero-shot>` models are praised for knowing what they were never taught. But were they never taught it? A class that is
# missing from the labels may well be in the captions, under its own name or another. The only way to be sure is to remove a thing from the
# training data altogether, and to see what is left.

# %% mystnb={"code_prompt_show": "Code: parameters of this page"} tags=["parameters", "after:01_landmarks", "hide-input"]
profile = "laptop"
seed = 0
device = "auto"
recompute = False
run_name = ""
overrides = ""
held_out = "sea"
seen = "green land,tan land,lake,island"
seeds = "0,1"
data = ""

# %% mystnb={"code_prompt_show": "Code: imports"} tags=["hide-input"]
import itertools
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import rsvlm
from rsvlm import config
from rsvlm.book.figures import charts, galleries, numbers, scale, tables
from rsvlm.data import benchmarks
from rsvlm.data.demo import categories, earth
from rsvlm.evaluation import (
    baselines,
    embeddings,
    retrieval,
    shared_ground,
    statistics,
    unseen,
)
from rsvlm.model import embed, images
from rsvlm.model.device import resolve_device
from rsvlm.records import provenance, results
from rsvlm.training import train

# %% mystnb={"code_prompt_show": "Code: options of the six trainings"} tags=["hide-input"]
started = time.time()
given = {"seed": seed, "device": device}
options = config.load(profile, given | config.pairs(overrides))
folder = Path(data) if data else earth.load_or_build(options)
seed_list = [int(text) for text in str(seeds).split(",")][
    : 1 if profile == "smoke" else None
]
steps = {"smoke": 8, "laptop": 64}.get(profile, options.train.steps)
settings = {
    "train.caption_weight": 0,
    "train.checkpoint_every": steps,
    "model.context_length": 64,
}
settings |= (
    {"train.batch_size": 64, "train.warmup_steps": 10, "train.twins": 1}
    if profile == "laptop"
    else {}
)

# %% [markdown]
# ## What is left out?
#
# The paper trains without 89 landmark classes and finds that they are still recognised. Its model had read the web before, where those
# classes have names; ours has seen ImageNet's pictures, but no words. So there are three kinds of training data, with equal numbers of
# pairs:
#
# - **all**, the control: {term}`chips <chip>` drawn at random from all of them.
# - **held out**: no chip with a held-out {term}`landmark` in its record, and no caption with a held-out word, not even inside another word.
# - **held out + names**: the same, but every eighth pair is a chip of a held-out category with its name alone, `An aerial image of sea`.
#   This stands for what the web at large tells: the word and the look, without any landmark caption.

# %%
held, control = (
    unseen.categories(names, categories.CATEGORIES)
    for names in (held_out, seen)
)
sets = unseen.hold_out(folder, held, seed, recompute)

# %% tags=["remove-input"]
counts = json.loads((sets / "counts.json").read_text())
numbers.prose(
    f"Of {counts['train']:,} training samples, {counts['shown']:,} show what "
    f"is held out and {counts['told']:,} name it; {counts['kept']:,} are kept."
)

# %% [markdown]
# One model is trained for each kind of data and each seed, and it embeds the test chips:


# %%
def trained():
    models, vectors = {}, {}
    for arm, number in itertools.product(unseen.ARMS, seed_list):
        parts, stages = unseen.arm_data(sets, arm, steps)
        chosen = settings | config.pairs(overrides)
        chosen |= {"seed": number, "device": device, "train.stages": stages}
        chosen = config.load(profile, chosen)
        model = train.load_or_train(chosen, parts, recompute) / "model"
        stored = embeddings.load_or_embed(model, folder, "test", device=device)
        models[arm, number] = rsvlm.load(model, device=device)
        vectors[arm, number] = embeddings.read(stored)
    return models, vectors


# %% [markdown]
# ## What is asked
#
# **By captions.** Every caption of a test chip is a query for that chip. Captions that name a held-out category are counted apart from the
# others, because models differ on both. A caption says more than one thing, so what can be lost is the share of one word.
#
# **By one sentence.** Test chips are ordered by how much closer they are to one sentence than to the average caption. (After few steps,
# models put some chips near every text.) The area under the ROC curve is the probability that a chip that shows the thing comes before
# one that does not; 50 % is guessing. Each category is asked for with four sentences:
#
# - the *paper*'s prompt;
# - a *sentence* in the style of the captions;
# - its *frame*, which is the same without the word, to see what the other words are worth;
# - a *description* in words that were not held out.
#
# **Colours alone** is the {term}`baseline`: a ridge regression from 54 colour values of a chip to the words of its captions, learned from
# training chips of all kinds. Intervals resample chips that share ground together.

# %% mystnb={"code_prompt_show": "Code: test chips, and what they show"} tags=["hide-input"]
by_key = {sample.key: sample for sample in benchmarks.samples(folder, "test")}
palette = "colours alone"
shown_arms = (*unseen.ARMS, palette)
first, second = groups = ("captions that name it", "other captions")
present = {
    c.name: {
        key: unseen.shows(sample.record, c) for key, sample in by_key.items()
    }
    for c in held + control
}
asked = [
    (c, kind, text)
    for c in held + control
    for kind, text in unseen.prompts(c).items()
    if 0 < sum(present[c.name].values()) < len(by_key)
]
category = held[0]


def of_colours(found):
    """The ridge, and its vectors of the test chips and their captions."""
    known, captions_of, _ = baselines.read(
        itertools.islice(benchmarks.samples(folder, "train"), 2000)
    )
    ridge = baselines.colour_ridge(known, captions_of, seed=seed)
    pixels = [images.decode(by_key[key].image) for key in found.keys]
    here = ridge.images(np.stack([baselines.colours(one) for one in pixels]))
    return ridge, here, ridge.texts(found.captions)


# %% mystnb={"code_prompt_show": "Code: how recalls are measured"} tags=["hide-input"]
def ranked(vectors, by_colour):
    """(S, M) ranks of each kind of data, a row for each seed."""
    owners = vectors["all", seed_list[0]].image_of_caption
    ranks = {arm: [] for arm in shown_arms}
    for (arm, _), one in vectors.items():
        pair = one.image_embeddings, one.caption_embeddings
        ranks[arm].append(retrieval.ranks(*pair, owners)[1])
    ranks[palette].append(retrieval.ranks(*by_colour, owners)[1])
    return {arm: np.stack(several) for arm, several in ranks.items()}


def recalled(ranks, owners, group, times):
    """Recall at 10 of some captions by each kind of data."""
    each = {
        arm: statistics.summary(
            statistics.recall,
            [several[:, group]],
            owners[group],
            10,
            times=times,
        )
        for arm, several in ranks.items()
    }
    return {"n": int(group.sum())} | unseen.compared(each)


# %% mystnb={"code_prompt_show": "Code: how areas under the curve are measured"} tags=["hide-input"]
def scored(models, vectors, ridge, by_colour):
    """(S, N, sentences) of each kind of data: how close chips are."""
    texts = [text for _, _, text in asked]
    pictures, captions = by_colour
    scores = {arm: [] for arm in shown_arms}
    beyond = ridge.texts(texts) - captions.mean(axis=0)
    scores[palette].append(pictures @ beyond.T)
    for (arm, number), one in vectors.items():
        beyond = embed.texts(models[arm, number], texts)
        beyond = beyond - one.caption_embeddings.mean(axis=0)
        scores[arm].append(one.image_embeddings @ beyond.T)
    return {arm: np.stack(several) for arm, several in scores.items()}


def told_apart(scores, keys, times):
    """The area under the curve of each sentence and kind of data."""
    areas = {}
    for place, (c, kind, _) in enumerate(asked):
        shown = np.array([present[c.name][key] for key in keys])
        each = {
            arm: statistics.summary(
                statistics.mean_auc,
                [several[:, :, place]],
                shown,
                times=times,
            )
            for arm, several in scores.items()
        }
        areas.setdefault(c.name, {})[kind] = unseen.compared(each)
    return areas


# %% mystnb={"code_prompt_show": "Code: all of it, with the trainings"} tags=["hide-input"]
def come_first(models, vectors):
    """Keys of the six chips that each model finds first."""
    first = {}
    for arm in unseen.ARMS:
        asking = embed.texts(models[arm, seed_list[0]], [category.sentence])
        found = vectors[arm, seed_list[0]]
        places = embeddings.search(asking, found.image_embeddings, k=6)[1][0]
        first[arm] = [found.keys[place] for place in places]
    return first


def measured():
    models, vectors = trained()
    found = vectors["all", seed_list[0]]
    owners = found.image_of_caption
    blocks = shared_ground.blocks([by_key[key].record for key in found.keys])
    often = options.evaluate.bootstrap_samples
    times = statistics.resamples(len(found.keys), often, seed, blocks)
    ridge, *by_colour = of_colours(found)
    ranks = ranked(vectors, by_colour)
    names_it = np.array(
        [any(unseen.speaks_of(t, c) for c in held) for t in found.captions]
    )
    of_groups = zip(groups, (names_it, ~names_it), strict=True)
    captions = {n: recalled(ranks, owners, g, times) for n, g in of_groups}
    scores = scored(models, vectors, ridge, by_colour)
    areas = told_apart(scores, found.keys, times)
    first = come_first(models, vectors)
    return {"captions": captions, "sentences": areas, "first": first}


# %% mystnb={"code_prompt_show": "Code: read what was measured, or train"} tags=["hide-input"]
where = run_name or f"{profile}-seeds{'-'.join(map(str, seed_list))}"
decides = {"data": data, "held_out": held_out, "seen": seen}
decides |= {"seeds": seed_list, "steps": steps}
before = None
if not recompute:
    before = results.stored("unseen-classes", f"{where}-all", options, decides)
found = before or decides | measured()

# %% tags=["remove-input"]
numbers.measured_before(before, "The six trainings")

# %% [markdown]
# ## Can it find a chip by a caption that names what it never saw?

# %% mystnb={"code_prompt_show": "Code: dots of the recalls"} tags=["hide-input"]
captions = found["captions"]
chance = 1000 / len(by_key)
shown = statistics.dots(
    {
        (name, arm): captions[name]["each"][arm]
        for arm in shown_arms
        for name in groups
    },
    chance,
)
charts.picture(
    charts.interval_dots(shown, "recall at 10, text → image, percent"),
    "Dots with intervals of recall at 10, for captions that name a held-out "
    "category and for others: three kinds of training data, and colours alone.",
)

# %% tags=["remove-input"]
lost = {
    arm: {name: captions[name]["lost"][arm] for name in groups}
    for arm in unseen.ARMS
}
called = " or ".join(f"*{c.name}*" for c in held)
shares = {
    arm: " and ".join(
        f"{captions[name]['each'][arm]['value']:.1f}" for name in groups
    )
    for arm in shown_arms
}
numbers.prose(
    "Without the chips and the words, recall changes by "
    f"{statistics.in_words(lost['held out'][first])} on the "
    f"{captions[first]['n']:,} captions that name {called}, and by "
    f"{statistics.in_words(lost['held out'][second])} on the "
    f"{captions[second]['n']:,} others.",
    "With names alone it changes by "
    f"{statistics.in_words(lost['held out + names'][first])} and "
    f"{statistics.in_words(lost['held out + names'][second])}. Small dots are "
    "single seeds. Intervals resample images; they say nothing about another "
    "seed.",
    f"The control itself reaches {shares['all']} %; colours alone, learned "
    f"from chips of all kinds, reach {shares[palette]} %.",
)

# %% [markdown]
# ## Does it know whether a chip shows the thing?
#
# An untrained word can point anywhere, so a value far from 50 % with one seed is no proof of knowledge. Check that the dots of the seeds
# lie together.

# %% mystnb={"code_prompt_show": "Code: dots of the areas under the curve"} tags=["hide-input"]
areas = found["sentences"]
sentences_asked = [(name, kind) for name in areas for kind in areas[name]]
lines = {
    (f"{name}, {kind}", arm): areas[name][kind]["each"][arm]
    for name, kind in sentences_asked
    for arm in shown_arms
}
charts.picture(
    charts.interval_dots(
        statistics.dots(lines, 50.0), "area under the ROC curve, percent"
    ),
    "Dots with intervals of the area under the curve, a line for each category "
    "and sentence, a colour for each kind of training data; held-out "
    "categories stand first.",
)


# %% tags=["remove-input"]
sentences = []
for name in [c.name for c in held if c.name in areas]:
    value = areas[name]["sentence"]["each"]
    gaps = areas[name]["sentence"]["lost"]
    sure = value["all"]["ci_low"] > 50 and min(value["all"]["seeds"]) > 50
    doubt = (
        ""
        if sure
        else " **The control itself does not know it with every seed, so these "
        "differences show nothing.**"
    )
    sentences.append(
        f"*{name}*: an area of {value['all']['value']:.0f} % where it was "
        "seen; "
        f"{value['held out']['value']:.0f} % where it was not, a difference of "
        f"{statistics.in_words(gaps['held out'])}; "
        f"{value['held out + names']['value']:.0f} % with its name alone, a "
        f"difference of {statistics.in_words(gaps['held out + names'])}; "
        f"{value[palette]['value']:.0f} % by colours alone.{doubt}"
    )
    if "description" in areas[name]:
        told = areas[name]["description"]["each"]
        sentences.append(
            "A description of it in other words reaches "
            f"{numbers.interval(told['all'], 0, unit='%')} where it was seen "
            f"and {numbers.interval(told['held out'], 0, unit='%')} where it "
            "was not; guessing gives 50 %."
        )
numbers.prose(
    "Areas under the curve, asked with the sentence in the style of the "
    "captions.",
    *sentences,
)

# %% [markdown]
# ## Is it the right thing to hold out?
#
# The control must know what is held out, asked with the paper's prompt and with the sentence and for every seed, or there is nothing to
# lose. And it must be possible to remove it without removing too many chips, and without leaving something behind that gives it away. This
# is measured on the control alone, without further training:


# %% mystnb={"code_prompt_show": "Code: table of what could be held out"} tags=["hide-input"]
SENTENCES = ("paper", "sentence")


def worst(name):
    kinds = [kind for kind in SENTENCES if kind in areas[name]]
    return np.min([areas[name][kind]["each"]["all"]["seeds"] for kind in kinds])


def choice(name):
    here = [key for key, shown in present[name].items() if shown]
    row = {"category": name, "test chips, %": 100 * len(here) / len(by_key)}
    row["lowest area, %"] = worst(name)
    others = {
        other: 100 * np.mean([chips[key] for key in here])
        for other, chips in present.items()
        if other != name
    }
    most = max(others, key=others.get, default="")
    also = f"{most} ({others[most]:.0f})" if most else ""
    return row | {"most often with it, %": also}


choices = pd.DataFrame([choice(name) for name in areas])
numbers.table(choices, digits=0)

# %% tags=["remove-input"]
lowest = choices.set_index("category")["lowest area, %"]
firm = list(lowest.index[lowest >= 80])
weak = [
    f"*{c.name}* ({lowest[c.name]:.0f} %)"
    for c in held
    if c.name in lowest.index and c.name not in firm
]
numbers.prose(
    "The lowest area is that over all seeds, the paper's prompt and the "
    "sentence; the last column is what these chips also show most often. By "
    "the area, the "
    f"control knows {', '.join(firm) or 'none of these'} (80 % or more).",
    f"It is less sure of {', '.join(weak)}: read what this page says of it "
    "with care, or give the control more steps."
    if weak
    else "",
)

# %% [markdown]
# A colour of land is not a thing, and one colour shades into the next. Islands are rarer than the sea, which would leave more chips to
# train on. But where there is an island there is the sea, and a model that never saw an island still learns what lies around it. So by
# default this page holds out the sea, although more than half of the training chips go with it.
#
# ## Which chips come first?
#
# These are the chips that each model ranks first for the sentence of the first held-out category. A tick marks those that show it.

# %% mystnb={"code_prompt_show": "Code: chips that come first"} tags=["hide-input"]
queries = []
for arm, keys in found["first"].items():
    shown = [
        {
            "image": images.decode(by_key[key].image),
            "alt": scale.described(by_key[key].record),
            "right": present[category.name][key],
            "ground": by_key[key].record,
        }
        for key in keys
    ]
    note = f"training data: {arm}"
    queries.append({"query": category.sentence, "note": note, "images": shown})
galleries.text_to_image(queries)

# %% tags=["remove-input"]
again = "" if before else " -p recompute=True"
origin = provenance.provenance(
    options,
    benchmarks.fingerprint(folder),
    str(resolve_device(device)),
    started,
    f"rsvlm run notebooks/09_unseen_classes.ipynb{again}",
)
about = {"dataset": benchmarks.name(folder), "split": "test"}


def rows_of(arm):
    rows = []
    for name in groups:
        more = {"protocol": "plain", "direction": "t2i", "chance": chance}
        more |= {"metric": f"R@10[{name}]", "n": captions[name]["n"]}
        rows.append(more | statistics.row(captions[name]["each"][arm]))
    for name, kind in sentences_asked:
        more = {"protocol": kind, "direction": "both", "chance": 50.0}
        more |= {"metric": f"auc[{name}]", "n": len(by_key)}
        rows.append(more | statistics.row(areas[name][kind]["each"][arm]))
    return [about | row for row in rows]


for arm in reversed(shown_arms) if before is None else ():
    name = f"{where}-{arm.replace(' + ', '-').replace(' ', '-')}"
    kept = found if arm == "all" else None
    results.save_result(
        "unseen-classes", name, options, rows_of(arm), origin, kept
    )

# %% [markdown]
# ## Exercise
#
# Suppose that a model without the sea recognises it by the *frame*, a sentence without the word, nearly as well as by the *sentence*. What
# has it shown? And what else would have to be held out to rule this out?
#
# ```{dropdown} Answer
# It has shown that it knows the other words: “to the west covers about half of the picture” is said of lakes too, and these words have come
# to mean a large even surface at one side. That is knowledge of something similar, not of the sea. To rule it out, hold out whatever
# shares the words, that is, lakes and their captions (`-p held_out=sea,lake -p seen=island`); then less is left to train on. The captions
# decide what counts as unseen as much as the list of classes does.
# ```
#
# ## Takeaways

# %% tags=["remove-input"]
of_sentence = {
    c.name: areas[c.name]["sentence"]["each"] for c in held if c.name in areas
}
numbers.points(
    f"{counts['kept']:,} of {counts['train']:,} training samples neither show "
    f"nor name {called}.",
    "Without it, recall at 10 changes by "
    f"{numbers.interval(lost['held out'][first], signed=True, unit='points')} "
    "for captions that name it, and by "
    f"{numbers.interval(lost['held out'][second], signed=True)} for others.",
    *(
        f"By the sentence, *{name}* has an area under the curve of "
        f"{area['held out']['value']:.0f} % after training without it, "
        f"{area['held out + names']['value']:.0f} % with its name alone, and "
        f"{area['all']['value']:.0f} % where it was seen."
        for name, area in of_sentence.items()
    ),
    *(
        f"A description of *{name}* in known words reaches "
        f"{kinds['description']['each']['held out']['value']:.0f} % where it "
        "was not seen and "
        f"{kinds['description']['each']['all']['value']:.0f} % where it was; "
        "guessing gives 50 %."
        for name, kinds in areas.items()
        if name in of_sentence and "description" in kinds
    ),
)

# %% tags=["remove-input"]
tables.provenance(origin, {"The six trainings": before})
