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
# **Take every chip that shows the sea out of the training data, and every caption that says the word: what the model still knows of
# it can be measured against one that saw as many chips of all kinds.**
#
# Time: ten minutes to read; three to four to run on two CPU cores in profile `laptop`, seconds in `smoke`. Six short trainings, three kinds
# of data with two seeds each; a run that is there is not trained again.
#
# A zero-shot model is praised for knowing what it was never taught. But was it never taught? A class that is missing from the
# labels may well stand in the captions, under its own name or another. The only way to be sure is to take a thing out of the
# training data, whole, and to look at what is left.

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
from rsvlm.book.figures import charts, galleries, numbers, tables
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
# classes have names; ours has seen ImageNet's pictures, and no words. So there are three kinds of training data, in equal numbers of pairs:
#
# - **all**: as many {term}`chips <chip>` as the next has, drawn at random from all.
# - **held out**: no chip with a held-out {term}`landmark` in its record, and no caption that contains a held-out word, not even within
#   another.
# - **held out + names**: the same, but every eighth pair is a chip of a held-out category with nothing but its name, `An aerial image
#   of a sea`. It stands for what a web at large tells: the word and the look, and no landmark caption.

# %%
held, control = (
    unseen.categories(names, categories.CATEGORIES)
    for names in (held_out, seen)
)
sets = unseen.hold_out(folder, held, seed, recompute)

# %% tags=["remove-input"]
counts = json.loads((sets / "counts.json").read_text())
numbers.prose(
    f"Of {counts['train']:,} training samples {counts['shown']:,} show what is "
    f"held out and {counts['told']:,} name it; {counts['kept']:,} are kept."
)

# %% [markdown]
# One model is trained for each kind of data and each seed, and the test chips are embedded with it:

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
# All captions of the test chips ask for their chip. Those that name a held-out category stand apart from the others, for models
# differ in all. A caption says more than one thing, so what is lost is the share of one word in it. Beside the models stands what
# **colours alone** reach: a ridge regression from 54 colours of a chip to the words of its captions, learnt from training chips of all
# kinds. Chips that share ground are resampled as one.

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
    "Recall at 10 of captions that name a held-out category and of others, for "
    "three kinds of training data and colours alone.",
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
    "Without chips and words, recall changes by "
    f"{statistics.in_words(lost['held out'][first])} on the {names_it.sum():,} "
    f"captions that name {called}, and by "
    f"{statistics.in_words(lost['held out'][second])} on the "
    f"{(~names_it).sum():,} others.",
    "With names alone it changes by "
    f"{statistics.in_words(lost['held out + names'][first])} and "
    f"{statistics.in_words(lost['held out + names'][second])}. Small dots are "
    "single seeds; intervals resample the images, and do not know how another "
    "seed would turn out.",
)

# %% [markdown]
# ## Does it know whether a chip shows the thing?
#
# Zero-shot: all test chips are ordered by how much more they agree with one sentence than with the average caption (models of few
# steps put some chips near every text). The area under the ROC curve is the probability that a chip that shows the thing comes before
# one that does not; 50 % is guessing. Four sentences each:
#
# - the *paper*'s prompt;
# - a *sentence* in the manner of the captions;
# - its *frame*, the same without the word, to see what the words around it are worth;
# - a *description* in words that were not held out.
#
# A word without training can point anywhere, so a value far from 50 % on a single seed is no knowledge: look whether the dots of the
# seeds lie together.

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
    "Area under the curve for each category and sentence, dots with intervals; "
    "held-out categories stand first.",
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
        else " **The control itself does not know it in every seed, so the "
        "rest of this line shows nothing.**"
    )
    sentences.append(
        f"*{name}*: {value['all']:.0f} % where it was seen; "
        f"{value['held out']:.0f} % where it was not, that is "
        f"{statistics.in_words(gaps['held out'])}; "
        f"{value['held out + names']:.0f} % with its name alone, "
        f"{statistics.in_words(gaps['held out + names'])}; "
        f"{known[name, 'sentence', palette]['value']:.0f} % by colours "
        f"alone.{doubt}"
    )
numbers.prose("By the sentence in the manner of the captions:", *sentences)

# %% [markdown]
# ## Is it the right thing to hold out?
#
# What is held out must be something that the control knows, or nothing could be lost: by both sentences and with every seed. And it must
# be possible to take it away: not with most of the chips, and not so that something else that stays in tells of it all the same. Of
# the control alone, no further training:


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
    row = {"category": c.name, "of the test chips, %": 100 * here.mean()}
    row["worst of seeds and sentences, %"] = worst(c)
    also = f"{others[most]:.0f} ({most})" if most else ""
    return row | {"chips that show another as well, %": also}


choices = pd.DataFrame(
    [choice(c) for c in dict((c.name, c) for c, _, _ in asked).values()]
)
numbers.table(choices, digits=0)

# %% tags=["remove-input"]
firm = list(
    choices.loc[choices["worst of seeds and sentences, %"] >= 80, "category"]
)
weak = [c.name for c in held if c.name not in firm]
numbers.prose(
    "By both sentences and with every seed the control knows "
    f"{', '.join(firm) or 'none of them'} (80 % or more).",
    f"Of {', '.join(weak)} it knows too little for this page to show anything: "
    "give it more steps."
    if weak
    else "",
)

# %% [markdown]
# Colours of land are not things, and land of one colour shades into the next. Islands are rarer than the sea, which would leave more to
# train on; but where there is an island there is the sea, and a model that never saw an island still learns what lies around it. So the
# sea is what this page holds out unless told otherwise, though it takes half of the chips along.
#
# ## What comes first?
#
# The chips that each model puts first for the first category. A tick marks those that show it.

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
            "alt": min(by_key[found.keys[i]].captions, key=len),
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
# has it shown? And what would one have to hold out to close this way?
#
# ```{dropdown} Answer
# That it knows the other words of the sentence: “to the west covers about half of the picture” is said of lakes too, and a large even
# surface at one side is what these words came to mean. It is knowledge of a neighbour, not of the sea. To close the way one would have to hold
# out what shares the words, lakes and their captions (`-p held_out=sea,lake -p seen=island`), and have less left to train on. What counts as
# unseen is decided by the captions as much as by the list of classes.
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
    "Without it, recall at 10 of captions that name it changes by "
    f"{numbers.interval(lost['held out'][first], signed=True, unit='points')}, "
    "of others by "
    f"{numbers.interval(lost['held out'][second], signed=True)}.",
    *(
        f"*{c.name}*, by the sentence: "
        f"{known[c.name, 'sentence', 'held out']['value']:.0f} % without it, "
        f"{known[c.name, 'sentence', 'held out + names']['value']:.0f} % with "
        "its name alone, "
        f"{known[c.name, 'sentence', 'all']['value']:.0f} % where it was seen."
        for c in held
        if (c.name, "sentence", "all") in known
    ),
    *(
        f"A description of *{name}* in seen words reaches {entry['value']:.0f} "
        "% where it was not seen."
        for entry, name in described
    ),
)

# %% tags=["remove-input"]
tables.provenance(origin)
