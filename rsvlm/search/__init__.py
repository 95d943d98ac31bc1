"""Find it in your own imagery.

In: a scene of any size or an archive, a model, texts. Out: polygons, heat, the best chips, a page that searches.

    scene         texts in one scene
    scene_blocks  a scene in blocks
    scene_files   scenes in, maps out
    index         an archive, embedded
    index_files   an index on disk, and what is read of it
    query         texts and pictures asked of an index
    page          model and gallery as files that a browser searches
    page_texts    the half of a model that reads queries there
    commands      `rsvlm search`
"""
