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
# # Training a small MaMMUT
#
# **One image tower and one text decoder, run twice with the same weights, learn to match and to describe chips of the Earth in
# minutes on two CPU cores.**
#
# Time: five minutes to read; ten to run on two CPU cores in profile `laptop`, seconds in `smoke`. A stopped run continues where it was.
#
# The published recipe trains on accelerators, with millions of pairs. What is left of it on a laptop? Less, but of the same
# kind: the losses fall for the same reasons, and any model can be asked about ground that it has never seen. This chapter trains the
# model that most of this book looks at; [](04_mammut) shows what happens inside it.

# %% mystnb={"code_prompt_show": "Code: parameters of this page"} tags=["parameters", "alone", "after:01_landmarks", "hide-input"]
profile = "laptop"
seed = 0
device = "auto"
recompute = False
run_name = ""
overrides = ""

# %% mystnb={"code_prompt_show": "Code: imports and options"} tags=["hide-input"]
import json
import time

import pandas as pd
import rsvlm
from rsvlm import config
from rsvlm.book.figures import charts, numbers, tables
from rsvlm.data import benchmarks, shards
from rsvlm.data.demo import earth, recipe
from rsvlm.model.device import resolve_device
from rsvlm.records import results
from rsvlm.records.provenance import provenance
from rsvlm.training import train

started = time.time()
given = {"seed": seed, "device": device}
options = config.load(profile, given | config.pairs(overrides))

# %% [markdown]
# ## What is trained?
#
# The model is a {term}`MaMMUT` {cite:p}`kuo2023mammut`. Its image tower turns a {term}`chip` into one vector per patch. Its text decoder
# runs twice: in the {term}`contrastive pass` it sees a whole sentence and no image, and gives a vector that should match the chip's; in
# the {term}`caption pass` it sees the patches and the words so far, and predicts the next word. The losses of both passes are added.
#
# `recipe.prepare` gives the data: the chips of the Blue Marble and, in the second half of the steps of profile `laptop`, as many of real
# ground, the north of [Itaipu](11_itaipu). `train.load_or_train` does all the rest. If there is a run with the same options, data and
# code, it takes that one:

# %%
data = earth.load_or_build(options)
plan, sets = recipe.prepare(options)
run = train.load_or_train(plan, sets, recompute=recompute)
model = rsvlm.load(run / "model", device="cpu")

# %% [markdown]
# Where are the parameters? Each entry of the vocabulary has a vector on the way in, and another on the way out. Several tokens in a row,
# as in “green in the north”, share a table of their own.

# %% mystnb={"code_prompt_show": "Code: table of parameters"} tags=["hide-input"]
parts = {"vision tower": model.vision, "text decoder": model.layers}
parts |= {"tokens, on the way in": model.token_embedding}
parts |= {"runs of tokens": model.ngram_embedding}
parts |= {"tokens, on the way out": model.vocabulary, "whole model": model}
sizes = {
    name: sum(p.numel() for p in part.parameters())
    for name, part in parts.items()
    if part is not None
}
sizes["all else"] = 2 * sizes["whole model"] - sum(sizes.values())
sizes["whole model"] = sizes.pop("whole model")  # it stands last
numbers.table(
    pd.DataFrame({"part": sizes.keys(), "parameters": sizes.values()})
)

# %% [markdown]
# ## How did it go?
#
# At each checkpoint the model ranks captions for chips, and chips for captions, from blocks that it was never trained on. The curve of
# {term}`R@K` says how often the right one is among the best five.

# %% mystnb={"code_prompt_show": "Code: training curves"} tags=["hide-input"]
metrics = pd.DataFrame(
    json.loads(line)
    for line in (run / "metrics.jsonl").read_text().splitlines()
)
charts.picture(
    charts.training_curves(metrics),
    "Three panels against the step: both losses fall, steeply at first; "
    "recall at 5 on validation chips rises far above the line of chance; pairs "
    "per second stay in one range.",
)

