"""How far the model's answer survives turning, moving and scaling the image (Zeiler & Fergus 2014,
section 4.1, figure 5; rotation is the talk's figure 6).

:mod:`.experiment` has the three public experiments; :mod:`.study` is several of them for several
images, and :mod:`.over` one for every image of a data set.
"""
