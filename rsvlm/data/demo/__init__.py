"""The embedded Earth, a small web, and real ground out of packages.

In: packages that carry data; those of the real ground are downloaded when it is first asked for, everything else runs without a
network. Out: shards, a site to crawl, true masks, scenes with labels. Only notebooks, the book, tests and commands read this.

    earth         the Blue Marble, described from the world map, in shards
    earth_layout  where its chips lie
    earth_map     the world map: coasts, lakes, rivers, borders, cities
    earth_facts   what can be said of a chip, from map and pixels; earth_kernels has the inner loops of both
    earth_grammar sentences about it
    earth_masks   chips with true masks
    ground_cover  covers of the ground in the words of these captions
    web           the small web: its sites, served and captured
    web_pictures  its pictures, drawn or cut
    categories    what chips show and captions name, for what a model knows of the unseen
    ground        scenes: Itaipu at 30 m, Yellowstone at 10 cm
    itaipu        chips of Itaipu with labels, made by looking at them
    itaipu_map    a map of Itaipu, and chips captioned from it
    recipe        options and data of a model that starts from ImageNet and sees real ground
"""
