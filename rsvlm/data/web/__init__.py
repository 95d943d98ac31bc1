"""From a crawl to pairs of overhead pictures and their texts.

In: web archives or tables of links. Out: audited shards, and a reason for every address that is not in them.

    archives      archives to candidates
    warc          an archive to records
    tables        tables of links to candidates
    html          a page to candidates
    texts         is the text about a picture from above? lexicon has the words
    fetch         polite, safe downloads
    journal       what came of every address that was asked
    politeness    when a host may be asked, and for what
    reservations  what the owner of a site reserves
    removals      what was asked to be taken out
    personal      what says something of people, left out
    overhead      is the picture taken from above? overhead_training trains the head that says so
    overlaps      what it has in common with benchmarks
    paths         where each file of a build is
    steps         the steps of a build, each from files to files
    build         all of them in a row
    pairs         a finished data set: shown, and made smaller on request
    commands      `rsvlm web`
"""
