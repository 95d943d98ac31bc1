"""MaMMUT and its losses, and other people's models behind one face: pictures and texts in, vectors out.

In: arrays of pixels and texts, or a folder of weights. Out: vectors of norm 1, captions, losses. Nothing here reads a data set.

    mammut       the model, top to bottom
    presets      its sizes by name
    attention    what its transformers are built from
    captioner    its captions, token by token
    convolutions a small convolutional tower for it
    trunk        a pretrained convolutional one of timm for it
    positions    of the patches of a part of a picture
    sentences    a sentence encoder that has read elsewhere for it
    ngrams       embeddings of several tokens in a row
    flops        how much work it is
    losses       what is minimised
    tokenizer    text to numbers
    images       decode, resize, normalise
    preprocessing from any shape to a model's square
    encoder      the one face of every model
    embed        pictures and texts to vectors
    weights      model folders of ours in, and vision towers
    exporting    model folders out, in the forms of others
    device       auto, cpu, cuda
    commands     the verb export
    others/      models of other people
"""
