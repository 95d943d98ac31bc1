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
# # MaMMUT, slowly
#
# **One decoder is run twice with the same weights: without the picture and looking both ways it turns a sentence into a vector;
# with the picture, and looking only back, it writes one.**
#
# Time: half an hour to read; half a minute to run, once the model of [](02_training) is trained.
#
# CLIP matches pictures with sentences but cannot write; a captioning model writes but is slow to match, for it has to read each pair
# anew. {term}`MaMMUT` {cite:p}`kuo2023mammut` does both with one set of weights. How can a decoder that was made to write, word by word, also
# give a sentence's vector? This chapter follows one picture and one caption of the Earth through the model that this book trains.
#
# ```{figure} ../_static/mammut.svg
# :name: figure-mammut
# :width: 480px
# :alt: Diagram. A picture goes through the image tower to patches; their mean is the image vector. A text goes through the decoder without the picture; the mean of its states is the text vector, and the contrastive loss compares all with all. The same text goes through the same decoder once more, looking only back and at the patches, then through the vocabulary to the caption loss.
#
# What is trained. The two orange boxes are one decoder with one set of weights, run twice. B pairs in a batch, T tokens, P patches, D width, E
# width of the shared space, V entries of the vocabulary, H and W pixels: {doc}`the letters <../glossary>` are those of the code.
# ```

# %% mystnb={"code_prompt_show": "Code: parameters of this page"} tags=["parameters", "after:02_training", "hide-input"]
profile = "laptop"
seed = 0
device = "auto"
recompute = False
run_name = ""
overrides = ""

# %% mystnb={"code_prompt_show": "Code: imports, data and model"} tags=["hide-input"]
import time

import numpy as np
import pandas as pd
import rsvlm
import torch
from rsvlm import config
from rsvlm.book.figures import attention, charts, galleries, numbers, tables
from rsvlm.book.figures.scale import described
from rsvlm.data import benchmarks, shards
from rsvlm.data.demo import earth, recipe
from rsvlm.localization import heat
from rsvlm.model import embed, flops, images, mammut, tokenizer
from rsvlm.model.device import resolve_device
from rsvlm.records.provenance import provenance
from rsvlm.training import train

started = time.time()
given = {"seed": seed, "device": device}
options = config.load(profile, given | config.pairs(overrides))
data = earth.load_or_build(options)
run = train.load_or_train(*recipe.prepare(options), recompute=recompute)
rng = np.random.default_rng(seed)

# %% [markdown]
# ## What does the model get?
#
# One {term}`chip` from the test blocks, the one whose first caption has the largest number of different words, and the second of its captions:

# %%
torch.set_grad_enabled(False)
model = rsvlm.load(run / "model", device=device)
samples = list(shards.stream(data, "test"))
sample = max(samples, key=lambda s: len(set(s.captions[0].split())))
picture, caption = images.decode(sample.image), (sample.captions * 2)[1]
batch = embed.to_batch(model, [picture])
tokens = torch.from_numpy(tokenizer.encode(model.tokenizer, [caption]))
tokens = tokens.to(model.device)
words = [
    model.tokenizer.decode([token]).strip() for token in tokens[0].tolist()
]

# %% [markdown]
# The picture is cut into {term}`patches <patch>`, the caption into {term}`tokens <token>`.

# %% mystnb={"code_prompt_show": "Code: picture in patches"} tags=["hide-input"]
charts.picture(
    galleries.patches(
        images.resize(picture, *[model.config.image_size] * 2),
        model.config.patch_size,
    ),
    "A satellite picture, and the same picture pulled apart into square "
    "patches.",
)

# %% tags=["remove-input"]
numbers.Prose(
    f"The caption, in {len(words)} tokens: "
    f"{' '.join(f'`{word}`' for word in words)}"
)

# %% [markdown]
# ## Which shapes pass through it?
#
# A hook on each module notes the shape of what comes out of it. The picture is read once; then each pass runs:


