"""What a map says is inside a chip, and data sets made of it.

In: imagery, features of a map, a captioner. Out: audited shards.

    describe      landmarks of each chip: ranked, placed, judged for whether a picture can show them
    pieces        what lies of features inside chips, cut out and measured
    directions    the nine sectors and the words of the compass
    splits        where chips may lie
    build         imagery and map to shards
    commands      `rsvlm landmarks`
"""
