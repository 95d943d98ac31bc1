"""MaMMUT and its losses, and other people's models behind one face: pictures and texts in, vectors out.

In: arrays of pixels and texts, or a folder of weights. Out: vectors of norm 1, captions, losses. Nothing here reads a data set.

    mammut       the model, top to bottom
    convolutions a small convolutional tower for it
    flops        how much work it is
    losses       what is minimised
    tokenizer    text to numbers
    images       decode, resize, normalise
    preprocessing from any shape to a model's square
    embed        pictures and texts to vectors
    weights      model folders of ours and of open_clip in, ONNX out
    device       auto, cpu, cuda
    others/      models of other people
"""
