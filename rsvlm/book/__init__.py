"""Notebooks, figures, pages.

In: notebooks and what the rooms above make. Out: executed notebooks, tables of runs, the pages of the book.

    notebooks     a notebook run with parameters, once
    matrix        many runs, for every combination of values
    build         all notebooks that changed, and the pages
    first_pages   pages of the first notebook, while the others run
    front         the pictures of the front page
    live_search   the page on which a reader types a query
    itaipu_words  the words for Itaipu's labels, and how well pictures fit them
    failures      why a sentence does not find its picture first
    figures/      charts, galleries, maps, tables, attention
    commands      `rsvlm run`, `rsvlm book`
"""
