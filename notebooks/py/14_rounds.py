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
# **A model that has read captions alone maps sea, ice, desert and other land; its own surest patches, seen enlarged and flipped, are then
# the labels of the next round, and masks serve only to measure what each round gains and loses.**
#
# Cost: about three minutes on two cores, once the small model of [](13_attention) is there: three rounds on four covers, one on two, and
# one with each choice of losses.

# %% tags=["parameters", "after:01_landmarks"]
profile = "laptop"
seed = 0
device = "auto"
recompute = False
run_name = ""
overrides = ""
teacher = ""

# %% tags=["hide-input"]
import dataclasses
import functools
import json
import time

import numpy as np
import pandas as pd
from IPython.display import Markdown

# %% tags=["hide-input"]
import rsvlm
from rsvlm import config
from rsvlm.book.figures import attention, charts, tables
from rsvlm.book.figures.style import PALETTE
from rsvlm.data import benchmarks
from rsvlm.data.demo import earth, earth_masks
from rsvlm.localization import heat, true_masks
from rsvlm.model import images
from rsvlm.model.device import resolve_device

# %% tags=["hide-input"]
started = time.time()
from rsvlm.data.demo import ground_cover
from rsvlm.localization import pictures, rounds, scoring
from rsvlm.model import embed
from rsvlm.records import files, provenance, results, stages

options = config.load(profile, {"seed": seed, "device": device} | config.pairs(overrides))
chips = earth.load_or_build(options)
target = str(resolve_device(device))
few = options.train.steps < 100

# %% [markdown]
# ## Round 0: captions
#
# The small model of [](13_attention), whose patches know of themselves. Sea and land are asked for with several sentences in the words of
# the captions; the best of them in a patch speaks for it there.

# %%
begun = rounds.load_or_begin(options, chips, ground_cover.SIZES, recompute)


def asked(model, classes=ground_cover.COVERS, **how):
    vectors = [heat.text_vectors(model, texts) for texts in classes.values()]
    return functools.partial(heat.maps, model, texts=vectors, **how)


# %%
start, two = rsvlm.load(begun, device=target).eval(), ground_cover.SEA_AND_LAND
items = [true_masks.Item(*parts) for parts in earth_masks.read(chips, "test", limit=24 if few else None)]
methods = {name: asked(start, two, method=name) for name in ("attention", "raw")} | {"smooth, 3": asked(start, two)}
methods |= {f"{name}, enlarged": asked(start, two, method=name, scale=2) for name in ("raw", "smooth")}
common = {"dataset": earth.NAME, "split": "test", "rules": scoring.Rules(background=False), "seed": seed}
common |= {"bootstrap_samples": options.evaluate.bootstrap_samples}
first = scoring.evaluate(items, methods, list(two), against="attention", **common)
shown = [row | {"label": row["protocol"]} for row in first if row["metric"] == "miou" and " - " not in row["protocol"]]
charts.picture(
    charts.interval_dots(shown, "mean IoU of sea and land, percent"), "Mean IoU of each kind of map, with intervals."
)

# %% tags=["hide-input"]
score = {row["protocol"]: row for row in first if row["metric"] == "miou"}
Markdown(
    f"On {len(items)} test chips windows of three patches reach a mean IoU of {score['smooth, 3']['value']:.1f} %, the patches themselves "
    f"{score['raw']['value']:.1f} %; with pictures enlarged twice, {score['smooth, enlarged']['value']:.1f} and "
    f"{score['raw, enlarged']['value']:.1f} %. What a teacher can hand on is the difference."
)

# %% [markdown]
# ## Rounds
#
# Now four covers are asked for: sea, ice, desert, and other land. The sentences of the last three name the colours by which the masks
# tell them (`earth_facts.colour_word`), *The land is tan throughout.* and so on; none was chosen by a mask.
#
# The teacher is the average of the last weights. It sees pictures at twice their size and in four flips; of the patches that it gives to a
# class the surer part is labelled, the rest are left out. The pupil sees the picture as it is, and goes on learning from captions too.
# The parameter `teacher` names another model for the first round, such as a CLIP (`open_clip:…`, `hf:…`); what is trained stays the same.
# Whether a round is kept depends on how well flips agree and on the mean recall of validation captions: no mask decides.
#
# How long a round is, the weights of its losses, and the share that is labelled were chosen by masks of validation and training chips.
# Test chips had been scored twice before, with settings that gained less (see the lab log).

