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
# # Retrieval on unseen ground
#
# **A sentence finds its place among chips from blocks of the globe that the model was never trained on, many times better than
# chance.**
#
# Cost: seconds, once the model of the page before is trained.

# %% tags=["parameters", "after:02_training"]
profile = "laptop"
seed = 0
device = "auto"
recompute = False
run_name = ""
overrides = ""

# %% tags=["hide-input"]
import time

import numpy as np
import pandas as pd
from IPython.display import Markdown

# %% tags=["hide-input"]
import rsvlm
from rsvlm import config
from rsvlm.book.figures import charts, galleries, interactive, tables
from rsvlm.data import benchmarks, shards
from rsvlm.data.demo import earth
from rsvlm.evaluation import embeddings, retrieval
from rsvlm.model import embed, images
from rsvlm.model.device import resolve_device
from rsvlm.records import provenance, results
from rsvlm.training import train

started = time.time()
options = config.load(profile, {"seed": seed, "device": device} | config.pairs(overrides))
data = earth.load_or_build(options)
run = train.load_or_train(options, data)

# %% [markdown]
# ## How often is the right answer among the first?
#
# The gallery is the geographic test split, one caption per chip: its fullest. Ties count as errors. Next to the model stands the
# same model with the captions shuffled among the chips: if the score came from anything but the match of chip and caption, it
# would stay.

# %%
folder = embeddings.load_or_embed(run / "model", data, "test", recompute=recompute, device=device)
found = embeddings.read(folder)
settings = {"dataset": "rs-landmarks-blue-marble", "bootstrap_samples": options.evaluate.bootstrap_samples, "seed": seed}
settings |= {"protocol": "one-to-one"}
vectors = found.image_embeddings, found.caption_embeddings
rows = retrieval.evaluate(*vectors, found.image_of_caption, **settings)
shuffled = np.random.default_rng(seed).permutation(len(found.keys))[found.image_of_caption]
control = retrieval.evaluate(*vectors, shuffled, **settings)
charts.picture(
    charts.recall_bars({"trained": rows, "captions shuffled": control}),
    "Bars of recall at 1, 5 and 10 in both directions: the trained model far above chance, the shuffled captions at chance.",
)

# %%
table = pd.DataFrame(rows).merge(pd.DataFrame(control), on=["direction", "metric"], suffixes=("", "_shuffled"))
columns = ["direction", "metric", "value", "ci_low", "ci_high", "chance", "value_shuffled", "n"]
table[columns].style.hide(axis="index").format(precision=2)

# %% tags=["hide-input"]
mean = next(row for row in rows if row["metric"] == "mR")
mean_control = next(row for row in control if row["metric"] == "mR")
Markdown(
    f"Mean recall over both directions is **{mean['value']:.1f} %** (95 % interval {mean['ci_low']:.1f} to {mean['ci_high']:.1f}) "
    f"on {mean['n']} unseen chips. Guessing gives {mean['chance']:.2f} %: the model is {mean['value'] / mean['chance']:.1f} times "
    f"better. With shuffled captions it falls to {mean_control['value']:.2f} % ({mean_control['ci_low']:.2f} to "
    f"{mean_control['ci_high']:.2f})."
)

# %% tags=["hide-input"]
origin = provenance.provenance(
    options,
    benchmarks.fingerprint(data),
    str(resolve_device(device)),
    started,
    "rsvlm run notebooks/03_retrieval.ipynb",
)
saved = results.save_result("retrieval", run_name or f"{profile}-seed{seed}", options, rows, origin)

# %% [markdown]
# ## And under the other protocols?
#
# One caption per chip is the strictest reading, and one of five that are in use; `mAP` asks for all captions of a chip, not the best alone.
# The same vectors, counted in each way; [](07_recall_at_k) says what the protocols are, and what ties and the size of the gallery do.

# %%
every = retrieval.evaluate(*vectors, found.image_of_caption, found.captions, **settings | {"protocol": "all"})
every = pd.DataFrame(every)
every["measure"] = every["direction"] + " " + every["metric"]
measures = ["both mR", "i2t mAP", "t2i mAP", "i2t median_rank", "t2i median_rank"]
wide = every.pivot(index="protocol", columns="measure", values="value").loc[list(retrieval.PROTOCOLS), measures]
wide.style.format(precision=1)

# %% tags=["hide-input"]
Markdown(
    f"Mean recall lies between {wide['both mR'].min():.1f} % (`{wide['both mR'].idxmin()}`) and {wide['both mR'].max():.1f} % "
    f"(`{wide['both mR'].idxmax()}`): a number without its protocol says little."
)

# %% [markdown]
# ## Where on Earth is it easy?
#
# The same queries by the latitude belt of their chip; the gallery stays the whole test split.

