"""The commands of `zfcuda`, one a module: HELP, DESCRIPTION, EXAMPLES, add_options, run.

A module imports torch and the experiments inside `run` only, so that `zfcuda --help` and errors in
the options are quick. What several commands share: `_options` (options), `_images` (a job for each
image), `zfcuda.cli.network` (the model), `zfcuda.report.writing` (files).
"""
