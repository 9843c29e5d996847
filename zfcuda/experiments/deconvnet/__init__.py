"""Projections of units to the input: the deconvnet (Zeiler & Fergus 2014, section 2.1).

What is asked for (:mod:`.request`) is carried down by one of two :mod:`.engines`: inside backward
cones, or by autograd under the deconvnet's rules. Both leave the same, which comes back as whole
pictures or as the patches that units depend on (:mod:`.projecting`).
"""
