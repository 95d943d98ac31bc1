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
# Time: ten minutes to read; three to four to run on two CPU cores in profile `laptop`, seconds in `smoke`. There are six short trainings,
# three kinds of data with two seeds each; a run that exists is not trained again.
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
# - **held out + names**: the same, but every eighth pair is a chip of a held-out category with its name alone, `An aerial image of a sea`.
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
models, vectors = {}, {}
for arm, number in itertools.product(unseen.ARMS, seed_list):
    parts, stages = unseen.arm_data(sets, arm, steps)
    chosen = settings | config.pairs(overrides)
    chosen |= {"seed": number, "device": device, "train.stages": stages}
    run = train.load_or_train(config.load(profile, chosen), parts, recompute)
    models[arm, number] = rsvlm.load(run / "model", device=device)
    stored = embeddings.load_or_embed(
        run / "model", folder, "test", device=device
    )
    vectors[arm, number] = embeddings.read(stored)

# %% [markdown]
# ## Can it find a chip by a caption that names what it never saw?
#
# Every caption of a test chip is a query for that chip. Captions that name a held-out category are counted apart from the others, because
# models differ on both. A caption says more than one thing, so what can be lost is the share of one word. **Colours alone** is the
# {term}`baseline`: a ridge regression from 54 colour values of a chip to the words of its captions, learned from training chips of all
# kinds. Intervals resample chips that share ground together.

# %% mystnb={"code_prompt_show": "Code: colours alone, and what is asked"} tags=["hide-input"]
found = vectors["all", seed_list[0]]
by_key = {sample.key: sample for sample in benchmarks.samples(folder, "test")}
records = {key: by_key[key].record for key in found.keys}
blocks = shared_ground.blocks(list(records.values()))
times = statistics.resamples(
    len(found.keys), options.evaluate.bootstrap_samples, seed, blocks
)
known_colours, captions_of, _ = baselines.read(
    itertools.islice(benchmarks.samples(folder, "train"), 2000)
)
ridge = baselines.colour_ridge(known_colours, captions_of, seed=seed)
pictures = [images.decode(by_key[key].image) for key in found.keys]
by_colour = ridge.images(
    np.stack([baselines.colours(picture) for picture in pictures])
)
colour_texts = ridge.texts(found.captions)
palette = "colours alone"
shown_arms = (*unseen.ARMS, palette)

# %% mystnb={"code_prompt_show": "Code: recalls of captions that name it, and of others"} tags=["hide-input"]
names_it = np.array(
    [any(unseen.speaks_of(text, c) for c in held) for text in found.captions]
)
groups = {"captions that name it": names_it, "other captions": ~names_it}
ranks = {arm: [] for arm in shown_arms}
for (arm, _), one in vectors.items():
    ranks[arm].append(
        retrieval.ranks(
            one.image_embeddings, one.caption_embeddings, one.image_of_caption
        )[1]
    )
ranks[palette].append(
    retrieval.ranks(by_colour, colour_texts, found.image_of_caption)[1]
)
recalls = {
    (arm, name): statistics.summary(
        statistics.recall,
        [np.stack(ranks[arm])[:, group]],
        found.image_of_caption[group],
        10,
        times=times,
    )
    for arm in shown_arms
    for name, group in groups.items()
}
chance = 1000 / len(found.keys)
shown = statistics.dots(
    {(name, arm): entry for (arm, name), entry in recalls.items()}, chance
)
charts.picture(
    charts.interval_dots(shown, "recall at 10, text → image, percent"),
    "Dots with intervals of recall at 10, for captions that name a held-out "
    "category and for others: three kinds of training data, and colours alone.",
)

# %% tags=["remove-input"]
lost = {
    arm: {
        name: statistics.difference(recalls[arm, name], recalls["all", name])
        for name in groups
    }
    for arm in unseen.ARMS
}
first, second = groups
called = held_out.replace(",", " or ")
numbers.prose(
    "Without the chips and the words, recall changes by "
    f"{statistics.in_words(lost['held out'][first])} on the {names_it.sum():,} "
    f"captions that name {called}, and by "
    f"{statistics.in_words(lost['held out'][second])} on the "
    f"{(~names_it).sum():,} others.",
    "With names alone it changes by "
    f"{statistics.in_words(lost['held out + names'][first])} and "
    f"{statistics.in_words(lost['held out + names'][second])}. Small dots are "
    "single seeds. Intervals resample images; they say nothing about another "
    "seed.",
)

