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
# # Captions from a map
#
# **Nobody has to write captions for pictures of the Earth: measure the pixels, ask a map what lies there, and let a small grammar put
# it into words.**
#
# Time: ten minutes to read; under a minute to run on two CPU cores, without a GPU or a network.
#
# A vision-language model learns from pairs of an image and a sentence. On the web, photographs come with sentences; satellite pictures
# do not, and nobody will write “a lake in the northeast, forest around it” a million times. But what such a picture shows is known:
# maps say it, and the pixels say the rest. This chapter turns both into captions, for NASA's Blue Marble and the maps GSHHG and
# GeoNames. All of these come with two Python packages.

# %% mystnb={"code_prompt_show": "Code: parameters of this page"} tags=["parameters", "hide-input"]
profile = "laptop"
seed = 0
device = "auto"
recompute = False
run_name = ""
overrides = ""

# %% mystnb={"code_prompt_show": "Code: imports and options"} tags=["hide-input"]
import time
from itertools import islice

import numpy as np
import pandas as pd
from rsvlm import config
from rsvlm.book.figures import (
    amounts,
    atlas,
    charts,
    galleries,
    numbers,
    scale,
    tables,
)
from rsvlm.data import benchmarks, shards
from rsvlm.data.demo import earth
from rsvlm.model import images
from rsvlm.records.provenance import provenance

started = time.time()
given = {"seed": seed, "device": device}
options = config.load(profile, given | config.pairs(overrides))

# %% [markdown]
# ## What is a chip, and what does its caption say?
#
# A {term}`chip` is a square on the ground, cut so that a pixel is as wide as it is high at any latitude. `earth.load_or_build` cuts the
# chips, writes their captions and packs both into {term}`shards <shard>`, which are read from front to back:

# %%
data = earth.load_or_build(options, recompute=recompute)
manifest = shards.manifest(data)
test = list(islice(shards.stream(data, "test"), 100))

# %% [markdown]
# The first caption of a chip says the most: sea and land, coast, islands and lakes, the colours of its pixels and where they are, and
# the names that the map knows.

# %% mystnb={"code_prompt_show": "Code: gallery of twelve chips"} tags=["hide-input"]
coast = [sample for sample in test if "Sea" in sample.captions[0]]
inland = [sample for sample in test if "Sea" not in sample.captions[0]]
galleries.gallery(
    [
        {
            "image": images.decode(sample.image),
            "alt": scale.described(sample.record),
            "caption": sample.captions[0],
            "ground": sample.record,
        }
        for sample in coast[:6] + inland[:6]
    ],
    thumbnail_px=210,
)

# %% [markdown]
# Words for colour, light and texture are measured in the pixels, words for water in the map's mask; nothing is guessed. Names come
# last: they help a reader, but no model can know the name of a place that it has never seen.
#
# Each chip has several captions, so that a model does not learn one wording by heart. One chip has these:

# %% tags=["remove-input"]
numbers.Prose(
    "\n".join(
        f"{i}. {caption}" for i, caption in enumerate(test[0].captions, start=1)
    )
)

# %% [markdown]
# ## Where are they?
#
# Training and test chips must not show the same ground, or a model could pass the test from memory. So whole blocks of the globe are
# held back. A chip is a test chip only if it lies wholly inside a test block, and training chips stay at least one chip away from
# such blocks. Point at a footprint to read its caption.

# %% mystnb={"code_prompt_show": "Code: map of the splits"} tags=["hide-input"]
chips = pd.read_parquet(data / "chips.parquet")
chips["caption"] = [captions[0] for captions in chips["captions"]]
atlas.world_map(chips)


# %% [markdown]
# How far apart are the splits? The distance from the centre of each test chip to the nearest centre of a training chip:


# %%
def unit_vectors(part):
    lon, lat = (
        np.radians(part["lon"].to_numpy()),
        np.radians(part["lat"].to_numpy()),
    )
    across = np.cos(lat)
    return np.column_stack(
        [across * np.cos(lon), across * np.sin(lon), np.sin(lat)]
    )


splits = {name: chips[chips["split"] == name] for name in manifest["splits"]}
cosines = unit_vectors(splits["test"]) @ unit_vectors(splits["train"]).T
gap_km = 6371 * np.arccos(np.clip(cosines.max(axis=1), -1, 1))

