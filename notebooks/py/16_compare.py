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
# **A matrix of options is one command. Its runs stand side by side in a table, and as lines over shared axes.**
#
# Time: five minutes to read, and seconds to run: what four short trainings measured is read from `results/`. With `-p recompute=True` they
# run here, two at once, in a minute or two on two CPU cores.
#
# One run with another learning rate ended better than the last one. Was it the rate, or would another seed have done as much? To know, one
# has to run both rates with several seeds, and to lay the results side by side. Copying notebooks and filling in tables by hand is
# where such comparisons go wrong; here a matrix is planned, run and read by three calls.

# %% mystnb={"code_prompt_show": "Code: parameters of this page"} tags=["parameters", "hide-input"]
profile = "laptop"
seed = 0
device = "auto"
recompute = False
run_name = ""
overrides = ""

# %% mystnb={"code_prompt_show": "Code: imports"} tags=["hide-input"]
import json
import time

import pandas as pd
from rsvlm import config
from rsvlm.book import matrix
from rsvlm.book.figures import interactive, numbers, tables
from rsvlm.model.device import resolve_device
from rsvlm.records import results, stages
from rsvlm.records.provenance import provenance

# %% mystnb={"code_prompt_show": "Code: options of all runs"} tags=["hide-input"]
started = time.time()
given = {"seed": seed, "device": device}
options = config.load(profile, given | config.pairs(overrides))
short = [
    "landmarks.max_chips=192",
    "landmarks.ground=false",
    "landmarks.train_stride=0.8",
    "landmarks.test_stride=0.8",
    "train.warmup_steps=5",
    "train.steps=10" if profile == "smoke" else "train.steps=30",
    "train.batch_size=32",
    "train.log_every=5",
    *overrides.split(),
]
book = stages.root() / "notebooks" / "02_training.ipynb"
common = {"profile": profile, "device": device}

# %% [markdown]
# ## Does the learning rate matter more than luck?
#
# Two learning rates and two seeds: every combination is a run of [](02_training), much shortened.

# %%
axes = matrix.axes(["train.learning_rate=5e-4,2e-3", f"seed={seed},{seed + 1}"])
planned = matrix.plan([book], axes, common, short)


def run_them():
    endings = matrix.run_all(planned, jobs=2, recompute=recompute)
    failed = [end.last_line for end in endings if end.state == "failed"]
    assert not failed, "\n".join(failed)
    return matrix.table([run.key for run in planned])


# %% mystnb={"code_prompt_show": "Code: read what they measured, or run them"} tags=["hide-input"]
name = run_name or f"{profile}-seed{seed}"
decides = {"short": short, "axes": axes}
before = None
if not recompute:
    before = results.stored("compare", name, options, decides)
measured = None if before else run_them()
again = "" if before else " -p recompute=True"
origin = provenance(
    options,
    stages.key(runs=[run.key for run in planned]),
    str(resolve_device(device)),
    started,
    f"rsvlm run notebooks/16_compare.ipynb{again}",
)
if measured is not None:
    text = measured.to_json(orient="records", double_precision=15)
    found = decides | {"table": json.loads(text)}
    rows = [
        {part: row[part] for part in results.ROW}
        | {
            "protocol": f"{row['protocol']}, rate {row['train.learning_rate']}"
            f", seed {row['seed']}"
        }
        for row in found["table"]
    ]
    results.save_result("compare", name, options, rows, origin, found)
table = pd.DataFrame((before or found)["table"])

# %% tags=["remove-input"]
numbers.measured_before(before, "The four runs")

# %% [markdown]
# In a terminal the same, at full length, is
#
# ```bash
# rsvlm run notebooks/02_training.ipynb --jobs 2 \
#   --grid train.learning_rate=5e-4,2e-3 --grid seed=0,1
# ```
#
# Each run has its own folder, log, results and executed notebook. One that fails stops no other; one whose {term}`key` is there is
# not made again.
#
# ## One row per run
#
# A row says what is special about a run, and what it measured: {term}`R@5 <R@K>` on the validation blocks, both directions together, in
# percent, and both losses of the last batches, in nats. A column holds numbers of one {term}`protocol`.

# %%
compared = matrix.wide(table).drop(columns="seconds")

# %% mystnb={"code_prompt_show": "Code: table of runs"} tags=["hide-input"]
shown = compared.rename(columns=lambda name: name.replace("_", " "))
shown = shown.rename(columns={"train.learning rate": "learning rate"})
numbers.table(
    shown.reset_index(),
    {"learning rate": 4, "R@5": 1}
    | dict.fromkeys(["contrastive loss", "caption loss"], 2),
)

# %% [markdown]
# ## The same as lines
#
# Each line is a run, coloured by its recall. Point at one, or go through them with the tab key, and it is read out. Where the lines of one
# learning rate stay together up to the last axis, the rate decides; where they part, the seed does.

# %%
interactive.parallel_coordinates(compared, colour_by="R@5")


# %% tags=["remove-input"]
def apart(name):
    """How far rates lie apart on average, and seeds of one rate at most."""
    by_rate = compared.groupby("train.learning_rate")[name]
    mean = by_rate.mean()
    within = (by_rate.max() - by_rate.min()).max()
    return mean.max() - mean.min(), within


of_loss, of_recall = apart("contrastive_loss"), apart("R@5")
for_loss, for_recall = (
    "more than" if between > within else "no more than"
    for between, within in (of_loss, of_recall)
)
numbers.prose(
    "On average over the seeds, the contrastive loss of the rates differs by "
    f"{of_loss[0]:.2f} nats. Two seeds of one rate lie up to {of_loss[1]:.2f} "
    f"apart: for the loss the rate matters {for_loss} luck, in runs this "
    f"short. R@5 differs by {of_recall[0]:.1f} points between rates and by up "
    f"to {of_recall[1]:.1f} between seeds of one rate: for the recall the rate "
    f"matters {for_recall} luck. Two seeds say little about luck, so this is a "
    "hint and no proof.",
)

# %% [markdown]
# ## Exercise
#
# Give `axes` above a third rate and a third seed: `train.learning_rate=5e-4,2e-3,8e-3` and `seed=0,1,2`. How many runs are planned, and
# how many of them are trained anew? You then report the recall of the best one. What is wrong with this number?
#
# ```{dropdown} Answer
# Nine are planned. Five are trained if the four above have run here (`-p recompute=True`), else all nine. The best of nine owes its place
# to its seed as well as to its rate, and another seed will not do so well: on average, the largest of nine draws is too good. Choose the
# rate by its mean over the seeds, and report that mean with the spread of the seeds; or measure the chosen rate on seeds, and on test
# data, that had no part in the choice.
# ```
#
# ## Takeaways

# %% tags=["remove-input"]
chance = table.loc[table["metric"] == "R@5", "chance"].mean()
numbers.points(
    f"{len(planned)} runs by one command, with recalls from "
    f"{compared['R@5'].min():.1f} % to {compared['R@5'].max():.1f} %; guessing "
    f"gives {chance:.1f} %.",
    f"For the contrastive loss the rate mattered {for_loss} luck, for R@5 "
    f"{for_recall} luck. One seed alone would have shown a difference between "
    "the rates, and hidden that between the seeds.",
)

# %% tags=["remove-input"]
tables.provenance(origin, {"The four runs": before})
