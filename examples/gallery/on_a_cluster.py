"""
On a cluster
============

A study is a graph of jobs, and any ``concurrent.futures.Executor`` can compute them. On a cluster, start ``dask
scheduler`` and ``dask worker`` and give the scheduler's address, or the file that it wrote. The tables are the same,
bit for bit, wherever a study ran.

.. code-block:: console

   $ dask scheduler --scheduler-file /shared/dask.json
   $ dask worker --scheduler-file /shared/dask.json --nthreads 1        # on every machine, as often as it has cores
   $ modeconn instability cifar10-resnet20 --dask-scheduler-file /shared/dask.json --store /shared/store

The same from Python, in a script on the login node:

.. code-block:: python

   from modeconn.execution.dask_engine import Dask

   if __name__ == "__main__":
       modeconn.instability("cifar10-resnet20", executor=Dask("tcp://10.0.0.1:8786"), store="/shared/store")

Batch scripts for Slurm, submitit, and what happens when a worker is killed: :doc:`/clusters`.
"""

# %%
# Any executor will do. A study computed by a pool of one thread is the same as one computed in the process itself:

from concurrent.futures import ThreadPoolExecutor

import modeconn

study = {"rewind_iters": [0, 20], "iterations": 40, "replicates": 1, "alphas": 5}
here = modeconn.instability("digits-conv", **study, workers=0, store="modeconn-store/one")
with ThreadPoolExecutor(1) as pool:
    there = modeconn.instability("digits-conv", **study, executor=pool, store="modeconn-store/another")
print(here.rows == there.rows)

# %%
# Cost of the driver
# ------------------
#
# How many workers one driver keeps busy, for a simulated study of 10,080 jobs (``python benchmarks/driver_cost.py``):
#
# .. figure:: ../../figures/driver-cost/schedule.png
#    :alt: Makespan and efficiency over the number of workers

# sphinx_gallery_thumbnail_path = '../figures/driver-cost/schedule.png'
