"""How well does it find and tell?

In: vectors of pictures and texts, or a model and a benchmark. Out: rows of metrics with intervals and chance.

    retrieval      recalls both ways, under every protocol
    counting       how many pairs score higher; score_kernels has its inner loops
    classification zero-shot classes
    captioning     what it writes about a picture, against what people wrote
    labels         several labels to a picture
    statistics     every interval
    embeddings     a split embedded once, on disk
    given          vectors that others computed, in a file
    leakage        was the test in the training data?
    unseen         what is known of categories that were left out
    by_name        all of it by the names of a model and a benchmark
    commands       `rsvlm evaluate`, `rsvlm embed`
"""
