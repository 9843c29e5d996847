"""Other tools' interfaces on zfcuda's engines: :mod:`zfcuda.compat.captum` (extra ``captum``)."""