# %% mystnb={"code_prompt_show": "Code: hooks that note shapes"} tags=["hide-input"]
tower = "vision.patch_embed vision.blocks.0 vision.norm"
if model.config.vision_tower:
    tower = "vision.trunk.conv_stem vision.trunk.blocks.0 vision.norm"
watched = (
    f"{tower} image_map token_embedding "
    "layers.0.self_attention layers.0.cross_attention layers.0.mlp "
    "layers.1.self_attention layers.1.mlp norm vocabulary"
).split()
shapes = pd.DataFrame(
    "",
    index=pd.Index(watched, name="module"),
    columns=["picture", "contrastive pass", "caption pass"],
)


def watch(name):
    def note(module, given, result):
        shapes.loc[name, step] = str(tuple(result.shape))

    return model.get_submodule(name).register_forward_hook(note)


hooks = [watch(name) for name in watched]

# %% [markdown]
# These are all the calls that there are: tower, pooling, contrastive pass, caption pass, vocabulary.

# %%
step = "picture"
patches = model.image_tokens(batch)
image_embedding = model.image_embedding(patches)
step = "contrastive pass"
text_embedding = model.encode_text(tokens)
step = "caption pass"
logits = model.vocabulary(model.caption_states(tokens, patches))

# %% [markdown]
# Shapes are (B, patches or tokens, width), inside a convolution (B, channels, height, width), here with B = 1. Where a cell is empty, the
# module was not run.

# %% mystnb={"code_prompt_show": "Code: table of shapes"} tags=["hide-input"]
for hook in hooks:
    hook.remove()
numbers.table(shapes.reset_index()).set_properties(**{"white-space": "nowrap"})

# %% tags=["remove-input"]
ran = shapes[["contrastive pass", "caption pass"]] != ""
both, late = (
    ran.index[ran.all(axis=1)],
    ran.index[ran["caption pass"] & ~ran["contrastive pass"]],
)
numbers.prose(
    f"{len(both)} of these modules work in both passes, with the same weights; "
    f"{', '.join(f'`{name}`' for name in late[:-1])} and `{late[-1]}` work in "
    "the caption pass alone. The contrastive pass ends with the mean of the "
    "tokens' states, a "
    f"vector of {text_embedding.shape[-1]} numbers; its cosine with the "
    f"picture's is {float(image_embedding @ text_embedding.T):.2f}."
)

# %% tags=["remove-input"]
places, longest = model.config.vision_places, model.config.text_ngrams
numbers.prose(
    (
        "Two things are this book's and not MaMMUT's. Most channels of the "
        f"tower belong each to one of {places} × {places} windows on the "
        "picture and count only there, so that a mean over patches still knows "
        "where a colour was. And a token's vector is the sum of its own and "
        f"those of the runs of 2 to {longest} tokens that end at it, so that "
        "which colour belongs to which direction is known from the first step. "
        "The lab log has what each of them is worth."
    )
    if places and longest > 1
    else "This miniature has a small transformer as its tower; the book's "
    "model has a convolutional one that has seen ImageNet."
)

# %% [markdown]
# This is the whole of a decoder layer, as the package runs it. Two arguments make the passes: `causal`, and `image_states`, which are
# missing in the contrastive pass.
#
# ```{literalinclude} /rsvlm/model/mammut.py
# :pyobject: DecoderLayer.forward
# :dedent: 4
# :language: python
# :class: rsvlm-wrapped
# ```
#
# ## Who may look at whom?
#
# In self-attention each token mixes what the tokens it may look at have to say, in shares that add up to one:
#
# $$A = \mathrm{softmax}( Q K^{\top} / \sqrt{d} + M )$$
#
# where $M$ is 0 if a token may look at another and $-\infty$ if it may not.
# The passes differ in $M$ alone. The text below ends in three pads, as it would beside a longer neighbour in a batch.


# %% mystnb={"code_prompt_show": "Code: attention from queries, keys and masks"} tags=["hide-input"]
def attention_weights(attention, x, key_value, mask=None, causal=False):
    query = (
        attention.query(x).unflatten(-1, (attention.heads, -1)).transpose(1, 2)
    )
    key = key_value.unflatten(-1, (2, attention.heads, -1))[:, :, 0].transpose(
        1, 2
    )
    scores = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5
    if causal:
        mask = torch.ones(
            scores.shape[-2:], dtype=torch.bool, device=x.device
        ).tril()
    return (
        scores if mask is None else scores.masked_fill(~mask, -torch.inf)
    ).softmax(-1)


