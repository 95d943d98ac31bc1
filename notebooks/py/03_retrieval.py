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
# **A sentence finds its place among chips from blocks of the globe that the model was never trained on. Beside every number stands what
# the colours of a chip reach without any model, and below, which words of a sentence the model reads at all.**
#
# Cost: about half a minute, once the model of the page before is trained.

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
from rsvlm.book import failures
from rsvlm.book.figures import charts, galleries, interactive, scale, tables
from rsvlm.data import benchmarks
from rsvlm.data.demo import earth, recipe
from rsvlm.evaluation import baselines, embeddings, reading, retrieval, shared_ground, statistics, words
from rsvlm.model import embed, images
from rsvlm.model.device import resolve_device
from rsvlm.records import provenance, results
from rsvlm.training import augment, train

# %% tags=["hide-input"]
started = time.time()
options = config.load(profile, {"seed": seed, "device": device} | config.pairs(overrides))
data = earth.load_or_build(options)
run = train.load_or_train(*recipe.prepare(options))

# %% [markdown]
# ## How often is the right answer among the first?
#
# The gallery is the geographic test split, one caption per chip: its fullest. Ties count as errors. Two things stand beside the model.
# One knows no shapes: a chip is 54 numbers to it, mean and deviation of each colour in the nine fields of a 3 × 3 grid, from which a
# ridge regression, learnt from the training chips, foretells the words of the caption. Who reads more in a chip than its palette is
# better than that. The other is the same model with the captions shuffled among the chips: if the score came from anything but the match
# of chip and caption, it would stay.

# %%
by_key = {sample.key: sample for sample in benchmarks.samples(data, "test")}
found = embeddings.read(embeddings.load_or_embed(run / "model", data, "test", recompute=recompute, device=device))
test = [by_key[key] for key in found.keys]
pictures = [images.decode(sample.image) for sample in test]
blocks = shared_ground.blocks([sample.record for sample in test])

# %%
palette = "colour, whitened"  # the better of the two that `rsvlm evaluate retrieval --baselines` knows
known, captions_of, _ = baselines.read(benchmarks.samples(data, "train"))
ridge = baselines.colour_ridge(known, [texts[:1] for texts in captions_of], whitening=0.1, seed=seed)
by_colour = ridge.images(np.stack([baselines.colours(picture) for picture in pictures]))

# %%
facts = {"dataset": benchmarks.name(data), "bootstrap_samples": options.evaluate.bootstrap_samples, "seed": seed}
settings = facts | {"protocol": "one-to-one", "blocks": blocks}
owners = found.image_of_caption
vectors = found.image_embeddings, found.caption_embeddings
ours, theirs = {}, {}
rows = retrieval.evaluate(*vectors, owners, resampled=ours, **settings)
coloured = retrieval.evaluate(by_colour, ridge.texts(found.captions), owners, resampled=theirs, **settings)
shuffled = np.random.default_rng(seed).permutation(len(test))[owners]
control = retrieval.evaluate(*vectors, shuffled, **settings)
charts.picture(
    charts.recall_bars({"trained": rows, "colours alone": coloured, "captions shuffled": control}),
    "Bars of recall at 1, 5 and 10 in both directions: the trained model, colours alone, and the shuffled captions at chance.",
)

# %%
units = statistics.count_blocks(blocks, len(test))
beside = baselines.beside(rows, ours, palette, coloured, theirs, units)
apart = {(row["direction"], row["metric"]): row for row in beside if "model - " in row["protocol"]}
table = pd.DataFrame(rows)[["direction", "metric", "value", "ci_low", "ci_high", "chance", "n"]]
table.insert(5, "colours alone", [row["value"] for row in coloured])
differences = [apart[row["direction"], row["metric"]] for row in rows]
table.insert(6, "difference", [f"{d['value']:+.1f} ({d['ci_low']:+.1f} to {d['ci_high']:+.1f})" for d in differences])
table.style.hide(axis="index").format(precision=2)

