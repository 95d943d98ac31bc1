"""Pictures with texts: read, written, made.

In: files that people have, or imagery, maps and crawls. Out: shards, read in an order that can be taken up anywhere.

    reading      samples out of shards
    shards       samples into shards, by any number of workers
    pairs        shards of pictures and texts that are at hand
    benchmarks   evaluation sets in the layouts that people have; layouts reads their folders, tables their JSON, CSV and TSV
    catalogue    what is known of each of them
    duplicates   exact and near duplicates, and pictures of benchmarks; near_hashes has its inner loops,
                 picture_details a second look
    workers      the same function over many items, on cores or machines
    addresses    where requests may go
    imagery/ maps/ landmarks/ captions/    RS-Landmarks: anybody's imagery and map
    web/                                   RS-WebLI: anybody's crawl
    demo/                                  the embedded Earth and a small web
"""
