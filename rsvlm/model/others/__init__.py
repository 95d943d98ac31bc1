"""Models of other people, and vectors that they computed, behind `embed.Encoder`.

encoders     open_clip, transformers, and files of embeddings, each with its own preprocessing
"""
