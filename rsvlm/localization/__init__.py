"""Where is it?

In: a model, pictures, texts. Out: maps of where each text is, shapes, scores against true masks, and better models.

    smoothing     the Smooth-Attention-Operation: definition, gradient, compiled loop
    heat          maps of texts, from patches and from attention
    shapes        from heat to polygons; pixels has inner loops
    true_masks    pictures with masks, as people have them on disk, and what of them is known; coco and mask_files have the three
                  layouts, mask_reading what these share
    scoring       how well maps say where things are
    agreement     one map and one mask
    baselines     maps that know nothing
    rounds        a model's surest places as labels of its next round
    teacher       what a model is sure of
    pictures      pictures in memory or mapped
    by_name       scores by the names of a model and a folder
    commands      `rsvlm evaluate localize`
"""