# %% tags=["remove-input"]
losses = metrics.dropna(subset=["loss"])
recall = metrics.dropna(subset=["val_R@5"])
first, last = losses.iloc[0], losses.iloc[-1]
numbers.prose(
    f"From step {first['step']:.0f} to step {last['step']:.0f} the contrastive "
    f"loss fell from {first['contrastive']:.2f} to {last['contrastive']:.2f} "
    f"nats, the caption loss from {first['caption']:.2f} to "
    f"{last['caption']:.2f} nats per token. The learned scale of the cosines "
    f"went from {first['scale']:.1f} to {last['scale']:.1f}."
)

# %% [markdown]
# A *nat* is the unit of a loss made of natural logarithms: guessing evenly among $n$ answers costs $\ln n$. How fast it was, and how
# much it saw:

# %% tags=["remove-input"]
speed, batch = losses["samples_per_s"], options.train.batch_size
seen = options.train.steps * batch
real = batch * sum(
    stage.steps * stage.data.get(recipe.GROUND, 0) / sum(stage.data.values())
    for stage in plan.train.stages
)
passes = (seen - real) / shards.count(data, "train")
numbers.prose(
    f"A median of {speed.median():.0f} pairs per second ({speed.min():.0f} "
    f"to {speed.max():.0f}). {options.train.steps:,} steps of {batch} pairs "
    f"are {seen:,} pairs, and {passes:.1f} passes over the training split of "
    "the Blue Marble.",
    f"About {real:,.0f} of the pairs are of real ground. They begin after step "
    f"{plan.train.stages[0].steps}: if the losses jump there, the new "
    "pictures are the likely reason."
    if real
    else "",
)

# %% [markdown]
# ## Exercise
#
# A freshly initialised model gives every text of a batch of $B$ nearly the same probability. What is its contrastive loss? Compare it
# with the first point of the curve. And what is the caption loss of such a model?
#
# ```{dropdown} Answer
# The right text has the probability $1/B$, in both directions, so the loss is $\ln B$. The curve begins below it, because by the first logged
# step a little has been learned. In the same way the caption loss begins near $\ln V$, with $V$ entries in the vocabulary. It falls fast
# at first: a model learns which words are frequent before it learns anything about pictures. This is also why losses of different batch
# sizes or vocabularies cannot be compared.
# ```
#
# ## Takeaways

# %% tags=["remove-input"]
origin = provenance(
    options,
    benchmarks.fingerprint(data),
    str(resolve_device(device)),
    started,
    "rsvlm run notebooks/02_training.ipynb",
)
guess = recall["val_chance_R@5"].iloc[-1]
names = ("split", "protocol", "metric", "value", "chance", "n")
ended = [
    (
        "val",
        "one-to-one",
        "R@5",
        recall["val_R@5"].iloc[-1],
        guess,
        round(500 / guess),
    )
]
losses_of = {
    "contrastive_loss": last["contrastive"],
    "caption_loss": last["caption"],
}
ended += [
    ("train", "training", name, value, None, options.train.batch_size)
    for name, value in losses_of.items()
]

# %% tags=["remove-input"]
about = {
    "dataset": "rs-landmarks-blue-marble",
    "direction": "both",
    "ci_low": None,
    "ci_high": None,
}
rows = [about | dict(zip(names, values, strict=True)) for values in ended]
saved = results.save_result(
    "training", run_name or f"{profile}-seed{seed}", options, rows, origin
)

# %% tags=["remove-input"]
ends = recall.iloc[[0, -1]]
numbers.points(
    "On blocks that were never shown, recall at 5 went from "
    f"{ends['val_R@5'].iloc[0]:.1f} % at step {ends['step'].iloc[0]:.0f} to "
    f"{ends['val_R@5'].iloc[-1]:.1f} % at step {ends['step'].iloc[-1]:.0f}, "
    f"where guessing gives {guess:.1f} %"
    + (
        f"; its best value on the way was {recall['val_R@5'].max():.1f} %."
        if recall["val_R@5"].max() > ends["val_R@5"].iloc[-1]
        else "."
    ),
    "This is one run with one seed; the page does not say how far another "
    "would end from it.",
    "One set of weights learns to match and to describe at the same time.",
)

# %% tags=["remove-input"]
tables.provenance(origin)
