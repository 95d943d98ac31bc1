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
# # Real ground: Itaipu
#
# **One pixel is 30 m here, a chip not quite two kilometres wide: rivers, forests, towns and the plots of farms can be seen. A model that learnt
# from captions of the Blue Marble and of the north is asked for nine words in the south, where each chip was labelled by looking at it.**
#
# Cost: about a minute of one core in profile `laptop`, once the model is trained; `smoke` trains too little to know.

# %% tags=["parameters", "after:02_training"]
profile = "laptop"
seed = 0
device = "auto"
recompute = False
run_name = ""
overrides = ""
model = ""

# %% tags=["hide-input"]
import time

import numpy as np
import pandas as pd
from IPython.display import Markdown

# %% tags=["hide-input"]
from rsvlm import config
from rsvlm.book.figures import charts, galleries, tables
from rsvlm.data.demo import ground, itaipu, recipe
from rsvlm.errors import DataError
from rsvlm.evaluation import baselines, labels, statistics
from rsvlm.model import embed
from rsvlm.model.device import resolve_device
from rsvlm.model.others import opening
from rsvlm.records.files import file_sha256
from rsvlm.records.provenance import provenance
from rsvlm.records.results import save_result
from rsvlm.training import train

# %% tags=["hide-input"]
started = time.time()
options = config.load(profile, {"seed": seed, "device": device} | config.pairs(overrides))
try:
    scene = ground.itaipu()
except DataError as error:
    scene, reason = None, error
is_there = scene is not None

# %% tags=["hide-input"]
Markdown(
    "The ground comes in a package of the registry, which is read and not run: two scenes of Landsat 8 of 18 May 2020, "
    f"{ground.ITAIPU_SOURCE['attribution']}, {ground.ITAIPU_SOURCE['license']}."
    if is_there
    else f"The package with the ground could not be had, so this chapter is empty: {reason}"
)

# %% [markdown]
# ## What is to be seen?
#
# The dam and its reservoir, the towns on both sides of the river, the forest of the national park, and farmland. The north trains, the south
# tests; no chip of one touches the other. Each label was set by two independent looks at the chip, by a guideline; where they
# disagree, the label is unknown and counts neither way. The looks were those of a vision-language assistant: nobody was on the ground.

# %%
if is_there:
    pictures, table = itaipu.labelled(scene, "test")
    truth = table[list(itaipu.LABELS)].to_numpy()
    train_pictures, train_table = itaipu.labelled(scene, "train")
    held_pictures, held_table = itaipu.labelled(scene, "val")
    parts = {"north, for training": train_table, "north, held out": held_table, "south, for the test": table}
    shown = pd.DataFrame({name: (part[list(itaipu.LABELS)] == itaipu.YES).sum() for name, part in parts.items()})
    shown.loc["chips"] = [len(part) for part in parts.values()]
    display(shown.rename_axis(index="chips that show").style)

