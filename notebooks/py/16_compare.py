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
# # Compare runs
#
# **A matrix of options is one command; its runs stand side by side in a table, and as lines over shared axes.**
#
# Cost: four short trainings, two at once: about two minutes of two CPU cores in profile `laptop`, less in `smoke`.

# %% tags=["parameters"]
profile = "laptop"
seed = 0
device = "auto"
recompute = False
run_name = ""
overrides = ""

# %% tags=["hide-input"]
import time

from IPython.display import Markdown

from rsvlm import config
from rsvlm.book import matrix
from rsvlm.book.figures import interactive, tables
from rsvlm.model.device import resolve_device
from rsvlm.records import stages
from rsvlm.records.provenance import provenance

started = time.time()
options = config.load(profile, {"seed": seed, "device": device} | config.pairs(overrides))

# %% [markdown]
# ## Does the learning rate matter more than luck?
#
# Two learning rates, two seeds: every combination is a run of the page on training, much shortened. In a terminal the same is
#
# ```bash
# rsvlm run notebooks/02_training.ipynb --grid train.learning_rate=5e-4,2e-3 --grid seed=0,1 --jobs 2
# ```
#
# A run has its own folder, log, results and executed copy; one that fails stops no other; one that is there is not made again.

# %%
axes = matrix.axes(["train.learning_rate=5e-4,2e-3", f"seed={seed},{seed + 1}"])
short = ["landmarks.max_chips=192", "landmarks.ground=false", "landmarks.train_stride=0.8", "landmarks.test_stride=0.8", "train.warmup_steps=5"]
short += ["train.steps=10" if profile == "smoke" else "train.steps=60", "train.batch_size=32", "train.log_every=5"]
book = stages.root() / "notebooks" / "02_training.ipynb"
planned = matrix.plan([book], axes, {"profile": profile, "device": device}, [*short, *overrides.split()])
endings = matrix.run_all(planned, jobs=2, recompute=recompute)
failed = [f"{run.key}: {ending.last_line}" for run, ending in zip(planned, endings, strict=True) if ending.state == "failed"]
assert not failed, "\n".join(failed)

# %% [markdown]
# ## One row per run
#
# What differs between the runs, and what each measured: recall of the right caption or chip among the first five of the validation
# blocks, in percent, and both losses of the last batches, in nats. A column holds numbers of one protocol.

# %%
table = matrix.table([run.key for run in planned])
compared = matrix.wide(table).drop(columns="seconds")
compared.style.format(precision=2).format("{:g}", subset=["train.learning_rate"])

# %% [markdown]
# ## The same as lines
#
# Each line is a run, coloured by its recall. Point at one, or go through them with the tab key, and it is read out. Where the
# lines of one learning rate stay together up to the last axis, the rate decides; where they part, the seed does.

# %%
interactive.parallel_coordinates(compared, colour_by="R@5")

# %% tags=["hide-input"]
by_rate = compared.groupby("train.learning_rate")["contrastive_loss"]
between, within = by_rate.mean().max() - by_rate.mean().min(), (by_rate.max() - by_rate.min()).max()
verdict = "more than" if between > within else "no more than"
Markdown(
    f"The rate {by_rate.mean().idxmin():g} ends with the lower contrastive loss, {by_rate.mean().min():.2f} nats over its seeds, "
    f"{between:.2f} below the other. Two seeds of one rate lie up to {within:.2f} apart: in runs this short, the rate matters {verdict} "
    "luck."
)

# %% [markdown]
# ## What we found

# %% tags=["hide-input"]
chance = table.loc[table["metric"] == "R@5", "chance"].mean()
Markdown(
    f"- {len(planned)} runs, recall from {compared['R@5'].min():.1f} to {compared['R@5'].max():.1f} %; guessing gives {chance:.1f} %.\n"
    f"- Between rates lie {between:.2f} nats, between seeds {within:.2f}. One seed alone would have shown the first number and hidden "
    "the second."
)

# %% [markdown]
# ### Three edits to try
#
# - Add a third value to `axes`, as in `train.learning_rate=5e-4,2e-3,8e-3`: the four runs above are there, two are made.
# - Name another axis, `train.caption_weight=0,0.5`: the table and the lines get it by themselves.
# - `matrix.table()` without keys reads every run of every matrix that is stored.

# %% tags=["hide-input"]
origin = provenance(
    options,
    stages.key(runs=[run.key for run in planned]),
    str(resolve_device(device)),
    started,
    "rsvlm run notebooks/16_compare.ipynb",
)
tables.provenance(origin)
