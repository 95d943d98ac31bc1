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
# # Four variants
#
# **General pairs, web pairs from above, landmark captions, and all of them one after the other: the paper's four models, with the same
# number of pairs each, three seeds, and one table.**
#
# Cost: about seven minutes on two CPU cores in profile `laptop` for all twelve runs, half a minute in `smoke`. A run that is there is not
# trained again, so variants and seeds can be started one by one: `-p variants=base -p seeds=1`.

# %% tags=["parameters", "after:01_landmarks", "after:06_web"]
profile = "laptop"
seed = 0
device = "auto"
recompute = False
run_name = ""
overrides = ""
variants = "base,web,landmarks,both"
seeds = "0,1,2"
data = ""

# %% tags=["hide-input"]
import time
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import Markdown

# %% tags=["hide-input"]
from rsvlm import config
from rsvlm.book.figures import charts, galleries, tables
from rsvlm.data import benchmarks
from rsvlm.data.demo import earth, pairs as demo_pairs
from rsvlm.evaluation import statistics, unseen
from rsvlm.model import images
from rsvlm.model.device import resolve_device
from rsvlm.records import provenance, results, stages
from rsvlm.training import (
    train,
    variants as schedules,  # `variants` is a parameter of this notebook
)

# %% tags=["hide-input"]
started = time.time()
options = config.load(profile, {"seed": seed, "device": device} | config.pairs(overrides))
demo = {"fetch.allow_loopback": True, "fetch.host_delay_s": 0.0, "web.test_share": 0.25, "web.val_share": 0.1}
web_options = config.load(profile, {"seed": seed, "device": device} | demo | config.pairs(overrides))
seed_list = [int(text) for text in str(seeds).split(",")][: 1 if profile == "smoke" else None]
chosen = [name.strip() for name in variants.split(",")]
steps = {"smoke": 12, "laptop": 80}.get(profile, options.train.steps)
settings = {"train.caption_weight": 0, "train.checkpoint_every": steps, "model.context_length": 64}
settings |= {"train.batch_size": 64, "train.warmup_steps": 10} if profile == "laptop" else {}

# %% [markdown]
# ## Three data sets
#
# What is on disk can be named, each as shards or a benchmark: `-p data="base=FOLDER web=FOLDER landmarks=FOLDER"`. What is not named is
# made from what the package brings along:
#
# - **base**, for general pairs: the demo web's pictures that are *not* from above, photographs, charts, icons. The demo draws alt-texts
#   at random, so these are told anew: the kind of the picture, and the measured colours of its halves.
# - **web**, for RS-WebLI: what `rsvlm web build` makes of the demo web. Pictures are from above; their texts speak of pictures from
#   above, but which land they name was drawn at random: the demo tests filters, and its texts say nothing true of a single picture.
# - **landmarks**, for RS-Landmarks: Blue Marble chips with captions of what is measured in them.

# %%
given = {name: Path(folder) for name, folder in config.pairs(data).items()}
if not {"base", "web"} <= given.keys():
    demo_folder = demo_pairs.demo_web(web_options, {"smoke": 180}.get(profile, 720), recompute)
sets = {
    "base": given.get("base") or demo_pairs.general_pairs(demo_folder / "demo"),
    "web": given.get("web") or demo_folder / "pairs",
    "landmarks": given.get("landmarks") or earth.load_or_build(options),
}
held_back = {name: unseen.held_back(folder) for name, folder in sets.items()}
sizes = [
    {"data": n, "train": len(list(benchmarks.samples(f, "train"))), "held back": len(held_back[n])} for n, f in sets.items()
]
pd.DataFrame(sizes).style.hide(axis="index").format(thousands=",")

# %%
shown = [(name, sample) for name in sets for sample in held_back[name][:4]]
galleries.gallery(
    [{"image": images.decode(s.image), "alt": f"A pair of {n}", "badge": n, "caption": s.captions[0][:120]} for n, s in shown]
)

# %% [markdown]
# ## Four curricula, one budget
#
# Every variant takes the same number of steps of the same size and starts, for a seed, from the same random weights, with one tokenizer
# trained on the captions of all three sets. The order is the paper's; the shares of the steps are ours.

# %%
plans = {name: schedules.stages(name, steps) for name in chosen}
table = [{"variant": name, "stage": i, **stage} for name, plan in plans.items() for i, stage in enumerate(plan, 1)]
pd.DataFrame(table).style.hide(axis="index")

# %%
models = {}
for name in chosen:
    for number in seed_list:
        these = settings | config.pairs(overrides) | {"seed": number, "device": device, "train.stages": plans[name]}
        models[name, number] = train.load_or_train(config.load(profile, these), sets, recompute) / "model"

# %% [markdown]
# ## Who finds what?
#
# Retrieval on what was held back of each set: chips of unseen blocks of the Earth, pairs of web hosts that were not trained on, and
# general pictures of such hosts. One caption per picture, equal captions of other pictures count as errors (protocol `one-to-one`).

