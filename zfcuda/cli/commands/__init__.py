"""The commands of `zfcuda`, one a module: HELP, DESCRIPTION, EXAMPLES, add_options, run.

`run` hands a function that looks and returns a finding to the frame, `zfcuda.cli.command`. A module
imports torch and the experiments inside functions only, so that `zfcuda --help` and errors in the
options are quick. What several commands share: `zfcuda.cli.arguments` (options),
`zfcuda.cli.inputs` (images), `zfcuda.cli.network` (the model), `zfcuda.report.writing` (files).
"""
