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
# # Find it in my scene
#
# **A sentence becomes polygons on a scene of any size, with a confidence that says when there is nothing to find.**
#
# Cost: seconds, once the model of [](02_training) is there. `scene`, `texts` (separated by `;`) and `model` take your own.

# %% tags=["parameters", "after:02_training"]
profile = "laptop"
seed = 0
device = "auto"
recompute = False
run_name = ""
overrides = ""
scene = ""
texts = "sea; green land; tan land; xyzzy plugh"
model = ""

# %% tags=["hide-input"]
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import rasterio
from IPython.display import Markdown
from rasterio.transform import from_origin

# %% tags=["hide-input"]
import rsvlm
from rsvlm import config
from rsvlm.book.figures import atlas, galleries, tables
from rsvlm.data import benchmarks
from rsvlm.data.demo import earth, earth_kernels, earth_layout, earth_map, recipe
from rsvlm.model.device import resolve_device
from rsvlm.records.provenance import provenance
from rsvlm.search import index as archive, scene as scenes
from rsvlm.training import train

# %% tags=["hide-input"]
started = time.time()
options = config.load(profile, {"seed": seed, "device": device} | config.pairs(overrides))
data = earth.load_or_build(options)
folder = Path(model) if model else train.load_or_train(*recipe.prepare(options)) / "model"
loaded = rsvlm.load(folder, device)
asked = [text.strip() for text in texts.split(";") if text.strip()]
work = Path(tempfile.mkdtemp())

# %% [markdown]
# ## A scene
#
# Without one of yours, it is the Mediterranean, cut from the embedded imagery and written as a GeoTIFF: 600 by 300 pixels in degrees.

# %%
imagery = earth_layout.load_imagery()
per_degree = imagery.shape[1] / 360
columns, rows = (np.round(np.array(span) * per_degree).astype(int) for span in ((180, 220), (42, 62)))
part = imagery[slice(*rows), slice(*columns)]
raster = {"driver": "GTiff", "height": part.shape[0], "width": part.shape[1], "count": 3, "dtype": "uint8", "crs": "EPSG:4326"}
with rasterio.open(work / "scene.tif", "w", transform=from_origin(0, 48, 1 / per_degree, 1 / per_degree), **raster) as file:
    file.write(np.moveaxis(part, 2, 0))

# %% [markdown]
# ## What is where?
#
# `rsvlm search SCENE --text "sea" --out DIR` does the same. One row per text; the last text is no language.

# %%
found = scenes.search(scene or work / "scene.tif", asked, loaded, work / "found", progress=False)
rows = pd.DataFrame(found.facts["texts"])[["text", "regions", "highest_confidence", "share_of_area"]]
rows.style.hide(axis="index").format(precision=2)

# %% tags=["hide-input"]
hit, empty = rows[rows["regions"] > 0], rows[rows["regions"] == 0]
Markdown(
    f"At a confidence of {found.facts['threshold']} or more, {len(hit)} of {len(rows)} texts are somewhere in the scene"
    + (f"; {', '.join(f'“{text}”' for text in empty['text'])} nowhere" if len(empty) else "")
    + f". The highest confidence of all is {rows['highest_confidence'].max():.2f}: {found.facts['meaning']}."
)

# %% [markdown]
# ## On the map
#
# Confidence over the scene, with a slider for its opacity; regions are outlined, and say more when pointed at.

# %%
atlas.scene_map(found)

# %% tags=["hide-input"]
best = found.regions[0] if found.regions else None
Markdown(
    f"The surest region is “{found.facts['texts'][best['text']]['text']}”, confidence {best['confidence']:.2f} over "
    f"{best['area_px']:,.0f} pixels."
    if best
    else "No region is outlined: no text reaches the threshold anywhere."
)

# %% [markdown]
# ## Is it right?
#
# For the sea there is a truth: the land mask of the coastlines, sampled at the cells of the map of confidence. Beside it stands a map
# that says *sea* everywhere.

# %%
sea = scenes.search(work / "scene.tif", ["sea"], loaded, work / "sea", progress=False)
with rasterio.open(work / "sea" / "heat.tif") as file:
    confidence, box = file.read(1), np.array([file.bounds])