# %%
found, sizes = {}, {name: len(samples) for name, samples in held_back.items()}
for variant in chosen:
    for name, samples in held_back.items():
        ranks = [unseen.first_ranks(models[variant, number], samples, device) for number in seed_list]
        i2t, t2i = (np.stack(part) for part in zip(*ranks))
        times = statistics.resamples(len(samples), options.evaluate.bootstrap_samples, seed)
        found[name, variant] = statistics.summary(statistics.mean_recall, [i2t, t2i], times=times)
chance = {name: statistics.chance(n) for name, n in sizes.items()}

# %%
lines = [
    row | {"panel": f"{name} (n = {sizes[name]:,})"}
    for name in reversed(sets)
    for row in statistics.dots({(variant, ""): found[name, variant] for variant in chosen}, chance[name])
]
charts.picture(
    charts.interval_dots(lines, "mean recall, percent"),
    "Mean recall of each variant on chips, web pairs and general pairs: a dot per seed, and the interval of their mean.",
)

# %%
cells = [
    {"variant": v, "held-back set": name, "mean recall": e["value"], "low": e["ci_low"], "high": e["ci_high"]}
    | {"lowest seed": min(e["seeds"]), "highest seed": max(e["seeds"]), "chance": chance[name], "n": sizes[name]}
    for (name, v), e in found.items()
]
pd.DataFrame(cells).sort_values(["held-back set", "variant"]).style.hide(axis="index").format(precision=2)

# %% tags=["hide-input"]
Markdown(
    "Intervals (95 %) resample the pictures for the mean over seeds; seeds stand beside them. "
    + " ".join(
        f"On *{name}* the highest is `{max(chosen, key=lambda v: found[name, v]['value'])}`, at "
        f"{max(found[name, v]['value'] for v in chosen):.1f} % where guessing gives {chance[name]:.1f} %."
        for name in sets
    )
)

# %% [markdown]
# ## What does each set add?
#
# Differences over the same pictures and resamples, so that their intervals are their own.

# %%
pairs = [("web", "base"), ("landmarks", "base"), ("both", "landmarks"), ("both", "web")]
pairs = [(one, other) for one, other in pairs if {one, other} <= set(chosen)]
gaps = {(name, a, b): statistics.difference(found[name, a], found[name, b]) for name in sets for a, b in pairs}
shown = [{"panel": name, "label": f"{a} − {b}", **gap} for (name, a, b), gap in gaps.items()]
if gaps:
    shown_figure = charts.picture(
        charts.interval_dots(shown, "difference of mean recall, points"),
        "Differences between variants on each held-back set, with intervals.",
    )
shown_figure if gaps else Markdown("One variant alone has nothing to be compared with.")

# %% tags=["hide-input"]
Markdown(
    "\n".join(f"- *{name}*, {a} against {b}: {statistics.in_words(gap)}." for (name, a, b), gap in gaps.items())
    or "One variant."
)

# %% tags=["hide-input"]
origin = provenance.provenance(
    options,
    stages.key(**{n: benchmarks.fingerprint(f) for n, f in sets.items()}),
    str(resolve_device(device)),
    started,
    "rsvlm run notebooks/11_four_variants.ipynb",
)

# %% tags=["hide-input"]
where = run_name or f"{profile}-seeds{'-'.join(map(str, seed_list))}"
for variant in chosen:
    rows = []
    for name in sets:
        about = {"dataset": benchmarks.name(sets[name]), "split": "held-back", "n": sizes[name]}
        about |= {"protocol": "one-to-one", "direction": "both", "chance": chance[name]}
        entry = found[name, variant]
        rows.append(about | statistics.row(entry) | {"metric": "mR"})
        each = zip(seed_list, entry["seeds"])
        rows += [about | {"metric": f"mR[seed {s}]", "value": v, "ci_low": None, "ci_high": None} for s, v in each]
    results.save_result("four-variants", f"{where}-{variant}", options, rows, origin)

# %% [markdown]
# ## What we found

# %% tags=["hide-input"]
Markdown(
    f"- {len(chosen) * len(seed_list)} runs of {steps * config.load(profile, settings).train.batch_size:,} pairs each.\n"
    + "".join(
        f"- On *{name}*, {a} against {b}: {statistics.in_words(gap)}.\n"
        for (name, a, b), gap in gaps.items()
        if name == "landmarks"
    )
    + "- The paper needs web pairs *and* landmarks for its best model. Where, as in the demo, web texts are true of no single picture, "
    "steps spent on them are steps taken from the rest; on data of your own the same cells tell what yours are worth."
)

# %% [markdown]
# ### Three edits to try
#
# - `-p overrides="train.caption_weight=0.5"`: does describing help those that have captions to learn from?
# - `-p data="landmarks=FOLDER"`: your landmarks beside the demo's general pairs.
# - `-p variants=landmarks,both -p seeds=0,1,2,3,4`: more seeds where two variants are close.

# %% tags=["hide-input"]
tables.provenance(origin)
