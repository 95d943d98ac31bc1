"""Figures of the book: data in, a matplotlib Figure or HTML out; nothing is computed here.

    from rsvlm.book.figures import charts, galleries
    charts.picture(charts.interval_dots(rows, "recall, percent"), "Dots with their intervals.")

In the order of a page, from what is measured to what is looked at:

    charts       measured values: curves, bars, dots, matrices; `picture` turns any of them into an image
    amounts      how many of what: funnels, bars of counts, shares
    tables       lists and reports of texts, and where the numbers of a page come from
    wording      words of a text marked: by their worth, by what another text has in their place
    strips       a sentence, its answers in one row, and always the right one
    numbers      numbers in tables and sentences: minus signs, intervals, nothing for what is missing
    galleries    images in a grid, and images with the texts that belong to them
    atlas        maps that move: chips on the Earth, landmarks on chips, regions of a scene
    attention    maps over the picture that they are of, word by word and head by head, and what a change fixed and broke
    interactive  sliders, lines that one can point at
    scale        how much ground a picture shows, and where: a bar on it, and words
    style        colours, and the empty figure that all charts begin with
    markup       HTML that all of them are made of

Every figure works without a kernel, without a network and without scripts of other hosts, and carries its alternative text.
What is a style sheet or a script lies in a file beside these, `*.css` or `*.js`, named after the figure that it belongs to.
"""