# %%
schedule = {"steps": min(options.train.steps // 2, 150), "learning_rate": 5e-4, "warmup_steps": 5, "ema": 0.9}
losses = {"contrastive_weight": 0.3, "region_weight": 0.0}
setting = rounds.Options(rounds=3, **schedule, **losses, teacher_window=1, sure_share=0.9, seed=seed)
unlabelled = pictures.read(chips, "train", 64, most=64 if few else 500, seed=seed)
validation, testing = (pictures.read(chips, split, 64, seed=seed) for split in ("val", "test"))

# %% tags=["hide-input"]
rule = {"start": embed.fingerprint(begun), "data": benchmarks.fingerprint(chips), "few": few}
rule |= {"source": stages.source_hash(*rounds.ROOMS), "teacher": teacher}


def go(chosen, labels=b"", classes=ground_cover.COVERS):
    def work(out):
        if labels:  # the teacher's, which are the same for all
            files.write_atomic(out / "round-1" / "labels.npz", labels)
        rounds.run(begun, unlabelled, validation, classes, out, chosen, teacher=teacher or None, device=target)

    return stages.stage("rounds", rule | {"classes": classes, "options": dataclasses.asdict(chosen)}, work, recompute)


# %%
folder = go(setting)
found = json.loads((folder / "rounds.json").read_text())
pd.DataFrame(found["rounds"]).set_index("round").style.format(precision=3)


# %%
def pupils_of(folder):
    """The models of a run's rounds, from round 0 on."""
    later = json.loads((folder / "rounds.json").read_text())["rounds"][1:]
    places = [begun, *(folder / f"round-{row['round']}" / "model" for row in later)]
    return [rsvlm.load(place, device=target).eval() for place in places]


pupils = pupils_of(folder)
covers = list(ground_cover.COVERS)
by_round = {f"round {number}": asked(pupil) for number, pupil in enumerate(pupils)}
by_round |= {f"round {number}, raw": asked(pupil, method="raw") for number, pupil in enumerate(pupils)}
later = scoring.evaluate(items, by_round, covers, against="round 0", **common)
shown = [row | {"label": row["protocol"]} for row in later if row["metric"] == "miou" and " - " not in row["protocol"]]
charts.picture(charts.interval_dots(shown, "mean IoU of four covers, percent"), "Mean IoU of each round, with intervals.")

# %% [markdown]
# Class by class, in percent, windows of three patches and single ones (`raw`):

# %%
single = [row for row in later if row["metric"].startswith("iou[") and " - " not in row["protocol"]]
by_class = pd.DataFrame(single).pivot(index="protocol", columns="metric", values="value")
by_class.reindex(columns=[f"iou[{name}]" for name in covers]).rename(columns=lambda name: name[4:-1]).style.format(
    precision=1, na_rep=""
)

# %% tags=["hide-input"]
samples = options.evaluate.bootstrap_samples
recalls = [rounds.recall(pupil, testing, samples, seed) for pupil in pupils]
value = {row["protocol"]: row["value"] for row in later if row["metric"] == "miou"}

# %% tags=["hide-input"]
change = {row["protocol"]: row for row in later if row["metric"] == "miou" and " - " in row["protocol"]}
each = [
    "round {} changes the mean IoU of windows of three by {:+.1f} [{:.1f}, {:.1f}] points, that of single patches by {:+.1f}, and the mean "
    "recall of the test captions by {:+.1f}".format(
        number,
        *(change[f"round {number} - round 0"][name] for name in ("value", "ci_low", "ci_high")),
        value[f"round {number}, raw"] - value["round 0, raw"],
        recalls[number]["value"] - recalls[0]["value"],
    )
    for number in range(1, len(pupils))
]
Markdown(
    f"Against round 0: {'; '.join(each)}. Mean recall of round 0 is {recalls[0]['value']:.1f} % "
    f"({recalls[0]['ci_low']:.1f} to {recalls[0]['ci_high']:.1f}, n = {recalls[0]['n']}). Kept is round {found['kept']}: {found['why']}."
)

# %% [markdown]
# ## Before and after
#
# Of sixty chips the one that the rounds helped most, and the one that they hurt most. What lies over the picture is first the change:
# what round 0 had wrong and the last round has right is fixed, the other way round it is broken. Then come the covers that each round sees,
# and those of the masks; an arrow key goes from one to the next.

# %%
of = [asked(pupil) for pupil in pupils]


def truth_of(item, side):
    empty = np.zeros((side, side), bool)
    return np.stack([empty, *(item.masks.get(name, empty) for name in covers)]).argmax(axis=0) - 1  # -1: none of them


some = [(pixels := images.decode(item.image), truth_of(item, len(pixels))) for item in items[:60]]
seen = [np.stack([which(pixels).argmax(axis=0) for which in of]) for pixels, _ in some]
right = np.array([[100 * np.mean(cover == truth) for cover in each] for each, (_, truth) in zip(seen, some, strict=True)])
gained = right[:, -1] - right[:, 0]

# %%
records = {sample.key: sample.record for sample in benchmarks.samples(chips, "test")}
picked = {"helped most": int(gained.argmax()), "hurt most": int(gained.argmin())}
about = {
    name: f"{right[i, 0]:.0f} % of the pixels right in round 0, {right[i, -1]:.0f} % in the last" for name, i in picked.items()
}
shown = [
    {"image": some[i][0], "name": name, "alt": f"Chip that was {name}: {about[name]}", "ground": records[items[i].key]}
    for name, i in picked.items()
]
paint = dict(zip(covers, [PALETTE["blue"], PALETTE["green"], PALETTE["orange"], "#e1f0fa"], strict=True))
names = [f"round {number}" for number in range(len(of))]
attention.changes(shown, [seen[i] for i in picked.values()], [some[i][1] for i in picked.values()], names, paint)

# %% [markdown]
# ## Where round 0 leaves little to gain
#
# One such round for sea and land alone, which round 0 tells apart well:

# %%
of_two = pupils_of(go(dataclasses.replace(setting, rounds=1), classes=two))
asks = {f"two classes, round {number}": asked(pupil, two) for number, pupil in enumerate(of_two)}
pairs = scoring.evaluate(items, asks, list(two), against="two classes, round 0", **common)
shown = [row | {"label": row["protocol"]} for row in pairs if row["metric"] == "miou" and " - " not in row["protocol"]]
charts.picture(
    charts.interval_dots(shown, "mean IoU of sea and land, percent"), "Mean IoU of sea and land by round, with intervals."
)

# %% [markdown]
# ## Which loss does it?
#
# One round each from the same start and the same labels. *Captions* are more steps of the image-text loss alone: what a round gains has
# to be more than what it would have gained without any label.

# %%
none = {"patch_weight": 0.0}
variants = {"captions": none, "captions, regions": none | {"region_weight": 0.5}}
variants |= {"captions, patches, regions": {"region_weight": 0.5}, "patches": {"contrastive_weight": 0.0}}
labels = (folder / "round-1" / "labels.npz").read_bytes()
taught = {name: go(dataclasses.replace(setting, rounds=1, **chosen), labels) for name, chosen in variants.items()}
taught["captions, patches"] = folder
tried = {name: rsvlm.load(place / "round-1" / "model", device=target).eval() for name, place in taught.items()}

# %%
asks = {"round 0": asked(start)} | {name: asked(pupil) for name, pupil in tried.items()}
ablation = [row for row in scoring.evaluate(items, asks, covers, against="round 0", **common) if row["metric"] == "miou"]
by_loss = {row["protocol"]: row for row in ablation}
of_recall = {"round 0": recalls[0]} | {name: rounds.recall(pupil, testing, samples, seed) for name, pupil in tried.items()}
table = []
for name in asks:
    row, gain = by_loss[name], by_loss.get(f"{name} - round 0", {"value": 0.0, "ci_low": 0.0, "ci_high": 0.0})
    told = {"mean IoU": row["value"], "change": gain["value"], "from": gain["ci_low"], "to": gain["ci_high"]}
    back = of_recall[name]
    told |= {"mean recall": back["value"], "recall from": back["ci_low"], "recall to": back["ci_high"]}
    table.append({"losses": name} | told | {"recall's change": back["value"] - recalls[0]["value"]})
left = pd.DataFrame(table).set_index("losses")
left.style.format(precision=1)

# %% tags=["hide-input"]
control, whole, bare = (left.loc[name] for name in ("captions", "captions, patches", "patches"))
Markdown(
    f"As many steps on captions alone change the mean IoU by {control['change']:+.1f} points [{control['from']:.1f}, {control['to']:.1f}], with "
    f"patches by {whole['change']:+.1f} [{whole['from']:.1f}, {whole['to']:.1f}], with patches and regions by "
    f"{left.loc['captions, patches, regions', 'change']:+.1f}, with regions alone by {left.loc['captions, regions', 'change']:+.1f}. Without "
    f"captions mean recall changes by {bare.iloc[-1]:+.1f} points, with them by {whole.iloc[-1]:+.1f}."
)

# %% tags=["hide-input"]
origin = provenance.provenance(options, benchmarks.fingerprint(chips), target, started, "rsvlm run notebooks/14_rounds.ipynb")
named = {f"round {number}": row for number, row in enumerate(recalls)} | {name: of_recall[name] for name in tried}
where = {"dataset": earth.NAME, "split": "test"}
rows = [row for row in first + later + pairs if row["metric"] == "miou"] + single
rows += [row for row in ablation if not row["protocol"].startswith("round 0")]
rows += [row | where | {"protocol": name} for name, row in named.items()]
saved = results.save_result("rounds", run_name or f"{profile}-seed{seed}", options, rows, origin)

# %% [markdown]
# ## What we found

# %% tags=["hide-input"]
nothing = {"value": 0.0, "ci_low": 0.0, "ci_high": 0.0}
kept = change.get(f"round {found['kept']} - round 0", nothing)
last = {row["protocol"]: row for row in pairs if row["metric"] == "miou"}
of_last = last.get(f"two classes, round {len(of_two) - 1} - two classes, round 0", nothing)
Markdown(
    f"- The round that was kept without looking at a mask, {found['kept']}, is worth {kept['value']:+.1f} points of mean IoU of four covers "
    f"[{kept['ci_low']:.1f}, {kept['ci_high']:.1f}] and {recalls[found['kept']]['value'] - recalls[0]['value']:+.1f} points of mean recall.\n"
    f"- As many steps without a label are worth {control['change']:+.1f}, {whole['change'] - control['change']:.1f} points less.\n"
    f"- For sea and land alone, where round 0 has a mean IoU of {score['smooth, 3']['value']:.1f} %, a round is worth "
    f"{of_last['value']:+.1f} [{of_last['ci_low']:.1f}, {of_last['ci_high']:.1f}].\n"
    f"- The teacher's enlarged view of these two was {score['raw, enlarged']['value'] - score['smooth, 3']['value']:+.1f} points of mean IoU "
    "over the pupil's at the start: so much there was to hand on."
)

# %% [markdown]
# ### Three edits to try
#
# - Ask with `two = {"sea": ["Sea."], "land": ["Land."]}`: how much of round 0 is the choice of words?
# - `teacher_scale=1` in the rounds' options: what do they gain without the enlarged view?
# - `sure_share=1.0`: every patch is labelled, the unsure ones too.

# %% tags=["hide-input"]
tables.provenance(origin)
