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
# # Can a model teach itself where things are?
#
# **A model that has read captions alone maps the sea; its own surest patches, seen enlarged and flipped, are then the labels of the next
# round, and masks serve only to measure what each round gains and loses.**
#
# Cost: some minutes on two cores: one small model on captions, three rounds, four shorter ones for the losses.

# %% tags=["parameters"]
profile = "laptop"
seed = 0
device = "auto"
recompute = False
run_name = ""
overrides = ""

# %% tags=["hide-input"]
import dataclasses
import functools
import json
import time

import numpy as np
import pandas as pd
from IPython.display import Markdown

import rsvlm
from rsvlm import benchmarks, bluemarble, config, distributed, figures, images, localize, maskfiles, rounds, runs, scoring

# %% tags=["hide-input"]
started = time.time()
options = config.load(profile, {"seed": seed, "device": device} | config.pairs(overrides))
chips = bluemarble.load_or_build(options)
target = str(distributed.resolve_device(device))
few = options.train.steps < 100
source = runs.source_hash("rounds", "localize", "mammut", "tokenizer", "images", "losses", "train", follow=False)

# %% [markdown]
# ## Round 0: captions
#
# A transformer shows every patch the whole picture, so that “sea to the east” can be read off any patch. Here patches have to know of
# themselves: two convolutional stages, a patch sees some forty pixels around its own eight, no positions. One learned query pools them.
# What is lost with the positions is retrieval by place.

# %%
sizes = {"image_size": 64, "patch_size": 8, "vision_width": 64, "vision_stages": [1, 1], "image_pooling": "attention"}
sizes |= {"text_width": 64, "text_layers": 2, "text_heads": 4, "vision_heads": 4}
setting = rounds.Options(
    steps=options.train.steps, learning_rate=options.train.learning_rate, warmup_steps=5, ema=0.9, seed=seed
)
train_set = rounds.read(chips, "train", 64, seed=seed)
parts = {"sizes": sizes, "options": dataclasses.asdict(setting), "data": benchmarks.fingerprint(chips), "source": source}
begun = runs.stage("rounds-begin", parts, lambda folder: rounds.begin(sizes, train_set, folder, setting), recompute)

# %% [markdown]
# A class is asked for with several sentences in the words of the captions; the best of them in a patch speaks for it there.

# %%
classes = {
    "sea": ["Sea.", "Dark blue sea.", "Sea covers nearly all of the picture.", "Open water."],
    "land": ["Tan land.", "Dark green land.", "White land.", "Grey land.", "Brown land."]
    + [f"The land is {colour} throughout." for colour in ("green", "tan", "white")],
}


def asked(model, **how):
    vectors = [localize.text_vectors(model, texts) for texts in classes.values()]
    return functools.partial(localize.maps, model, texts=vectors, **how)


# %%
start = rsvlm.load(begun / "model", device=target).eval()
items = list(maskfiles.blue_marble(chips, "test", limit=24 if few else 150))
methods = {"random": scoring.baselines(list(classes), seed)["random"], "weights": asked(start, method="weights")}
methods |= {"attention": asked(start, method="attention"), "raw": asked(start, method="raw"), "smooth, 3": asked(start)}
methods |= {f"{name}, enlarged": asked(start, method=name, scale=2) for name in ("raw", "smooth")}
common = {"dataset": bluemarble.NAME, "split": "test", "background": False, "seed": seed}
common |= {"bootstrap_samples": options.evaluate.bootstrap_samples}
first = scoring.evaluate(items, methods, list(classes), against="attention", **common)
shown = [row | {"label": row["protocol"]} for row in first if row["metric"] == "miou" and " - " not in row["protocol"]]
figures.picture(
    figures.interval_dots(shown, "mean IoU of sea and land, percent"), "Mean IoU of each kind of map, with intervals."
)