# %% tags=["hide-input"]
mean, mean_colour, mean_control = (next(row for row in of if row["metric"] == "mR") for of in (rows, coloured, control))
gap = apart["both", "mR"]
verdict = "beats" if gap["ci_low"] > 0 else "falls short of" if gap["ci_high"] < 0 else "cannot be told from"
Markdown(
    f"Mean recall over both directions is **{mean['value']:.1f} %** (95 % interval {mean['ci_low']:.1f} to {mean['ci_high']:.1f}) "
    f"on {mean['n']} unseen chips; colours alone reach **{mean_colour['value']:.1f} %**. The model {verdict} them "
    f"({gap['value']:+.1f} points, {gap['ci_low']:+.1f} to {gap['ci_high']:+.1f}). Guessing gives {mean['chance']:.2f} %, and with "
    f"shuffled captions the model is there: {mean_control['value']:.2f} % ({mean_control['ci_low']:.2f} to {mean_control['ci_high']:.2f})."
)

# %% [markdown]
# ## How many places is that, really?
#
# The chips of the test split overlap: they are cut from a finer grid than their side. What a model gets right of one chip it tends to get
# right of its neighbours, so that an interval over single chips is too narrow. All intervals on this page are over blocks: chips whose
# ground overlaps, and what hangs together through them, are drawn as one. From the training chips they are kept apart by at least the
# side of a chip; that the landscape goes on beyond that is a leak which a split of one planet cannot close.

# %%
alone = retrieval.evaluate(*vectors, owners, **settings | {"blocks": None})
both = {"single chips": alone, "blocks of shared ground": rows}
both = {name: next(row for row in of if row["metric"] == "mR") for name, of in both.items()}
both = pd.DataFrame(both).T[["value", "ci_low", "ci_high"]].rename_axis("mean recall, resampled by")
both.assign(units=[len(test), units]).style.format(precision=1, subset=["value", "ci_low", "ci_high"])

# %% tags=["hide-input"]
_, sizes = np.unique(blocks, return_counts=True)
first_captions = np.sort(np.unique(owners, return_index=True)[1])
captions = found.caption_embeddings[first_captions]
_, best = embeddings.search(captions, found.image_embeddings, k=5)
wrong = best[:, 0] != np.arange(len(test))
near = [shared_ground.overlap(test[i].record, test[best[i, 0]].record) > 0 for i in np.flatnonzero(wrong)]
Markdown(
    f"The {len(test)} chips lie in {units} blocks, the largest of {sizes.max()} chips; with so few, the intervals themselves are rough. Neighbours in a row share "
    f"{100 - 100 * options.landmarks.test_stride:.0f} % of their side, and so some errors are small: of the {wrong.sum()} sentences that put a wrong "
    f"chip first, {100 * np.mean(near):.0f} % put one first that overlaps the right one."
)

# %% tags=["hide-input"]
origin = provenance.provenance(
    options,
    benchmarks.fingerprint(data),
    str(resolve_device(device)),
    started,
    "rsvlm run notebooks/03_retrieval.ipynb",
)
where = run_name or f"{profile}-seed{seed}"
saved = results.save_result("retrieval", where, options, rows + beside, origin)

# %% [markdown]
# ## And under the other protocols?
#
# One caption per chip is the strictest reading, and one of five that are in use; `mAP` asks for all captions of a chip, not the best alone.
# The same vectors, counted in each way; [](07_recall_at_k) says what the protocols are, and what ties and the size of the gallery do.

# %%
every = retrieval.evaluate(*vectors, owners, found.captions, **settings | {"protocol": "all"})
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
per_belt = retrieval.evaluate(*vectors, owners, classes=belts, **settings)
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
# ## Text → image: found, nearly found, lost
#
# A row is one search: the sentence, its first five answers, and behind the gap the right one with its rank. There is a row for each kind of
# outcome, with its share of all searches; it shows the search that has the median rank of its kind. A search is of the first kind that fits: found;
# near miss, where the first answer overlaps the right one; lost, where more than a tenth of all chips come before the right one; and else by
# what the captions of the two differ in.


# %%
def chip(i):
    return {"image": pictures[i], "alt": scale.described(test[i].record), "ground": test[i].record}


model = rsvlm.load(run / "model", device=device)
encoder = embed.encoder_of(model)
scores, best = embeddings.search(captions, found.image_embeddings, k=5)
shared = [[shared_ground.overlap(test[q].record, test[i].record) for i in row] for q, row in enumerate(best)]
told = [(of[0], texts[q], texts[best[q, 0]]) for q, of in enumerate(shared)]
kinds = [failures.kind(rank, len(test), *of) for rank, of in zip(text_to_image, told)]
examples = failures.examples(kinds, text_to_image)
queries = list(examples.values())
important = reading.importance(found.image_embeddings, [texts[q] for q in queries], queries, encoder.texts)


