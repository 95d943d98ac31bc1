"""What is kept, and where it came from.

In: whatever a run made. Out: files that are whole or not there, stages that are made once, rows of results with their origin.

    files        atomic writes, locks, hashes of files
    stages       keys, and load-or-compute
    provenance   commit, versions, machine, time
    text         texts of strangers as lines; seeded samples, batches, nearest names
    packages     files inside packages of the registry
    results      rows of what was measured, beside what others published
    without_model  of each row the best baseline, and the difference
    tables       the same as text, Markdown, LaTeX or CSV
    commands     options that all verbs share; `rsvlm table`, `rsvlm doctor`
"""