# %% tags=["remove-input"]
side_km = (chips["gsd_m"] * chips["size_px"] / 1000).median()
numbers.prose(
    f"It is at least {gap_km.min():,.0f} km; the median is "
    f"{np.median(gap_km):,.0f} km. A chip is {side_km:,.0f} km wide: the "
    "centres of two that touch would be that far apart."
)

# %% [markdown]
# ## What was left out, and why?
#
# Each stage reports how many chips it kept, how many it rejected, and why. The counts add up.

# %% mystnb={"code_prompt_show": "Code: bars of what was kept and rejected"} tags=["hide-input"]
charts.picture(
    amounts.funnel(manifest["funnel"]),
    "Bars of the chips kept and rejected at each stage, a panel for each "
    "split: far more are rejected than kept.",
)

# %% tags=["remove-input"]
reasons = (
    pd.DataFrame([stage["reasons"] for stage in manifest["funnel"]])
    .sum()
    .astype(int)
)
numbers.prose(f"Rejected: {numbers.cell(reasons[reasons > 0].to_dict())}.")

# %% [markdown]
# ## Do captions tell chips apart?
#
# Retrieval can only be as good as its captions: if two chips have the same sentence, no model can tell which one is meant.

# %% tags=["remove-input"]
words = chips["caption"].str.split().str.len()
shortest = splits["test"]["captions"].map(lambda told: min(told, key=len))
same, short_same = (
    100 * texts.duplicated(keep=False).mean()
    for texts in (splits["test"]["caption"], shortest)
)
vocabulary = (
    chips["caption"].str.lower().str.findall(r"[\w-]+").explode().nunique()
)
numbers.prose(
    f"{len(chips):,} chips have {chips['captions'].str.len().sum():,} "
    f"captions with {vocabulary:,} different words, names included. The first "
    f"caption of a chip has a median of {words.median():.0f} words.",
    f"{same:.1f} % of the test chips share it with another test chip; "
    f"{short_same:.1f} % share their shortest caption with another.",
)

# %% [markdown]
# ## What else is kept of a chip?
#
# With each picture a shard keeps its footprint, the size of a pixel, and its {term}`landmarks <landmark>` with their sources and
# licences, so that anybody can write other captions from them. The landmarks of one chip:

# %% mystnb={"code_prompt_show": "Code: table of landmarks"} tags=["hide-input"]
rich = (s.record for s in test if len(s.record["landmarks"]) >= 4)
columns = [
    "name",
    "category",
    "position",
    "area_km2",
    "population",
    "prominence",
    "source",
]
landmarks = pd.DataFrame(next(rich)["landmarks"]).reindex(columns=columns)
landmarks = landmarks.dropna(axis="columns", how="all")
numbers.table(
    landmarks.head(10).rename(columns={"area_km2": "area, km²"}),
    digits={"area, km²": 0, "population": 0, "prominence": 2},
)

# %% [markdown]
# ## Exercise
#
# With `rsvlm run notebooks/01_landmarks.ipynb --set landmarks.size_px=96` a chip has one and a half times as many pixels to a side, and
# covers more ground. What happens to the share of test chips with the same shortest caption, and what to the size of the training split?
#
# ```{dropdown} Answer
# A larger chip holds more landmarks and colours, so even its shortest caption has more to say, and fewer of them are equal. The training
# split shrinks to less than a third: fewer chips fit onto the globe, fewer lie wholly inside a block, and training chips keep a distance
# that grows with the side of a chip. Better captions are paid for with fewer of them.
# ```
#
# ## Takeaways

# %% tags=["remove-input"]
shares = {
    word: 100 * chips["caption"].str.contains(word, case=False).mean()
    for word in ("sea", "lake")
}
sizes = ", ".join(
    f"{part['samples']:,} {split}" for split, part in manifest["splits"].items()
)
numbers.points(
    f"Maps and pixels alone are enough for captions: {sizes} chips have them. "
    f"{shares['sea']:.0f} % of the chips show the sea, {shares['lake']:.0f} % "
    "name a lake.",
    "The splits are apart on the ground: no test chip is nearer than "
    f"{gap_km.min():,.0f} km to a training chip, from centre to centre.",
    "What is measured can be said of any place. Names cannot; they come last.",
)

# %% tags=["remove-input"]
origin = provenance(
    options,
    benchmarks.fingerprint(data),
    "cpu",
    started,
    "rsvlm run notebooks/01_landmarks.ipynb",
)
tables.provenance(origin)
