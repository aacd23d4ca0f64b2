"""LSF-SAC and its ablations.

Read it as: the four equations (`losses`), what in them may be read in more than one way (`readings`), the networks
whose outputs they take (`networks`), what people see (`diagnostics`), the settings (`config`), and how settings become
functions (`binding`). Where the paper and its released code disagree a setting chooses; the presets `paper` and
`release` (configs/preset) hold each side, and the docstrings say what is left of the difference.
"""

from lsf_jax.algorithms.lsf_sac.binding import ENTRIES as ENTRIES
