"""Find it in your own imagery.

In: a scene of any size or an archive, a model, texts. Out: polygons, heat, the best chips, a page that searches and learns.

    scene         texts in one scene
    scene_blocks  a scene in blocks
    scene_files   scenes in, maps out
    index         imagery embedded, once
    index_parts   some thousand chips, by whichever process has time
    index_files   an index on disk, and what is read of it
    query         texts, pictures, chips and places asked of an index
    nearest       the best of many vectors, read from disk once
    tile_servers  imagery of servers, fetched politely
    result_files  results as GeoJSON, GeoPackage and table
    teaching      what yes and no teach, and what to look at next
    confidence    how sure that is
    label_files   labels as GeoJSON, laid on chips
    lessons       an index taught by a file of labels
    simulated     a user who answers as the truth is, to measure what answers are worth
    site          an index as a page that searches
    page_texts    the half of a model that reads queries there
    page_heat     what the parts of a chip add to its vector, for that page
    page_runtime  what runs that half in a browser, from npm
    serve         that page from this machine, with the model in Python
    notebook      that page in a cell: `rsvlm.search.show(index)`
    commands      `rsvlm search`
"""


def __getattr__(name: str):
    if name == "show":
        from rsvlm.search.notebook import show

        return show
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
