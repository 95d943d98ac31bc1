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
# with the picture and looking back alone it writes one.**
#
# Cost: half a minute, once the model of the training page is there.

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
import torch
from IPython.display import Markdown

# %% tags=["hide-input"]
import rsvlm
from rsvlm import config
from rsvlm.book.figures import amounts, charts, galleries, tables
from rsvlm.data import benchmarks, shards
from rsvlm.data.demo import earth
from rsvlm.model import embed, flops, images, mammut, tokenizer
from rsvlm.model.device import resolve_device
from rsvlm.records.provenance import provenance
from rsvlm.training import train

# %% tags=["hide-input"]
started = time.time()
options = config.load(profile, {"seed": seed, "device": device} | config.pairs(overrides))
data = earth.load_or_build(options)
run = train.load_or_train(options, data, recompute=recompute)
rng = np.random.default_rng(seed)

# %% [markdown]
# ## What does the model get?
#
# One picture from the test blocks, the one whose caption has the most different words, and the second of its captions. The picture
# is cut into patches, the caption into tokens: pieces of words that occur often.

# %%
torch.set_grad_enabled(False)
model = rsvlm.load(run / "model", device=device)
samples = list(shards.stream(data, "test"))
sample = max(samples, key=lambda sample: len(set(sample.captions[0].split())))
picture, caption = images.decode(sample.image), (sample.captions * 2)[1]
batch = embed.to_batch(model, [picture])
tokens = torch.from_numpy(tokenizer.encode(model.tokenizer, [caption])).to(model.device)
words = [model.tokenizer.decode([token]).strip() for token in tokens[0].tolist()]
charts.picture(
    galleries.patches(images.resize(picture, *[model.config.image_size] * 2), model.config.patch_size),
    "A satellite picture, and the same picture pulled apart into square patches.",
)

# %% tags=["hide-input"]
Markdown(f"The caption, in {len(words)} tokens: {' '.join(f'`{word}`' for word in words)}")

# %% [markdown]
# ## Which shapes pass through it?
#
# A hook on each module notes the shape of what comes out of it, while the picture is read and while each pass runs. Cells without a
# shape are modules that were not run. Shapes are (pictures or texts, patches or tokens, width).

# %%
watched = ["vision.patch_embed", "vision.blocks.0", "vision.norm", "image_map", "token_embedding", "layers.0.self_attention"]
watched += ["layers.0.cross_attention", "layers.0.mlp", "layers.1.self_attention", "layers.1.mlp", "norm", "vocabulary"]
shapes = pd.DataFrame("", index=pd.Index(watched, name="module"), columns=["picture", "contrastive pass", "caption pass"])


def watch(name):
    def note(module, given, result):
        shapes.loc[name, step] = str(tuple(result.shape))

    return model.get_submodule(name).register_forward_hook(note)


# %%
hooks = [watch(name) for name in watched]
step = "picture"
patches = model.image_tokens(batch)
image_embedding = model.image_embedding(patches)
step = "contrastive pass"
text_embedding = model.encode_text(tokens)
step = "caption pass"
logits = model.vocabulary(model.caption_states(tokens, patches))
for hook in hooks:
    hook.remove()
shapes.reset_index().style.hide(axis="index").set_properties(**{"white-space": "nowrap"})

# %% tags=["hide-input"]
ran = shapes[["contrastive pass", "caption pass"]] != ""
both, late = ran.index[ran.all(axis=1)], ran.index[ran["caption pass"] & ~ran["contrastive pass"]]
Markdown(
    f"The picture is read once. {len(both)} of the modules above work in both passes, with the same weights; "
    f"{', '.join(f'`{name}`' for name in late)} work in the caption pass alone. What is left at the end of the contrastive pass is the "
    f"mean over the tokens, a vector of {text_embedding.shape[-1]} numbers, and its cosine with the picture's is "
    f"{float(image_embedding @ text_embedding.T):.2f}."
)

# %% [markdown]
# ## Who may look at whom?
#
# In self-attention each token mixes what the tokens it may look at have to say, in shares that add up to one:
#
# $$A = \mathrm{softmax}( Q K^{\top} / \sqrt{d} + M )$$
#
# where $M$ is 0 if a token may look at another and $-\infty$ if it may not.
# The passes differ in $M$. These are the shares themselves, mean of all heads of one layer in the middle, from the queries, keys
# and masks that the model hands to its attention. The text ends in three pads, as it would beside a longer neighbour.