# %%
belts = pd.read_parquet(data / "chips.parquet").set_index("key").loc[found.keys, "belt"].tolist()
per_belt = retrieval.evaluate(*vectors, found.image_of_caption, classes=belts, **settings)
ways = {"i2t": "image → text", "t2i": "text → image"}
dots = [
    row | {"label": row["metric"][4:-1], "series": ways[row["direction"]]}
    for row in per_belt
    if row["metric"].startswith("R@5[")
]
charts.picture(charts.interval_dots(dots, "R@5, percent"), "R@5 both ways for chips of each latitude belt, with intervals.")

# %% tags=["hide-input"]
easy, hard = (pick((dot for dot in dots if dot["direction"] == "t2i"), key=lambda dot: dot["value"]) for pick in (max, min))
Markdown(
    f"Text → image R@5 is highest for {easy['label']} chips ({easy['value']:.0f} % of {easy['n']}) and lowest for {hard['label']} ones "
    f"({hard['value']:.0f} % of {hard['n']}); where the intervals overlap, the order may be chance."
)

# %% [markdown]
# ## How far down is the right answer otherwise?

# %%
first_captions = np.sort(np.unique(found.image_of_caption, return_index=True)[1])
captions = found.caption_embeddings[first_captions]
texts = [found.captions[i] for i in first_captions]
image_to_text, text_to_image = retrieval.ranks(found.image_embeddings, captions, np.arange(len(texts)))
ranks = {"text → image": text_to_image, "image → text": image_to_text}
charts.picture(
    charts.rank_histogram(ranks, len(texts)),
    "Curves of the share of queries whose right answer is within each rank, far above guessing.",
)

# %% tags=["hide-input"]
within = 100 * np.mean(text_to_image <= 0.1 * len(texts))
Markdown(
    f"Half of the sentences have their chip among the first {np.median(text_to_image):.0f} of {len(texts)}; {within:.0f} % have it in the "
    "first tenth."
)

# %% [markdown]
# ## Text → image: the best and the worst queries
#
# The chip that belongs to the sentence is marked. First the four sentences that found theirs with the largest lead, then four of
# those that failed most.

# %%
pictures = [images.decode(sample.image) for sample in shards.stream(data, "test")]
scores, best = embeddings.search(captions, found.image_embeddings, k=5)
lead = scores[:, 0] - scores[:, 1] + (text_to_image > 1) * -10
queries = np.r_[np.argsort(-lead)[:4], np.argsort(-text_to_image)[:4]]
galleries.text_to_image(
    [
        {"query": texts[q], "note": f"rank {text_to_image[q]} of {len(texts)}"}
        | {"images": [{"image": pictures[i], "alt": f"Chip {found.keys[i]}", "right": i == q} for i in best[q]]}
        for q in queries
    ]
)

# %% [markdown]
# ## Image → text: what does the model say first?
#
# For a few chips drawn at random, the three sentences of the gallery that the model puts first.

# %%
_, sentences = embeddings.search(found.image_embeddings, captions, k=3)
shown = np.random.default_rng(seed).choice(len(texts), 6, replace=False)
galleries.image_to_text(
    [
        {"image": pictures[i], "alt": f"Chip {found.keys[i]}", "note": f"rank {image_to_text[i]}"}
        | {"captions": [{"text": texts[j], "right": j == i} for j in sentences[i]]}
        for i in shown
    ]
)

# %% [markdown]
# ## Sentences of our own
#
# The text tower takes any sentence. These were written by hand, in the vocabulary of the captions; [](../search) takes yours.

# %%
model = rsvlm.load(run / "model", device=device)
asked = ["Sea to the east covers about half of the picture.", "Sea to the west covers about half of the picture."]
asked += ["Tan land, smooth, without any water.", "Dark green land with many lakes.", "White land and sea, with many islands."]
asked += [
    "A small island in the sea.",
    "A large lake in brown land.",
    "Land covers all of the picture.",
    "Sea and an ice shelf.",
]
_, answers = embeddings.search(embed.texts(model, asked), found.image_embeddings, k=10)

# %%
frames = [
    galleries.gallery(
        [{"image": pictures[i], "alt": f"Chip {found.keys[i]}", "badge": f"{k}"} for k, i in enumerate(row, start=1)]
    )
    for row in answers
]
interactive.slider(frames, {"sentence": asked}, drop_down=True)

# %% [markdown]
# ## What we found

# %% tags=["hide-input"]
Markdown(
    f"- Mean recall is {mean['value'] / mean['chance']:.1f} times chance on ground that was never shown.\n"
    f"- The same vectors with shuffled captions reach {mean_control['value'] / mean_control['chance']:.2f} times chance: the score is "
    "the match itself.\n"
    f"- The median rank is {np.median(text_to_image):.0f} of {len(texts)} for text → image and {np.median(image_to_text):.0f} for "
    "image → text."
)

# %% [markdown]
# ### Three edits to try
#
# - Replace the sentences of our own by yours; which words does the model know?
# - `-p seed=1`: another split of the globe, another model. Is the difference within the interval?
# - In the second cell, use `protocol="plain"`: all captions of a chip, also the short ones, become queries.

# %% tags=["hide-input"]
tables.provenance(origin)