truth = earth_kernels.sample_classes(earth_map.load_mask(), box, 600)[0] == earth_map.SEA
at = [((np.arange(n) + 0.5) * 600 / n).astype(int) for n in confidence.shape]
truth = truth[np.ix_(*at)]
said = {"sea ≥ 0.5": confidence >= 0.5, "sea ≥ 0.2": confidence >= 0.2, "everywhere": np.ones_like(truth)}
scores = {name: 100 * (mask & truth).sum() / max((mask | truth).sum(), 1) for name, mask in said.items()}
pd.Series(scores, name="IoU, percent").to_frame().style.format(precision=1)

# %% tags=["hide-input"]
outlined = said["sea ≥ 0.5"]
right = (
    f"{100 * truth[outlined].mean():.0f} % of what was outlined as sea is sea"
    if outlined.any()
    else "no cell was outlined as sea"
)
Markdown(
    f"{right[0].upper()}{right[1:]}. Outlining everything has an IoU of {scores['everywhere']:.0f} %, the threshold of 0.5 "
    f"{scores['sea ≥ 0.5']:.0f} %: a confidence is a promise of what is outlined, not of finding all."
)

# %% [markdown]
# ## Does the way it is cut up show?
#
# The model sees the scene tile by tile, and the windows that patches are smoothed over reach across the borders of tiles. The same
# search with tiles that also overlap, which costs as many more looks, and how far the confidences move.

# %%
moved = []
for overlap in (0.0, 0.25, 0.5):
    overlapping = scenes.SearchOptions(overlap=overlap)
    scenes.search(work / "scene.tif", ["sea"], loaded, work / "again", overlapping, progress=False)
    with rasterio.open(work / "again" / "heat.tif") as file:
        moved.append({"overlap": overlap, "confidence": file.read(1)})
reference = moved[-1]["confidence"]
table = pd.DataFrame(
    [{"overlap": one["overlap"], "mean change": np.abs(one["confidence"] - reference).mean()} for one in moved[:-1]]
)
table.style.hide(axis="index").format(precision=3)

# %% tags=["hide-input"]
Markdown(
    f"Against tiles that overlap by half, confidences differ by {table['mean change'].iloc[0]:.3f} on average where none do, as usual, "
    f"and by {table['mean change'].iloc[1]:.3f} where they overlap by a quarter."
)

# %% [markdown]
# ## An archive instead of a scene
#
# `rsvlm search index FOLDER --out INDEX` embeds all chips once; `rsvlm search query INDEX "text"` then answers in milliseconds.

# %%
archive.index(work / "scene.tif", loaded, work / "index", stride=0.5, progress=False)
chips = archive.query(work / "index", asked[:2], loaded, k=4)
galleries.chip_matches(chips.to_dict("records"), archive.pictures(work / "index", chips))

# %% tags=["hide-input"]
firsts = chips[chips["rank"] == 1]
Markdown(
    "; ".join(
        f"“{row.text}” is best met at {row.lat:.1f}°, {row.lon:.1f}° (cosine {row.score:.2f})" for row in firsts.itertuples()
    )
)

# %% [markdown]
# ## What we found

# %% tags=["hide-input"]
Markdown(
    f"- {len(hit)} of {len(rows)} texts were found; the others are told by their highest confidence, not by the least bad places.\n"
    f"- {right[0].upper()}{right[1:]}.\n"
    f"- The search looked at {found.facts['megapixels']:.2f} megapixels in {found.facts['seconds']:.1f} s, files included."
)

# %% [markdown]
# ### Three edits to try
#
# - `-p scene=PATH`: a GeoTIFF or a folder of tiles of yours; with `tile_px=256` the model sees it four times coarser.
# - `window=1` in the search: raw patches in place of smoothed ones.
# - `background=["land", "clouds"]`: confidence is a contrast, so what it is held against matters.

# %% tags=["hide-input"]
device_name = str(resolve_device(device))
origin = provenance(options, benchmarks.fingerprint(data), device_name, started, "rsvlm run notebooks/15_scene.ipynb")
tables.provenance(origin)
