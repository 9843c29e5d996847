"""Before an occlusion run: what will be computed, where cones end, and what that saves.

:mod:`.costs` models every step both ways, :mod:`.schedule` takes the cheapest cut, :mod:`.plan` is
what the user is told.
"""

from zfcuda.planning.plan import Plan, PlannedStep
from zfcuda.planning.schedule import Schedule, boxes_of, planned

__all__ = ["Plan", "PlannedStep", "Schedule", "boxes_of", "planned"]