# %%
def attention_weights(attention, x, key_value, mask=None, causal=False):
    query = attention.query(x).unflatten(-1, (attention.heads, -1)).transpose(1, 2)
    key = key_value.unflatten(-1, (2, attention.heads, -1))[:, :, 0].transpose(1, 2)
    scores = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=x.device).tril()
    return (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(-1)


def watch_attention(attention, work):
    found = []
    hook = attention.register_forward_hook(lambda module, given, result: found.append(attention_weights(module, *given)))
    work()
    hook.remove()
    return found[0].mean(dim=1)[0].cpu().numpy()


# %%
padded, middle = (
    torch.nn.functional.pad(tokens, (0, 3), value=tokenizer.PAD_ID),
    model.layers[len(model.layers) // 2].self_attention,
)
shares = {
    "contrastive pass": watch_attention(middle, lambda: model.encode_text(padded)),
    "caption pass": watch_attention(middle, lambda: model.caption_states(padded, patches)),
}
panels = {name: np.where(matrix == 0, np.nan, 100 * matrix) for name, matrix in shares.items()}
charts.token_matrices(
    *(panels, words + ["<pad>"] * 3, ("looked at", "looks", "attention, percent")),
    "Attention between the tokens of a caption: in the contrastive pass all columns but those of the pads are filled, in the caption "
    "pass the lower triangle alone.",
)

# %% tags=["hide-input"]
ahead = {name: 100 * np.triu(matrix, 1)[: len(words), : len(words)].sum() / len(words) for name, matrix in shares.items()}
unpadded = float((model.encode_text(padded) - text_embedding).abs().max())
Markdown(
    f"In the contrastive pass {ahead['contrastive pass']:.0f} % of a token's attention goes to tokens that come after it, in the caption "
    f"pass {ahead['caption pass']:.0f} %. Pads are given none in the contrastive pass, and left out of the mean: adding them "
    f"moves no number of the text's vector by more than {unpadded:.1g}."
)

# %% [markdown]
# ## What moves when one word changes?
#
# Masks say what may happen; this is what does. Each token in turn is replaced by another, and we measure how far the final state of
# every token moves, relative to its length. The last row of the batch is the caption as it was.


# %%
def states(work):
    kept = []
    hook = model.norm.register_forward_hook(lambda module, given, result: kept.append(result))
    work()
    hook.remove()
    return kept[0]


changed = tokens.repeat(len(words) + 1, 1)
changed[:-1].fill_diagonal_(int(rng.integers(3, model.config.vocab_size)))
passes = {"contrastive pass": lambda texts: model.encode_text(texts)}
passes["caption pass"] = lambda texts: model.caption_states(texts, patches.expand(len(texts), -1, -1))

# %%
moves = {}
for name, work in passes.items():
    found = states(lambda work=work: work(changed))
    moves[name] = (100 * (found[:-1] - found[-1]).norm(dim=-1) / found[-1].norm(dim=-1)).T.cpu().numpy()
rounding = 1e-3  # percent; below it, sums were only added up in another order
charts.token_matrices(
    {name: np.where(matrix < rounding, 0, matrix) for name, matrix in moves.items()},
    *(words, ("token that is replaced", "state that moves", "movement, percent")),
    "How far each token's state moves when each token is replaced: all cells are filled in the contrastive pass, the lower triangle in "
    "the caption pass.",
    logarithmic=True,
)

# %% tags=["hide-input"]
other = embed.to_batch(model, [images.decode(samples[rng.integers(len(samples))].image)])
old, new = (states(lambda p=p: model.caption_states(tokens, p)) for p in (patches, model.image_tokens(other)))
by_picture = float((100 * (new - old).norm(dim=-1) / old.norm(dim=-1)).mean())
first = {name: float(matrix[0, -1]) for name, matrix in moves.items()}
above = float(np.triu(moves["caption pass"], 1).max())
Markdown(
    f"Replacing the last token moves the state of the first by {first['contrastive pass']:.1f} % in the contrastive pass. In the "
    f"caption pass nothing before a replaced token moves by more than {above:.1g} %: no state can know the word that it has to "
    f"guess. Another picture moves the states of the caption pass by {by_picture:.0f} % in the mean; the contrastive pass is not given "
    "any."
)

# %% [markdown]
# ## What is it trained for?
#
# With $v_i$ and $t_i$ the vectors of the pictures and texts of a batch of $B$, of length one, and a learned scale $s$, the
# contrastive loss asks for the text of each picture among all texts, and for the picture of each text among all pictures:
#
# $$L_{\mathrm{con}} = -\frac{1}{2B} \sum_{i=1}^{B} [\, \log p(t_i \mid v_i) + \log p(v_i \mid t_i) \,]$$
#
# $$p(t_i \mid v_i) = \frac{e^{s\, v_i \cdot t_i}}{\sum_{j} e^{s\, v_i \cdot t_j}}, \qquad
# p(v_i \mid t_i) = \frac{e^{s\, v_i \cdot t_i}}{\sum_{j} e^{s\, v_j \cdot t_i}}$$
#
# The caption loss asks for each of the $N$ tokens $w_k$ after the first, given those before it and the picture $x$:
#
# $$L_{\mathrm{cap}} = -\frac{1}{N} \sum_{k=2}^{N+1} \log p(w_k \mid w_1, \dots, w_{k-1}, x)$$
#
# The sum of both, each with its weight, is what training lowers.
#
# For which words does the picture help? The caption loss token by token, with the caption's own picture, and in the mean over up to
# 64 others from the test blocks.


# %%
def nats(pictures):
    found = model.caption_logits(pictures, tokens.expand(len(pictures), -1))[:, :-1].log_softmax(-1)
    return -found[:, torch.arange(len(words) - 1), tokens[0, 1:]].mean(0).cpu().numpy()


others = [s for s in samples if s.key != sample.key]
drawn = rng.choice(len(others), min(64, len(others)), replace=False)
losses = {"own picture": nats(batch)}
losses["other pictures"] = nats(embed.to_batch(model, [images.decode(others[i].image) for i in drawn]))
charts.picture(
    charts.token_bars(words[1:], losses, "loss, nats"),
    "Bars of the loss of each token of the caption, with its own picture and with others.",
)

# %% tags=["hide-input"]
gain = losses["other pictures"] - losses["own picture"]
Markdown(
    f"A token costs {losses['own picture'].mean():.2f} nats in the mean with its own picture and "
    f"{losses['other pictures'].mean():.2f} with others (guessing evenly among {model.config.vocab_size:,}: "
    f"{np.log(model.config.vocab_size):.2f}). The picture helps most with “{words[1 + gain.argmax()]}” "
    f"({gain.max():.2f} nats). In training the contrastive loss had the weight {options.train.contrastive_weight:g}, the caption loss "
    f"{options.train.caption_weight:g}."
)

# %% [markdown]
# ## Where does it look while it writes?
#
# Cross-attention of the last layer that has one, over the picture: where the state looks that has to guess a token. Choose a token, and a
# head; `<eos>` is the end of the text.

# %%
from rsvlm.book.figures import attention
from rsvlm.localization import heat

read = 100 * heat.cross_attention(model, batch, [caption], by_token=True)[0, 0, :, -1]  # (tokens, heads, h, w)
looks = np.concatenate([read.mean(axis=1, keepdims=True), read], axis=1)
saved = [f"With the picture the token costs {abs(nats):.2f} nats {'less' if nats > 0 else 'more'}." for nats in gain]
attention.explore(
    [{"image": picture, "alt": "The satellite picture that the caption describes", "ground": sample.record}],
    [looks],
    "%",
    texts=words[1:],
    views=["mean of heads", *(f"head {number + 1}" for number in range(read.shape[1]))],
    kinds=("token that is guessed", "head"),
    notes=[[[note] * looks.shape[1] for note in saved]],
)

# %% tags=["hide-input"]
cells = read[0, 0].size
Markdown(
    f"Spread evenly, every patch would get {100 / cells:.1f} %; the patch that a head looks at most gets {read.max(axis=(2, 3)).min():.1f} to "
    f"{read.max():.1f} %. Attention of a model trained to match whole pictures is a hint, not a proof, of what it used."
)

# %% [markdown]
# ## What does it cost?
#
# All presets, at CLIP's vocabulary and texts of 30 tokens. The models are laid out without memory for their weights, and the
# operations of all matrix products are counted; a training step costs three times the forward pass.

# %%
sizes, work = {}, {}
for name, shape in mammut.PRESETS.items():
    with torch.device("meta"):
        laid_out = mammut.Mammut(mammut.MammutConfig(**shape, vocab_size=49_408, context_length=77))
    vision, everything = (sum(p.numel() for p in part.parameters()) / 1e6 for part in (laid_out.vision, laid_out))
    work[name] = flops.count(laid_out.config, 30)
    sizes[name] = {"vision, M": vision, "all, M": everything, "forward, GFLOP": sum(work[name].values()) / 1e9}
table = pd.DataFrame(sizes).T.rename_axis("preset").reset_index()
table.style.hide(axis="index").format(precision=1, thousands=",")

# %%
charts.picture(
    amounts.stacked_shares(pd.DataFrame(work).T, "share of the forward pass's operations, percent"),
    "Bars of how the operations of each preset are shared by vision tower, contrastive pass, caption pass and vocabulary.",
)

# %% tags=["hide-input"]
cost = pd.DataFrame(work).T
vocabulary = 100 * cost["vocabulary"] / cost.sum(axis=1)
Markdown(
    f"From {vocabulary.index[0]} to {vocabulary.index[-1]} the share of the vocabulary falls from {vocabulary.iloc[0]:.0f} to "
    f"{vocabulary.iloc[-1]:.0f} %. It is computed only where a token has to be guessed; once more for the contrastive pass would be "
    "for nothing."
)

# %% [markdown]
# ## What does it write?
#
# Pictures from the test blocks, drawn at random. *Greedy* takes the likeliest token each time; *nucleus* draws among the likeliest
# that together have 90 %.

# %%
shown = [samples[i] for i in rng.choice(len(samples), min(48, len(samples)), replace=False)]
pictures = [images.decode(one.image) for one in shown]
inputs = embed.to_batch(model, pictures)
torch.manual_seed(seed)
written = {"greedy": model.captions(inputs), "nucleus": model.captions(inputs, do_sample=True, top_p=0.9)}
galleries.captions_beside(
    [
        {"image": pictures[i], "alt": f"Chip {shown[i].key}"}
        | {
            "captions": {"reference": shown[i].captions[0]}
            | {name: texts[i] or "(nothing)" for name, texts in written.items()}
        }
        for i in range(min(5, len(shown)))
    ]
)

# %% tags=["hide-input"]
different = {name: len(set(texts)) for name, texts in written.items()}
written["reference"] = [one.captions[0] for one in shown]
split = {name: [text.replace(",", " ,").replace(".", " .").split() for text in texts] for name, texts in written.items()}
stuck = {name: sum(any(a == b == c for a, b, c in zip(t, t[1:], t[2:])) for t in texts) for name, texts in split.items()}
Markdown(
    f"Of {len(shown)} pictures, greedy writing gives {different['greedy']} different captions and nucleus {different['nucleus']}. "
    f"{stuck['greedy']} of the greedy ones and {stuck['nucleus']} of the others say the same word three times in a row: the sign of a "
    f"model that was trained for {options.train.steps:,} steps, and of greedy writing. Of the references {stuck['reference']} do."
)

# %% [markdown]
# ## What we found

# %% tags=["hide-input"]
Markdown(
    f"- {len(both)} of the {len(ran[ran.any(axis=1)])} decoder modules that were watched work in both passes; {len(late)} know the "
    "picture or the vocabulary, and rest in the contrastive pass.\n"
    f"- A change of the last token moves the first by {first['contrastive pass']:.1f} % in the contrastive pass, and by "
    f"{first['caption pass']:.1g} % in the caption pass.\n"
    f"- The right picture is worth {gain.mean():.2f} nats per token on this caption."
)

# %% [markdown]
# ### Three edits to try
#
# - Put a sentence of your own into `caption`: for which of its words does the picture help?
# - `-p overrides="train.caption_weight=0"`: what does a model write that was trained to match alone?
# - `-p overrides="train.steps=3000"`: how many steps does it take until captions no longer run in circles?

# %% tags=["hide-input"]
origin = provenance(
    options,
    benchmarks.fingerprint(data),
    str(resolve_device(device)),
    started,
    "rsvlm run notebooks/04_mammut.ipynb",
)
tables.provenance(origin)