# %% [markdown]
# ## Does it know whether a chip shows the thing?
#
# Test chips are ordered by how much closer they are to one sentence than to the average caption. (After few steps, models put some chips
# near every text.) The area under the ROC curve is the probability that a chip that shows the thing comes before one that does not; 50 %
# is guessing. Each category is asked for with four sentences:
#
# - the *paper*'s prompt;
# - a *sentence* in the style of the captions;
# - its *frame*, which is the same without the word, to see what the other words are worth;
# - a *description* in words that were not held out.
#
# An untrained word can point anywhere, so a value far from 50 % with one seed is no proof of knowledge. Check that the dots of the seeds
# lie together.

# %% mystnb={"code_prompt_show": "Code: areas under the curve of all sentences"} tags=["hide-input"]
present = {
    c.name: np.array([unseen.shows(records[key], c) for key in found.keys])
    for c in held + control
}
asked = [
    (c, kind, text)
    for c in held + control
    for kind, text in unseen.prompts(c).items()
]
asked = [
    (c, kind, text)
    for c, kind, text in asked
    if 0 < present[c.name].sum() < len(found.keys)
]
texts = [text for _, _, text in asked]
known = {}
all_scores = {
    palette: (by_colour @ (ridge.texts(texts) - colour_texts.mean(axis=0)).T)[
        None
    ]
}
for arm in unseen.ARMS:
    pairs = [
        (vectors[arm, number], models[arm, number]) for number in seed_list
    ]
    beyond = [
        (one, embed.texts(model, texts) - one.caption_embeddings.mean(axis=0))
        for one, model in pairs
    ]
    all_scores[arm] = np.stack(
        [one.image_embeddings @ text.T for one, text in beyond]
    )  # (S, N, prompts)
for arm in shown_arms:
    for place, (c, kind, _) in enumerate(asked):
        known[c.name, kind, arm] = statistics.summary(
            statistics.mean_auc,
            [all_scores[arm][:, :, place]],
            present[c.name],
            times=times,
        )