# %%
if is_there:
    CHIP = {"gsd_m": ground.PIXEL_M, "size_px": itaipu.SIDE_PX}
    side = f"{itaipu.SIDE_PX * ground.PIXEL_M / 1000:.1f} km"
    typical = {label: np.flatnonzero(truth[:, i] == itaipu.YES) for i, label in enumerate(itaipu.LABELS)}
    items = [
        {
            "image": pictures[rows[len(rows) // 2]],
            "alt": f"A chip of {side} that shows: {label}",
            "caption": label,
            "ground": CHIP,
        }
        for label, rows in typical.items()
        if len(rows)
    ]
    display(galleries.gallery(items, thumbnail_px=128))

# %% [markdown]
# ## Which words does it know?
#
# A label becomes a vector by way of a few words for it, in the sentences of the captions: the words were chosen before any look at the
# south, and are these. Some chips are near every text, so what counts is how much better a label fits than the others do: a chip's score
# is its cosine minus the mean of its cosines with all labels. That was chosen on the validation chips of the north; what cosines alone
# have stands beside it in the results.

# %%
WORDS = {
    "water": ["water", "a lake", "a reservoir", "a large river"],
    "river": ["a river", "a stream", "a narrow river"],
    "city": ["a city", "a town", "buildings and streets"],
    "village": ["a village", "a hamlet", "a few houses"],
    "forest": ["a forest", "forests", "trees"],
    "fields": ["fields", "farmland"],
    "bare ground": ["bare ground", "bare soil"],
    "dam": ["a dam"],
    "island": ["an island", "islands"],
}
SENTENCES = ["An aerial picture of {}.", "{}, seen from above.", "An overhead view of {}.", "A picture with {}."]

# %%
rows, draws = [], {}
if is_there:
    folder = model or str(train.load_or_train(*recipe.prepare(options)) / "model")
    encoder = opening.open_encoder(folder, device=device)
    vectors = embed.unit(np.concatenate([encoder.images(list(part)) for part in np.array_split(pictures, 8)]), "chips")
    of_labels = []
    for label in itaipu.LABELS:
        sentences = [sentence.format(word) for word in WORDS[label] for sentence in SENTENCES]
        of_labels.append(embed.unit(np.asarray(encoder.texts(sentences)), "texts").mean(0))
    cosines = vectors @ embed.unit(np.stack(of_labels), "labels").T
    zero_shot = cosines - cosines.mean(1, keepdims=True)

# %%
if is_there:
    colours, of_train, of_held = (
        np.stack([baselines.colours(picture) for picture in part]) for part in (pictures, train_pictures, held_pictures)
    )
    known = [part[list(itaipu.LABELS)].to_numpy() for part in (train_table, held_table)]
    by_colour = labels.ridge(of_train, known[0], of_held, known[1], colours)

# %%
if is_there:
    about = {"dataset": "itaipu-south", "blocks": [itaipu.block(chip) for chip in table.index], "seed": seed}
    about |= {"bootstrap_samples": options.evaluate.bootstrap_samples, "resampled": draws}
    ways = {"zero-shot": zero_shot, "zero-shot, cosines alone": cosines, "colours, supervised": by_colour}
    for name, scores in ways.items():
        rows += labels.evaluate(scores, truth, itaipu.LABELS, protocol=name, **about)
    both = [draws[name, "t2i", "mAP"] for name in ("zero-shot", "colours, supervised")]
    gap = statistics.gap(*both, None)
    mean = next(row for row in rows if row["protocol"] == "zero-shot" and row["metric"] == "mAP")
    rows.append(mean | gap | {"protocol": "zero-shot - colours, supervised", "chance": None})

# %%
SHOWN = ["zero-shot", "colours, supervised"]
if is_there:
    panels = {row["metric"]: row["metric"].removeprefix("AP[").rstrip("]") for row in rows}
    dots = [row | {"label": panels[row["metric"]], "series": row["protocol"]} for row in rows if row["protocol"] in SHOWN]
    display(
        charts.picture(
            charts.interval_dots(dots, "average precision, percent"),
            "Average precision of each label, of the model without labels and of colours with them, with intervals over blocks and chance.",
        )
    )

# %% tags=["hide-input"]
told = {(row["protocol"], row["metric"]): row for row in rows}


def span(row):
    return f"{row['value']:.1f} ({row['ci_low']:.1f} to {row['ci_high']:.1f})"


# %% tags=["hide-input"]
Markdown(
    f"Over the labels that at least {labels.LEAST} chips of the south show, the mean average precision without a single label is "
    f"**{span(told['zero-shot', 'mAP'])}**; a random order has {told['zero-shot', 'mAP']['chance']:.1f}. The strongest trivial rival is given "
    f"the labels of the north and sees {colours.shape[1]} numbers of colour: it has {span(told['colours, supervised', 'mAP'])}. The difference is "
    f"{gap['value']:+.1f} ({gap['ci_low']:+.1f} to {gap['ci_high']:+.1f}). Intervals are over {len(set(about['blocks']))} blocks of four by four "
    "chips, for neighbours are alike."
    if is_there
    else ""
)

# %% [markdown]
# ## What comes first
#
# For each word the five chips that the model holds for the likeliest; ✓ where both looks saw it, ? where one of them did.

# %%
MARKS = {itaipu.YES: "✓", itaipu.NO: "✗", itaipu.UNKNOWN: "?"}
if is_there:
    for i, label in enumerate(itaipu.LABELS):
        if not (truth[:, i] == itaipu.YES).any():
            continue
        first = np.argsort(-zero_shot[:, i], kind="stable")[:5]
        row = [
            {"image": pictures[j], "badge": MARKS[int(truth[j, i])], "caption": ", ".join(
                name for name, held in zip(itaipu.LABELS, truth[j]) if held == itaipu.YES
            ) or "nothing sure", "ground": CHIP, "alt": f"Answer {rank} to {label}: chip {table.index[j]}"}
            for rank, j in enumerate(first, 1)
        ]  # fmt: skip
        display(Markdown(f"**{label}**"), galleries.gallery(row, thumbnail_px=112))

# %% tags=["hide-input"]
if is_there:
    origin = provenance(
        options, file_sha256(itaipu.FILE), str(resolve_device(device)), started, "rsvlm run notebooks/11_itaipu.ipynb"
    )
    save_result("itaipu", run_name or f"{profile}-seed{seed}", options, rows, origin)
    display(tables.provenance(origin))