# %% tags=["hide-input"]
score = {row["protocol"]: row for row in first if row["metric"] == "miou"}
gain = score["smooth, 3 - attention"]
Markdown(
    f"On {len(items)} test chips the patches themselves reach a mean IoU of {score['raw']['value']:.1f} %, their windows of three "
    f"{score['smooth, 3']['value']:.1f} %, enlarged twice {score['raw, enlarged']['value']:.1f} and {score['smooth, enlarged']['value']:.1f} %. "
    f"Against the contributions of the plain pooling ({score['attention']['value']:.1f} %) windows are worth {gain['value']:.1f} points "
    f"[{gain['ci_low']:.1f}, {gain['ci_high']:.1f}]; against its weights ({score['weights']['value']:.1f} %), which know no text, "
    f"{score['smooth, 3']['value'] - score['weights']['value']:.1f}."
)

# %% [markdown]
# ## Rounds
#
# The teacher is the average of the last weights. It sees pictures at twice their size and in four flips; of the patches that it gives to a
# class the surer half is labelled. The pupil sees the picture as it is. Whether a round is kept depends on how well flips agree and on the
# retrieval of validation captions.

# %%
step = dataclasses.replace(setting, rounds=3, steps=options.train.steps // 5, learning_rate=5e-4, checkpoint_every=20)
unlabelled = rounds.read(chips, "train", 64, most=64 if few else 500, seed=seed)
validation = rounds.read(chips, "val", 64, seed=seed)
rule = {"start": parts, "classes": classes, "options": dataclasses.asdict(step), "few": few}


def go(chosen):
    work = functools.partial(rounds.run, begun / "model", unlabelled, validation, classes, options=chosen, device=target)
    return runs.stage("rounds", rule | {"options": dataclasses.asdict(chosen)}, lambda folder: work(folder), recompute)


folder = go(step)
found = json.loads((folder / "rounds.json").read_text())
pd.DataFrame(found["rounds"]).set_index("round").style.format(precision=3)

# %%
places = [begun / "model", *(folder / f"round-{row['round']}" / "model" for row in found["rounds"][1:])]
pupils = [rsvlm.load(place, device=target).eval() for place in places]
by_round = {f"round {number}": asked(pupil) for number, pupil in enumerate(pupils)}
later = scoring.evaluate(items, by_round, list(classes), against="round 0", **common)
shown = [row | {"label": row["protocol"]} for row in later if row["metric"] == "miou" and " - " not in row["protocol"]]
figures.picture(figures.interval_dots(shown, "mean IoU of sea and land, percent"), "Mean IoU of each round, with intervals.")

# %% tags=["hide-input"]
last = found["rounds"][-1]
change = {row["protocol"]: row for row in later if row["metric"] == "miou" and " - " in row["protocol"]}
each = [
    "round {} changes mean IoU by {:+.1f} [{:.1f}, {:.1f}] and R@5 on validation captions by {:+.1f} points".format(
        row["round"],
        *(change[f"round {row['round']} - round 0"][name] for name in ("value", "ci_low", "ci_high")),
        row["val_R@5"] - found["rounds"][0]["val_R@5"],
    )
    for row in found["rounds"][1:]
]
Markdown(f"Against round 0: {'; '.join(each)}. Kept is round {found['kept']}: {found['why']}.")

# %% [markdown]
# ## Before and after
#
# Drift in pictures: the chip where rounds changed most, the sea's share of its contrast with land, from black (land) to white (sea).

# %%
pixels = [images.decode(item.image) for item in items[:40]]
odds = [[localize.maps(m, p, list(classes.values()), background=[])[0] for m in (pupils[0], pupils[-1])] for p in pixels]
most = int(np.argmax([np.abs(before - after).mean() for before, after in odds]))
own = [localize.maps(pupil, pixels[most], list(classes.values()), background=[])[0] for pupil in pupils]
sea = items[most].masks.get("sea", np.zeros(pixels[most].shape[:2], bool))
shares = {"mask": sea.astype(np.float32), **{f"round {number}": one for number, one in enumerate(own)}}
tiles = [{"image": pixels[most], "alt": "The chip", "caption": "the chip"}]
for name, one in shares.items():
    told = f"{name}: {100 * one.mean():.0f} % sea"
    tiles.append({"image": np.repeat((255 * one[..., None]).astype(np.uint8), 3, axis=2), "alt": told, "caption": told})
figures.gallery(tiles)

# %% [markdown]
# ## Which loss does it?
#
# One round each, with a loss left out.

# %%
variants = {"all losses": {}, "no patches": {"patch_weight": 0.0}, "no regions": {"region_weight": 0.0}}
variants |= {"no captions": {"contrastive_weight": 0.0}}
table, tried = [], {}
for name, changed in variants.items():
    place = go(dataclasses.replace(step, rounds=1, **changed))
    tried[name] = asked(rsvlm.load(place / "round-1" / "model", device=target).eval())
    table.append({"losses": name} | json.loads((place / "rounds.json").read_text())["rounds"][-1])
ablation = scoring.evaluate(items, tried, list(classes), **common)
miou = {row["protocol"]: row["value"] for row in ablation if row["metric"] == "miou"}
columns = ["mean IoU", "agreement", "val_R@5"]
left_out = pd.DataFrame(table).set_index("losses").assign(**{"mean IoU": pd.Series(miou)})[columns]
left_out.style.format(precision=3)

# %% tags=["hide-input"]
Markdown(
    f"Without captions R@5 is {left_out.loc['no captions', 'val_R@5']:.1f} %, with them {left_out.loc['all losses', 'val_R@5']:.1f} %; the mean "
    f"IoU is {left_out.loc['no patches', 'mean IoU']:.1f} % without the patch loss and {left_out.loc['no regions', 'mean IoU']:.1f} % without "
    f"the region loss, {left_out.loc['all losses', 'mean IoU']:.1f} % with both."
)

# %% tags=["hide-input"]
origin = runs.provenance(options, benchmarks.fingerprint(chips), target, started, "rsvlm run notebooks/13_rounds.ipynb")
recalls = [
    {"dataset": bluemarble.NAME, "split": "val", "protocol": f"round {row['round']}", "direction": "both", "metric": "R@5"}
    | {"value": row["val_R@5"], "ci_low": None, "ci_high": None, "chance": row["val_chance_R@5"], "n": len(validation.images)}
    for row in found["rounds"]
]
rows = [row for row in first + later if row["metric"] == "miou"] + recalls
saved = runs.save_result("rounds", run_name or f"{profile}-seed{seed}", options, rows, origin)

# %% [markdown]
# ## What we found

# %% tags=["hide-input"]
better = max(("raw", "smooth, 3"), key=lambda name: score[name]["value"])
blur = score["smooth, 3"]["value"] - score["raw"]["value"]
why = "where patches are sure, smoothing only blurs coasts" if blur < 0 else "patches are too noisy to stand alone"
kept = change.get(f"round {found['kept']} - round 0", {"value": 0.0})["value"]
Markdown(
    f"- Captions alone teach where the sea is: {score[better]['value']:.0f} % mean IoU by *{better}*, at random "
    f"{score['random']['value']:.0f} %.\n"
    f"- In this model windows of three patches change the mean IoU by {blur:+.1f} points against single patches: {why}.\n"
    f"- The round that was kept without looking at a mask, {found['kept']}, is worth {kept:+.1f} points."
)

# %% [markdown]
# ### Three edits to try
#
# - Ask with `classes = {"sea": ["Sea."], "land": ["Land."]}`: how much of round 0 is the choice of words?
# - `teacher_scale=1` in the rounds' options: what do they gain without the enlarged view?
# - Replace `vision_stages` by a transformer, `{"vision_layers": 4}`. Where do its patches say that the sea is?

# %% tags=["hide-input"]
figures.provenance(origin)
