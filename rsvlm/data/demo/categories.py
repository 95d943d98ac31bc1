"""Categories of the demo's landmarks, in the words of its captions, for what a model knows of the unseen."""

CATEGORIES = {
    "lake": {
        "marks": frozenset({"lake"}),
        "words": ("lake",),
        "sentence": "There are several lakes in the centre.",
        "frame": "There are several in the centre.",
        "description": "Green land throughout, with dark blue patches and almost black in the centre.",
    },
    "island": {
        "marks": frozenset({"island"}),
        "words": ("island",),
        "sentence": "There are several islands in the centre.",
        "frame": "There are several in the centre.",
        "description": "Sea on several sides covers nearly all of the picture. The coast crosses the centre.",
    },
    "sea": {
        "marks": frozenset({"sea"}),
        "words": ("sea",),
        "sentence": "Sea to the west covers about half of the picture.",
        "frame": "The west covers about half of the picture.",
        "description": "Dark blue and blue throughout, very smooth.",
    },
    "tan land": {
        "marks": frozenset({"tan", "pale sand"}),
        "words": ("tan", "sand"),
        "sentence": "The land is tan and pale sand throughout.",
    },
    "green land": {
        "marks": frozenset({"green", "dark green"}),
        "words": ("green",),
        "sentence": "The land is green and dark green throughout.",
    },
}
"""What Blue Marble chips show and their captions name: name → attributes of an `unseen.Category`, in words of these captions."""
