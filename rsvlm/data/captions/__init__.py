"""Captions from landmarks, and the audit of what they say.

In: records of chips with landmarks. Out: captions, each kept, repaired or rejected with a reason.

    asking        the loop that pays for nothing twice
    prompts       what a captioner is told; templates/ has the texts
    clients       the offline grammar, Gemini, servers that speak OpenAI's protocol
    grammar       captions without a model; sentences is what it knows of English
    audit         what a caption may not say; audit_rules has the single rules, audit_extents that on shares,
                  audit_outlines where things lie
"""
