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
# Cost: minutes on two CPU cores in profile `laptop`, seconds in `smoke`. A stopped run continues where it was.

# %% tags=["parameters", "after:01_landmarks"]
profile = "laptop"
seed = 0
device = "auto"
recompute = False
run_name = ""
overrides = ""

# %% tags=["hide-input"]
import json
import time

import pandas as pd
from IPython.display import Markdown

# %% tags=["hide-input"]
import rsvlm
from rsvlm import config
from rsvlm.book.figures import charts, tables
from rsvlm.data import benchmarks, shards
from rsvlm.data.demo import earth, recipe
from rsvlm.model.device import resolve_device
from rsvlm.records import results
from rsvlm.records.provenance import provenance
from rsvlm.training import train

started = time.time()
options = config.load(profile, {"seed": seed, "device": device} | config.pairs(overrides))

# %% [markdown]
# ## What is trained?
#
# The model is a MaMMUT {cite:p}`kuo2023mammut`. Its image tower turns a chip into one vector per patch. Its text decoder runs
# twice: once without the image and seeing the whole sentence, to give the sentence a vector that should match its chip; once
# seeing the patches and only the words so far, to predict the next word. The losses of both runs are added.

# %%
data = earth.load_or_build(options)
run = train.load_or_train(*recipe.prepare(options), recompute=recompute)
model = rsvlm.load(run / "model", device="cpu")
parts = {"vision tower": model.vision, "text decoder": model.layers, "token embedding": model.token_embedding}
parts |= {"vocabulary": model.vocabulary, "whole model": model}
sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
pd.DataFrame({"part": sizes.keys(), "parameters": sizes.values()}).style.hide(axis="index").format(thousands=",")

# %% [markdown]
# ## How did it go?
#
# The validation curve asks, every time a checkpoint is written, whether a chip from blocks that were never trained on finds its
# own caption among the five best.

# %%
metrics = pd.DataFrame(json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines())
charts.picture(
    charts.training_curves(metrics),
    "Three curves against the step: both losses fall, validation recall rises far above chance.",
)

# %% tags=["hide-input"]
losses = metrics.dropna(subset=["loss"])
recall = metrics.dropna(subset=["val_R@5"])
first, last, best = losses.iloc[0], losses.iloc[-1], recall["val_R@5"].max()
Markdown(
    f"From step {first['step']:.0f} to step {last['step']:.0f} the contrastive loss fell from {first['contrastive']:.2f} to "
    f"{last['contrastive']:.2f} nats and the caption loss from {first['caption']:.2f} to {last['caption']:.2f} nats per token. "
    f"Recall@5 on the validation blocks ended at {recall['val_R@5'].iloc[-1]:.1f} %, where guessing gives "
    f"{recall['val_chance_R@5'].iloc[-1]:.1f} %."
)

# %% [markdown]
# ## How fast was it?

# %% tags=["hide-input"]
speed = losses["samples_per_s"]
Markdown(
    f"{speed.median():.0f} pairs per second in the median (from {speed.min():.0f} to {speed.max():.0f}), batch "
    f"{options.train.batch_size}, {options.train.steps:,} steps: {options.train.steps * options.train.batch_size:,} pairs, or "
    f"{options.train.steps * options.train.batch_size / shards.count(data, 'train'):.1f} passes over the training split."
)

# %% [markdown]
# ## What we found

# %% tags=["hide-input"]
Markdown(
    f"- On blocks that were never shown, recall@5 went from {recall['val_R@5'].iloc[0]:.1f} % at step "
    f"{recall['step'].iloc[0]:.0f} to {recall['val_R@5'].iloc[-1]:.1f} % at step {recall['step'].iloc[-1]:.0f}; its best value is "
    f"{best:.1f} %.\n"
    f"- The learned scale of the cosines went from {first['scale']:.1f} to {last['scale']:.1f}."
)

# %% [markdown]
# ### Three edits to try
#
# - `-p overrides="train.caption_weight=0"`: is describing any help for matching?
# - `-p overrides="train.contrastive_loss=sigmoid"`: the loss of SigLIP instead of that of CLIP.
# - `-p overrides="train.first_caption_share=1"`: train on the fullest caption alone.

# %% tags=["hide-input"]
origin = provenance(
    options,
    benchmarks.fingerprint(data),
    str(resolve_device(device)),
    started,
    "rsvlm run notebooks/02_training.ipynb",
)
guess = recall["val_chance_R@5"].iloc[-1]
names = ("split", "protocol", "metric", "value", "chance", "n")
ended = [("val", "one-to-one", "R@5", recall["val_R@5"].iloc[-1], guess, round(500 / guess))]
losses_of = {"contrastive_loss": last["contrastive"], "caption_loss": last["caption"]}
ended += [("train", "training", name, value, None, options.train.batch_size) for name, value in losses_of.items()]

# %% tags=["hide-input"]
about = {"dataset": "rs-landmarks-blue-marble", "direction": "both", "ci_low": None, "ci_high": None}
rows = [about | dict(zip(names, values, strict=True)) for values in ended]
results.save_result("training", run_name or f"{profile}-seed{seed}", options, rows, origin)
tables.provenance(origin)
