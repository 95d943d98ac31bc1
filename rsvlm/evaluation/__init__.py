"""How well does it find and tell?

In: vectors of pictures and texts, or a model and a benchmark. Out: rows of metrics with intervals and chance.

    retrieval      recalls both ways, under every protocol
    counting       how many pairs score higher; score_kernels has its inner loops
    classification zero-shot classes
    few_shots      what a handful of labelled pictures of each class add
    captioning     what it writes about a picture, against what people wrote
    labels         several labels to a picture
    statistics     every interval
    coverage       how often an interval holds the truth
    shared_ground  pictures of the same ground: one unit of an interval
    embeddings     a split embedded once, on disk
    given          vectors that others computed, in a file
    leakage        was the test in the training data?
    unseen         what is known of categories that were left out
    baselines      what colours, the commonest class and the kind of place reach without a model
    reading        does a model read sentences? directions, words of a kind, negation, single words; words changes sentences for it
    by_name        the others by the names of a model and a benchmark
    asking         baselines and reading by the same names
    commands       `rsvlm evaluate`, `rsvlm embed`
"""
