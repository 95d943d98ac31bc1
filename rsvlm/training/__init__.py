"""One training loop.

In: data sets and options. Out: checkpoints and a model folder, exact after any interruption.

    train         the loop
    starting      what it starts from
    tower         the weights of its vision tower, and what of it stays as it is
    text          the sentence encoder of its text side, likewise
    batches       the curriculum: mixtures of data sets, read as one sequence
    augment       turns and flips, of words too
    checkpoints   everything that decides how a run goes on
    processes     several processes in one training
    metrics       what a run reports while it runs
    validation    its validation curve
    commands      `rsvlm train`
"""