# %% mystnb={"code_prompt_show": "Code: dots of the areas under the curve"} tags=["hide-input"]
lines = {
    (f"{name}, {kind}", arm): entry
    for (name, kind, arm), entry in known.items()
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
for name in [c.name for c in held if (c.name, "sentence", "all") in known]:
    gaps = {
        arm: statistics.difference(
            known[name, "sentence", arm], known[name, "sentence", "all"]
        )
        for arm in unseen.ARMS
    }
    value = {arm: known[name, "sentence", arm]["value"] for arm in unseen.ARMS}
    sure = (
        known[name, "sentence", "all"]["ci_low"] > 50
        and min(known[name, "sentence", "all"]["seeds"]) > 50
    )
    doubt = (
        ""
        if sure
        else " **The control itself does not know it with every seed, so these "
        "differences show nothing.**"
    )
    sentences.append(
        f"*{name}*: {value['all']:.0f} % where it was seen; "
        f"{value['held out']:.0f} % where it was not, a difference of "
        f"{statistics.in_words(gaps['held out'])}; "
        f"{value['held out + names']:.0f} % with its name alone, a difference "
        f"of {statistics.in_words(gaps['held out + names'])}; "
        f"{known[name, 'sentence', palette]['value']:.0f} % by colours "
        f"alone.{doubt}"
    )
numbers.prose("With the sentence in the style of the captions:", *sentences)

# %% [markdown]
# ## Is it the right thing to hold out?
#
# The control must know what is held out, with both sentences and every seed, or there is nothing to lose. And it must be possible to
# remove it without removing most of the chips, and without leaving something behind that gives it away. This is measured on the control
# alone, without further training:


# %% mystnb={"code_prompt_show": "Code: table of what could be held out"} tags=["hide-input"]
def worst(c):
    kinds = [k for k in ("paper", "sentence") if (c.name, k, "all") in known]
    return np.min([known[c.name, kind, "all"]["seeds"] for kind in kinds])


def choice(c):
    here, others = present[c.name], {}
    for o in held + control:
        if o.name != c.name:
            others[o.name] = 100 * present[o.name][here].mean()
    most = max(others, key=others.get, default="")
    row = {"category": c.name, "test chips, %": 100 * here.mean()}
    row["lowest area, %"] = worst(c)
    also = f"{others[most]:.0f} ({most})" if most else ""
    return row | {"of these, %, also show": also}


choices = pd.DataFrame(
    [choice(c) for c in dict((c.name, c) for c, _, _ in asked).values()]
)
numbers.table(choices, digits=0)

# %% tags=["remove-input"]
firm = list(choices.loc[choices["lowest area, %"] >= 80, "category"])
weak = [c.name for c in held if c.name not in firm]
numbers.prose(
    "The lowest area is over seeds and both sentences. With all of them the "
    f"control knows {', '.join(firm) or 'none of these'} (80 % or more).",
    f"It knows too little of {', '.join(weak)} for this page to show anything: "
    "give it more steps."
    if weak
    else "",
)

# %% [markdown]
# A colour of land is not a thing, and one colour shades into the next. Islands are rarer than the sea, which would leave more chips to
# train on. But where there is an island there is the sea, and a model that never saw an island still learns what lies around it. So by
# default this page holds out the sea, although half of the chips go with it.
#
# ## Which chips come first?
#
# These are the chips that each model ranks first for the first category. A tick marks those that show it.

# %% mystnb={"code_prompt_show": "Code: chips that come first"} tags=["hide-input"]
category = held[0]
queries = []
for arm in unseen.ARMS:
    asking = embed.texts(models[arm, seed_list[0]], [category.sentence])
    places = embeddings.search(
        asking, vectors[arm, seed_list[0]].image_embeddings, k=6
    )[1][0]
    shown = [
        {
            "image": pictures[i],
            "alt": scale.described(records[found.keys[i]]),
            "right": present[category.name][i],
        }
        | {"ground": records[found.keys[i]]}
        for i in places
    ]
    queries.append({"query": category.sentence, "note": arm, "images": shown})
galleries.text_to_image(queries)

# %% tags=["remove-input"]
origin = provenance.provenance(
    options,
    benchmarks.fingerprint(folder),
    str(resolve_device(device)),
    started,
    "rsvlm run notebooks/09_unseen_classes.ipynb",
)
about = {"dataset": benchmarks.name(folder), "split": "test"}
where = run_name or f"{profile}-seeds{'-'.join(map(str, seed_list))}"
for arm in shown_arms:
    rows = []
    for name, group in groups.items():
        more = {
            "protocol": "plain",
            "direction": "t2i",
            "metric": f"R@10[{name}]",
            "chance": chance,
            "n": int(group.sum()),
        }
        rows.append(about | statistics.row(recalls[arm, name]) | more)
    for c, kind, _ in asked:
        more = {
            "protocol": kind,
            "direction": "both",
            "metric": f"auc[{c.name}]",
            "chance": 50.0,
            "n": len(found.keys),
        }
        rows.append(about | statistics.row(known[c.name, kind, arm]) | more)
    results.save_result(
        "unseen-classes",
        f"{where}-{arm.replace(' + ', '-').replace(' ', '-')}",
        options,
        rows,
        origin,
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
described = [
    (known[c.name, "description", "held out"], c.name)
    for c in held
    if (c.name, "description", "held out") in known
]
numbers.points(
    f"{counts['kept']:,} of {counts['train']:,} training samples neither show "
    f"nor name {called}.",
    "Without it, recall at 10 changes by "
    f"{numbers.interval(lost['held out'][first], signed=True, unit='points')} "
    "for captions that name it, and by "
    f"{numbers.interval(lost['held out'][second], signed=True)} for others.",
    *(
        f"*{c.name}*, with the sentence: "
        f"{known[c.name, 'sentence', 'held out']['value']:.0f} % without it, "
        f"{known[c.name, 'sentence', 'held out + names']['value']:.0f} % with "
        "its name alone, "
        f"{known[c.name, 'sentence', 'all']['value']:.0f} % where it was seen."
        for c in held
        if (c.name, "sentence", "all") in known
    ),
    *(
        f"Where *{name}* was not seen, a description of it in known words "
        f"reaches {entry['value']:.0f} %."
        for entry, name in described
    ),
)

# %% tags=["remove-input"]
tables.provenance(origin)
