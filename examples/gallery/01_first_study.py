"""
The first study: instability of a network
=========================================

text.
"""

import modeconn

result = modeconn.instability(
    "digits-conv", rewind_iters=[0, 40], iterations=80, replicates=1, copies=2, alphas=11, workers=0
)
print(result)