# %% tags=["hide-input", "full-width"]
def strip(q, word):
    share = f"{kinds[q]} ({100 * np.mean(np.array(kinds) == kinds[q]):.0f} % of {len(kinds)})"
    hindering = failures.hindering(word.spans, texts[q], word.rank, word.ranks)
    answers = zip(best[q], scores[q], shared[q])
    return {
        "query": texts[q], "spans": word.spans, "changes": word.changes, "kind": share,
        "reason": failures.reason(kinds[q], *told[q], hindering),
        "images": [chip(i) | {"score": s, "right": i == q, "overlaps": part > 0} for i, s, part in answers],
        "right_one": chip(q) | {"rank": text_to_image[q], "score": word.cosine},
    }  # fmt: skip


galleries.text_to_image(list(map(strip, queries, important)))

# %% [markdown]
# ## Image → text: what does the model say first?
#
# For a few chips drawn at random, the three sentences of the gallery that the model puts first, and the right one. What the right one does not
# say as well is underlined.

# %%
_, sentences = embeddings.search(found.image_embeddings, captions, k=3)
shown = np.random.default_rng(seed).choice(len(texts), 4, replace=False)
galleries.image_to_text(
    [
        chip(i)
        | {"captions": [{"text": texts[j], "right": j == i} for j in sentences[i]]}
        | {"right_one": {"text": texts[i], "rank": image_to_text[i]}}
        for i in shown
    ]
)

# %% [markdown]
# ## Sentences of our own
#
# The text tower takes any sentence. These were written by hand, in the vocabulary of the captions; [](../search) takes yours.

# %%
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
frames = [galleries.gallery([chip(i) | {"badge": k} for k, i in enumerate(row, start=1)], 120) for row in answers]
interactive.slider(frames, {"sentence": asked}, drop_down=True)

# %% [markdown]
# ## Which words count?
#
# A sentence can be found by a few of its words. Three tests of that, each of the model and of colours alone.
#
# *Words of a kind*: each colour, direction or count in the captions is exchanged for another one, east for west, or all words are put into
# another order. What the mean recall loses is what these words were worth.

# %%
exchanges = ["colours swapped", "directions swapped", "counts swapped", "east for west", "order shuffled"]
exchanges = {name: words.changes()[name] for name in exchanges}
asked_of = {"model": (found.image_embeddings, encoder.texts), "colours alone": (by_colour, ridge.texts)}
ablated = {
    who: reading.ablation(vectors, found.captions, owners, texts_of, changes=exchanges, **settings)
    for who, (vectors, texts_of) in asked_of.items()
}
worth = {(who, row["protocol"], row["metric"]): row for who, of in ablated.items() for row in of}


# %%
def of_exchange(name):
    row = {"words": name, "captions changed, %": worth["model", f"one-to-one: {name}", "captions_changed"]["value"]}
    for who in asked_of:
        lost = worth[who, f"one-to-one: {name} - unchanged", "mR"]
        row[f"mean recall, {who}"] = worth[who, f"one-to-one: {name}", "mR"]["value"]
        row[f"change, {who}"] = f"{lost['value']:+.1f} ({lost['ci_low']:+.1f} to {lost['ci_high']:+.1f})"
    return row


pd.DataFrame(map(of_exchange, exchanges)).style.hide(axis="index").format(precision=1)

# %% [markdown]
# *Directions*: each chip is turned and mirrored, and its sentence, left as it is, has to find it among its own eight turns. And *negation*:
# of two sentences, that a chip shows a thing and that it does not, the right one should be nearer.

# %%
telling = {i: told for i, sample in enumerate(test) if (told := reading.telling(sample.captions))}
few = list(telling)[:200]
sentences, how = [telling[i] for i in few], facts | {"blocks": blocks[few]}
turns = [augment.turn_image(pictures[i], turn) for i in few for turn in range(augment.ELEMENTS)]
palettes = ridge.images(np.stack(list(map(baselines.colours, turns)))).reshape(len(few), augment.ELEMENTS, -1)
turned, draws, their_draws = reading.turned_vectors(encoder, [pictures[i] for i in few]), {}, {}
directed = reading.directions(turned, sentences, encoder.texts, resampled=draws, **how)
by_palette = reading.directions(palettes, sentences, ridge.texts, resampled=their_draws, **how)
units_of_turns = statistics.count_blocks(blocks[few], len(few))
directed += baselines.beside(directed, draws, palette, by_palette, their_draws, units_of_turns)

