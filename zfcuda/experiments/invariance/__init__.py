"""How far the model's answer survives turning, moving and scaling the image (Zeiler & Fergus 2014,
section 4.1, figure 5; rotation is the talk's figure 6).

:mod:`.experiment` has the three public experiments, and several of them for several images;
:mod:`.over` has those for every image of a data set.
"""
