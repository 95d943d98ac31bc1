"""Models of other people behind `embed.Encoder`, each with its own preprocessing.

opening       a model by name, whoever made it
towers        two towers behind the one face
open_clip     models in open_clip's format
hugging_face  CLIP and SigLIP folders of transformers
"""