def watch_attention(attention, work):
    found = []
    hook = attention.register_forward_hook(
        lambda module, given, result: found.append(
            attention_weights(module, *given)
        )
    )
    work()
    hook.remove()
    return found[0].mean(dim=1)[0].cpu().numpy()


# %% [markdown]
# The shares themselves, mean of all heads of one layer in the middle:

# %% mystnb={"code_prompt_show": "Code: matrices of attention between tokens"} tags=["hide-input", "full-width"]
padded = torch.nn.functional.pad(tokens, (0, 3), value=tokenizer.PAD_ID)
middle = model.layers[len(model.layers) // 2].self_attention
shares = {
    "contrastive pass": watch_attention(
        middle, lambda: model.encode_text(padded)
    ),
    "caption pass": watch_attention(
        middle, lambda: model.caption_states(padded, patches)
    ),
}
panels = {
    name: np.where(matrix == 0, np.nan, 100 * matrix)
    for name, matrix in shares.items()
}
charts.token_matrices(
    *(
        panels,
        words + ["<pad>"] * 3,
        ("looked at", "looks", "attention, percent"),
    ),
    "Attention between the tokens of a caption: in the contrastive pass all "
    "columns but those of the pads are filled, in the caption "
    "pass the lower triangle alone.",
)

# %% tags=["remove-input"]
ahead = {
    name: 100
    * np.triu(matrix, 1)[: len(words), : len(words)].sum()
    / len(words)
    for name, matrix in shares.items()
}
unpadded = float((model.encode_text(padded) - text_embedding).abs().max())
numbers.prose(
    f"In the contrastive pass {ahead['contrastive pass']:.0f} % of a token's "
    "attention goes to tokens that come after it, in the caption pass "
    f"{ahead['caption pass']:.0f} %. Pads get none, and are left out of the "
    "mean: adding them moves no number of the text's vector"
    + (f" by more than {unpadded:.1g}." if unpadded else " at all.")
)

# %% [markdown]
# ## What moves when one word changes?
#
# Masks say what may happen; this is what does. Each token in turn is replaced by another, and we measure how far the final state of
# every token moves, relative to its length. The last row of the batch is the caption as it was.


# %% mystnb={"code_prompt_show": "Code: movements of all states"} tags=["hide-input"]
def states(work):
    kept = []
    hook = model.norm.register_forward_hook(
        lambda module, given, result: kept.append(result)
    )
    work()
    hook.remove()
    return kept[0]


changed = tokens.repeat(len(words) + 1, 1)
changed[:-1].fill_diagonal_(int(rng.integers(3, model.config.vocab_size)))
passes = {"contrastive pass": lambda texts: model.encode_text(texts)}
passes["caption pass"] = lambda texts: model.caption_states(
    texts, patches.expand(len(texts), -1, -1)
)
moves = {}
for name, work in passes.items():
    found = states(lambda work=work: work(changed))
    moves[name] = (
        (100 * (found[:-1] - found[-1]).norm(dim=-1) / found[-1].norm(dim=-1))
        .T.cpu()
        .numpy()
    )

# %% mystnb={"code_prompt_show": "Code: matrices of movements"} tags=["hide-input", "full-width"]
rounding = 1e-3  # percent; below it, sums were only added up in another order
charts.token_matrices(
    {
        name: np.where(matrix < rounding, 0, matrix)
        for name, matrix in moves.items()
    },
    *(
        words,
        ("token that is replaced", "state that moves", "movement, percent"),
    ),
    "How far each token's state moves when each token is replaced: all cells "
    "are filled in the contrastive pass, the lower triangle in "
    "the caption pass.",
    logarithmic=True,
)

# %% tags=["remove-input"]
other = embed.to_batch(
    model, [images.decode(samples[rng.integers(len(samples))].image)]
)
old, new = (
    states(lambda p=p: model.caption_states(tokens, p))
    for p in (patches, model.image_tokens(other))
)
by_picture = float((100 * (new - old).norm(dim=-1) / old.norm(dim=-1)).mean())
first = {name: float(matrix[0, -1]) for name, matrix in moves.items()}
above = float(np.triu(moves["caption pass"], 1).max())
numbers.prose(
    "Replacing the last token moves the state of the first by "
    f"{first['contrastive pass']:.1f} % in the contrastive pass. In the "
    "caption pass nothing before a replaced token moves"
    + (f" by more than {above:.1g} %" if above else " at all")
    + ": no state can know the word that it has to guess. Another "
    f"picture moves the states of the caption pass by {by_picture:.0f} % in "
    "the mean; the contrastive pass is not given any."
)

# %% [markdown]
# ## What is it trained for? To match
#
# With $v_i$ and $t_i$ the vectors of the pictures and texts of a batch of $B$, of length one, and a learned scale $s$ (one divided by the
# {term}`temperature`), the contrastive loss asks for the text of each picture among all texts, and for the picture of each text among all:
#
# $$L_{\mathrm{con}} = -\frac{1}{2B} \sum_{i=1}^{B} [\, \log p(t_i \mid v_i) + \log p(v_i \mid t_i) \,]$$
#
# $$p(t_i \mid v_i) = \frac{e^{s\, v_i \cdot t_i}}{\sum_{j} e^{s\, v_i \cdot t_j}}$$
#
# $$p(v_i \mid t_i) = \frac{e^{s\, v_i \cdot t_i}}{\sum_{j} e^{s\, v_j \cdot t_i}}$$
#
# In the package that is a cross-entropy whose right answers lie on the diagonal:
#
# ```{literalinclude} /rsvlm/model/losses.py
# :pyobject: softmax_loss
# :language: python
# :class: rsvlm-wrapped
# ```
#
# **Why the others in the batch matter.** Nothing in this loss says what a good vector is; it says only that the right text should
# lie nearer than the others. These others, the {term}`negatives`, are all that pushes vectors apart: without them, a model that gives every
# picture and every text the same vector would be perfect. More negatives make a harder question, of which more can be learned. Take one
# batch from the test blocks:

# %%
drawn = np.random.default_rng([seed, 2])
few = drawn.choice(len(samples), min(16, len(samples)), replace=False)
pictures = [images.decode(samples[i].image) for i in few]
texts = [samples[i].captions[0] for i in few]
cosines = embed.images(model, pictures) @ embed.texts(model, texts).T  # (B, B)

# %% [markdown]
# **Why the temperature matters.** Cosines lie between −1 and 1, so that without a scale even a perfect model could give the right text
# at most $e^2$ times the probability of a wrong one: far too little among many. A large scale also decides who is pushed: the pull on each
# wrong text is proportional to its probability, so that the loss looks at the few that are nearly right and forgets the others. Too
# large a scale, and one equal caption of another picture rules the step. So the scale is learned. The same cosines, as probabilities:


# %% mystnb={"code_prompt_show": "Code: matrices of a batch at two scales"} tags=["hide-input", "full-width"]
def probabilities(scale):
    powers = np.exp(scale * (cosines - cosines.max(axis=1, keepdims=True)))
    return powers / powers.sum(axis=1, keepdims=True)


scale = float(model.logit_scale)
panels = {
    "scale 1": 100 * probabilities(1.0),
    f"learned scale, {scale:.1f}": 100 * probabilities(scale),
}
charts.token_matrices(
    *(
        panels,
        [str(i) for i in range(1, len(few) + 1)],
        ("text", "picture", "p(text | picture), percent"),
    ),
    "A batch of pictures, as rows, against their texts, as columns: at scale 1 "
    "all cells are alike, at the learned one the diagonal stands out.",
)

# %% tags=["remove-input"]
right = np.diag(cosines)[:, None]
pairwise = np.log1p(np.exp(scale * (cosines - right)))[
    ~np.eye(len(few), dtype=bool)
].mean()
diagonal = {each: np.diag(probabilities(each)) for each in (1.0, scale)}
numbers.prose(
    f"The right text gets {100 * diagonal[1.0].mean():.0f} % in the mean at "
    f"scale 1, where even guessing gives {100 / len(few):.0f} %, and "
    f"{100 * diagonal[scale].mean():.0f} % at the learned scale. Against one "
    f"wrong text the loss is {pairwise:.2f} nats in the mean, against "
    f"{len(few) - 1} it is {-np.log(diagonal[scale]).mean():.2f}: the same "
    "vectors, a harder question."
)

# %% [markdown]
# ## What is it trained for? To describe
#
# The caption loss asks for each of the $N$ tokens $w_k$ after the first, given those before it and the picture $x$:
#
# $$L_{\mathrm{cap}} = -\frac{1}{N} \sum_{k=2}^{N+1} \log p(w_k \mid w_1, \dots, w_{k-1}, x)$$
#
# The code shifts the tokens by one and leaves pads out; the sum is divided by the number of tokens later, over the whole batch:
#
# ```{literalinclude} /rsvlm/model/mammut.py
# :pyobject: Mammut.caption_loss
# :dedent: 4
# :language: python
# :class: rsvlm-wrapped
# ```
#
# The sum of both losses, each with its weight, is what training lowers. For which words does the picture help? The caption loss token
# by token, with the caption's own picture, and in the mean over up to 64 others from the test blocks:


# %% mystnb={"code_prompt_show": "Code: bars of the loss of each token"} tags=["hide-input"]
def nats(pictures):
    found = model.caption_logits(pictures, tokens.expand(len(pictures), -1))[
        :, :-1
    ].log_softmax(-1)
    return (
        -found[:, torch.arange(len(words) - 1), tokens[0, 1:]]
        .mean(0)
        .cpu()
        .numpy()
    )


others = [s for s in samples if s.key != sample.key]
drawn = rng.choice(len(others), min(64, len(others)), replace=False)
losses = {"own picture": nats(batch)}
losses["other pictures"] = nats(
    embed.to_batch(model, [images.decode(others[i].image) for i in drawn])
)
charts.picture(
    charts.token_bars(words[1:], losses, "loss, nats"),
    "Bars of the loss of each token of the caption, with its own picture and "
    "with others.",
)

# %% tags=["remove-input"]
gain = losses["other pictures"] - losses["own picture"]
numbers.prose(
    f"A token costs {losses['own picture'].mean():.2f} nats in the mean with "
    f"its own picture and {losses['other pictures'].mean():.2f} with others "
    f"(guessing evenly among {model.config.vocab_size:,}: "
    f"{np.log(model.config.vocab_size):.2f}). The picture helps most with "
    f"“{words[1 + gain.argmax()]}” ({gain.max():.2f} nats). In training the "
    f"contrastive loss had the weight {options.train.contrastive_weight:g}, "
    f"the caption loss {options.train.caption_weight:g}."
)

# %% [markdown]
# ## Where does it look while it writes?
#
# Cross-attention of the last layer that has one, over the picture: where the state looks that has to guess a token. Choose a token, and a
# head; `<eos>` is the end of the text.

# %%
read = heat.cross_attention(model, batch, [caption], by_token=True)
read = 100 * read[0, 0, :, -1]  # (tokens, heads, h, w), in percent

# %% mystnb={"code_prompt_show": "Code: attention over the picture"} tags=["hide-input"]
looks = np.concatenate([read.mean(axis=1, keepdims=True), read], axis=1)
saved = [
    f"With its own picture the token costs {abs(nats):.2f} nats "
    f"{'less' if nats > 0 else 'more'} than with others."
    for nats in gain
]
attention.explore(
    [
        {
            "image": picture,
            "alt": described(sample.record),
            "ground": sample.record,
        }
    ],
    [looks],
    "%",
    texts=words[1:],
    views=[
        "mean of heads",
        *(f"head {number + 1}" for number in range(read.shape[1])),
    ],
    kinds=("token that is guessed", "head"),
    notes=[[[note] * looks.shape[1] for note in saved]],
)

# %% tags=["remove-input"]
most = read.max(axis=(2, 3))
numbers.prose(
    f"Spread evenly, every patch would get {100 / read[0, 0].size:.1f} %. The "
    f"patch that a head looks at most gets {most.min():.1f} to "
    f"{most.max():.1f} %. Attention of a model trained to match whole pictures "
    "is a hint, not a proof, of what it used."
)

# %% [markdown]
# ## What does it cost?
#
# All presets, at CLIP's vocabulary and texts of 30 tokens. The models are laid out without memory for their weights, and the
# operations of all matrix products are counted; a training step costs three times the forward pass.

# %% mystnb={"code_prompt_show": "Code: table of all presets"} tags=["hide-input"]
sizes, work = {}, {}
for name, shape in mammut.PRESETS.items():
    with torch.device("meta"):
        laid_out = mammut.Mammut(
            mammut.MammutConfig(**shape, vocab_size=49_408, context_length=77)
        )
    vision, everything = (
        sum(p.numel() for p in part.parameters()) / 1e6
        for part in (laid_out.vision, laid_out)
    )
    work[name] = flops.count(laid_out.config, 30)
    sizes[name] = {
        "vision, M": vision,
        "all, M": everything,
        "forward, GFLOP": sum(work[name].values()) / 1e9,
    }
numbers.table(pd.DataFrame(sizes).T.rename_axis("preset").reset_index())

# %% tags=["remove-input"]
cost = pd.DataFrame(work).T
vocabulary = 100 * cost["vocabulary"] / cost.sum(axis=1)
numbers.prose(
    f"From {vocabulary.index[0]} to {vocabulary.index[-1]} the share of the "
    f"vocabulary in the operations falls from {vocabulary.iloc[0]:.0f} to "
    f"{vocabulary.iloc[-1]:.0f} %. It is computed only where a token has to be "
    "guessed; once more for the contrastive pass would be for nothing."
)

# %% [markdown]
# ## Why does a small transformer lose to a convolution on little data?
#
# The presets `nano` and `tiny` have a transformer as their tower, `conv` and `lite0` a convolution, and [](12_rsicd), with eight thousand real
# pictures, takes a convolution. It is told two things that a transformer has to learn: that near pixels belong together, and that
# a thing is the same thing wherever it lies. An untrained model shows what it was told. Repaint one patch of random noise, and see which
# other patches move:


# %%
def moved(preset, cells=8):
    torch.manual_seed(seed)
    shape = mammut.PRESETS[preset] | {"vocab_size": 100, "context_length": 8}
    untrained = mammut.Mammut(mammut.MammutConfig(**shape)).eval()
    side = untrained.config.patch_size
    noise = torch.randn(2, 3, cells * side, cells * side)
    noise[1] = noise[0]
    middle = slice(cells // 2 * side, (cells // 2 + 1) * side)
    noise[1, :, middle, middle] = torch.randn(3, side, side)
    old, new = untrained.image_tokens(noise)
    return ((new - old).norm(dim=-1) / old.norm(dim=-1)).view(cells, cells)


# %% tags=["remove-input"]
around = {}
for preset in ("nano", "conv"):
    far = moved(preset)
    near = far[3:6, 3:6].sum() - far[4, 4]
    around[preset] = 100 * float(near / (far.sum() - far[4, 4]))
numbers.prose(
    "Of all movement outside that patch, its eight neighbours have "
    f"{around['nano']:.0f} % in the transformer: as much as if it were spread "
    f"evenly over all other patches, {100 * 8 / 63:.0f} %. In the convolution "
    f"they have {around['conv']:.0f} %. With millions of pairs the transformer "
    "learns what is near, and what the convolution cannot see: things far "
    "apart that belong together. With thousands it has not seen enough to find "
    "out that the world has neighbours."
)

# %% [markdown]
# ## What does it write?
#
# Pictures from the test blocks, drawn at random. *Greedy* takes the likeliest token each time; *nucleus* draws among the likeliest
# that together have 90 %. A caption that breaks off has filled the model's context.

# %% mystnb={"code_prompt_show": "Code: captions written, beside references"} tags=["hide-input"]
shown = [
    samples[i]
    for i in rng.choice(len(samples), min(48, len(samples)), replace=False)
]
pictures = [images.decode(one.image) for one in shown]
inputs = embed.to_batch(model, pictures)
torch.manual_seed(seed)
written = {
    "greedy": model.captions(inputs),
    "nucleus": model.captions(inputs, do_sample=True, top_p=0.9),
}
items = []
for i, one in enumerate(shown[:5]):
    texts = {"reference": one.captions[0]} | {
        name: those[i] or "(nothing)" for name, those in written.items()
    }
    items.append(
        {
            "image": pictures[i],
            "alt": min(one.captions, key=len),
            "captions": texts,
            "ground": one.record,
        }
    )
galleries.captions_beside(items)

# %% tags=["remove-input"]
different = {name: len(set(texts)) for name, texts in written.items()}
split = {
    name: [text.replace(",", " ,").replace(".", " .").split() for text in texts]
    for name, texts in written.items()
}
stuck = {
    name: sum(
        any(a == b == c for a, b, c in zip(t, t[1:], t[2:])) for t in texts
    )
    for name, texts in split.items()
}
numbers.prose(
    f"{numbers.counted(len(shown), 'picture')} get "
    f"{numbers.counted(different['greedy'], 'different caption')} by greedy "
    f"writing and {different['nucleus']} by nucleus sampling.",
    f"{stuck['greedy']} of the greedy ones and {stuck['nucleus']} of the "
    "others say the same word three times in a row: the sign of a model that "
    f"was trained for {options.train.steps:,} steps."
    if any(stuck.values())
    else f"After {options.train.steps:,} steps none of them says the same word "
    "three times in a row; whether it is true is another matter: compare the "
    "directions with those of the references.",
)

# %% [markdown]
# ## And where is it?
#
# A pooled vector says what is in a picture, not where. The second idea of the recipe, the {term}`Smooth-Attention-Operation`, pools not once
# but in a sliding window, so that each place gets a vector of its own that can be compared with a text. It is two window sums and a
# quotient; [](13_attention) uses it.
#
# ```{literalinclude} /rsvlm/localization/smoothing.py
# :pyobject: _SmoothAttention.forward
# :dedent: 4
# :language: python
# :class: rsvlm-wrapped
# ```
#
# ## Exercise
#
# Suppose somebody uses the causal mask in both passes: a mistake that public code has made. Which tokens' states can still
# be changed by the last word of a caption? What does that do to the text's vector?
#
# ```{dropdown} Answer
# With a causal mask the last word changes its own state alone (and that of the end mark behind it): the second matrix above
# would be triangular in both passes. The text's vector is the mean of all states, so the last word would reach it through one or two states of
# many, and the first word through all of them. Two captions that differ at the end would have nearly the same vector, and early words
# would be read without what follows: “dark” before “green” and “dark” before “water” would be the same. The authors of MaMMUT measured it: a
# contrastive pass that looks both ways retrieves clearly better.
# ```
#
# ## Takeaways

# %% tags=["remove-input"]
numbers.points(
    f"One decoder, two masks: {len(both)} of the {int(ran.any(axis=1).sum())} "
    f"decoder modules that were watched work in both passes; {len(late)} deal "
    "with the picture or the vocabulary, and are idle in the contrastive pass.",
    "A change of the last token moves the state of the first by "
    f"{first['contrastive pass']:.1f} % in the contrastive pass, and by "
    f"{first['caption pass']:.1g} % in the caption pass.",
    "Negatives push vectors apart, and the learned scale decides which ones "
    "count.",
    f"The right picture is worth {gain.mean():.2f} nats per token on this "
    "caption.",
)

# %% tags=["remove-input"]
origin = provenance(
    options,
    benchmarks.fingerprint(data),
    str(resolve_device(device)),
    started,
    "rsvlm run notebooks/04_mammut.ipynb",
)
tables.provenance(origin)
