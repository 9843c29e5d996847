"""What an image's pixel reaches, and what a unit depends on, and nothing else.

Where a model is a graph, a rectangle of one map leads to a rectangle of every other
(:mod:`.boxes`): upwards, what an occluder changes; downwards, what a unit's value comes from.

Upwards, all positions of an occluder are done at once (:mod:`.steps`, :mod:`.planning`,
:mod:`.forward`, :mod:`.occluding`): of every map only what can change is computed.

Downwards, one forward pass (:mod:`.observing`) leaves the switches and whatever else the way down
asks for. :func:`.descent.descend` then carries many units at once down the graph, last node first.
On each map a unit
has a *signal*: a point as long as it is a single element (a pool's signal is one element of the map
below, by its switch), then a window of the map. The first convolution below a point costs a copy of
its filter; every other step works on a batch of windows.

All windows of a batch have one size on a map: the largest rectangle that any of its units has
there. They are moved so that they lie on the map, which keeps the padding out of them, and makes
them the whole map, without a special case, where the cones have grown that large. What is in a
window but not in its unit's rectangle is zero.

These windows are :mod:`.operators.signals`.
"""
