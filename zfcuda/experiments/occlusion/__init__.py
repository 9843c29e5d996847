"""Occlusion: which part of the image carries the decision (Zeiler & Fergus 2014, section 4.2).

:mod:`.experiment` has the public calls. Their arguments become a :mod:`.request`; what all images
share is :mod:`.prepared` once. :mod:`.over` does it for every image of a data set.
"""
