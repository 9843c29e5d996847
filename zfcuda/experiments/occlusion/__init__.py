"""Occlusion: which part of the image carries the decision (Zeiler & Fergus 2014, section 4.2).

:mod:`.experiment` has the public calls. What all images share is checked, traced and planned once,
in one of the two :mod:`.engines`. :mod:`.over` does it for every image of a data set.
"""
