"""Running a user's model without leaving a trace.

Arguments that experiments share and the model left as it was (:mod:`.checks`), whole passes
(:mod:`.passes`) and the layers heard during them (:mod:`.layers`), how many images may go together
(:mod:`.beside`), the calls of a pass done otherwise (:mod:`.interception`), and what the deconvnet
does to them (:mod:`.deconvnet_rules`).
"""
