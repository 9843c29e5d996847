"""The experiments: a file each, or a folder where several files answer to one.

Nothing is imported here; ``zfcuda.occlusion`` and the other public names lead to their modules.
"""