# %%
names, shown = reading.labels([sample.record for sample in test])
denied = {
    who: reading.negation(vectors, names, shown, texts_of, blocks=blocks, **facts)
    for who, (vectors, texts_of) in asked_of.items()
}
ways = ("directions", f"directions: {palette}", f"directions: model - {palette}")
right = {row["protocol"]: row for row in directed if (row["metric"], row["direction"]) == ("directions", "t2i")}
lines = [right[name] | {"asked": name} for name in ways]
lines += [next(row for row in of if row["metric"] == "negation") | {"asked": f"negation, {who}"} for who, of in denied.items()]
columns = ["asked", "value", "ci_low", "ci_high", "chance", "n"]
pd.DataFrame(lines)[columns].style.hide(axis="index").format(precision=1, na_rep="")


# %% tags=["hide-input"]
def interval(row):
    return f"{row['value']:.1f} % ({row['ci_low']:.1f} to {row['ci_high']:.1f})"


# %% tags=["hide-input"]
losses = {name: worth["model", f"one-to-one: {name} - unchanged", "mR"] for name in exchanges}
most = min(losses, key=lambda name: losses[name]["value"])
idle = [name for name, row in losses.items() if row["ci_high"] >= 0]
Markdown(
    f"Of these the model loses most by “{most}”: {losses[most]['value']:+.1f} points of mean recall. "
    + (
        f"No loss beyond chance by {', '.join(f'“{name}”' for name in idle)}. "
        if idle
        else "Each exchange costs something beyond chance. "
    )
    + f"A sentence tells its chip from the seven other turns in {interval(right['directions'])} of {len(few)} chips, colours alone in "
    f"{interval(right[ways[1]])}, and guessing in {right['directions']['chance']:.1f} %. Of negation the model has "
    f"{interval(lines[3])} right, where guessing has {lines[3]['chance']:.0f} %."
)

# %%
labelled = [row | {"protocol": f"{row['protocol']}: {palette}"} for row in ablated["colours alone"] + denied["colours alone"]]
measured = directed + ablated["model"] + denied["model"] + labelled
saved = results.save_result("reading", where, options, measured, origin)

# %% [markdown]
# And word by word: for five chips drawn at random, a caption of middling length, and what the search for the chip loses without each word.

# %%
drawn = np.random.default_rng(seed).choice(len(test), 5, replace=False)
middling = [min(test[i].captions, key=lambda text: abs(len(text.split()) - 20)) for i in drawn]
important = reading.importance(found.image_embeddings, middling, drawn, encoder.texts)
galleries.shaded_words(
    [
        chip(i) | {"text": one.text, "spans": one.spans, "changes": one.changes, "note": f"rank {one.rank} of {len(test)}"}
        for i, one in zip(drawn, important, strict=True)
    ]
)

# %% [markdown]
# ## What we found

# %% tags=["hide-input"]
Markdown(
    f"- Mean recall is {mean['value']:.1f} % on ground that was never shown, where colours alone reach {mean_colour['value']:.1f} %: the "
    f"model {verdict} them ({gap['value']:+.1f} points, {gap['ci_low']:+.1f} to {gap['ci_high']:+.1f}).\n"
    f"- The same vectors with shuffled captions reach {mean_control['value']:.2f} %, guessing {mean['chance']:.2f} %: what score there is, "
    "is the match itself.\n"
    f"- The median rank is {np.median(text_to_image):.0f} of {len(texts)} for text → image and {np.median(image_to_text):.0f} for "
    f"image → text.\n- Of eight turns of a chip its sentence means the right one in {interval(right['directions'])}, by colours alone in "
    f"{interval(right[ways[1]])}."
)

# %% [markdown]
# ### Three edits to try
#
# - Replace the sentences of our own by yours; which words does the model know?
# - `-p seed=1`: another split of the globe, another model. Is the difference within the interval?
# - In the second cell, use `protocol="plain"`: all captions of a chip, also the short ones, become queries.

# %% tags=["hide-input"]
tables.provenance(origin)
