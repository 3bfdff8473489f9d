"""
On a GPU
========

Shown, not run: this site is built on a CPU.

.. code-block:: console

   $ modeconn instability cifar10-resnet20 --device cuda --workers 3        # trainings share the GPUs evenly
   $ modeconn instability cifar10-resnet20 --device cuda:0 --precision bfloat16

``--device auto``, the default, takes a GPU where there is one. From Python, ``device="cuda"``; ``error_barrier`` and
its siblings compute where the first module is:

.. code-block:: python

   result = error_barrier(net_a.cuda(), net_b.cuda(), test_loader)

A training step is one CUDA graph, data are augmented on the device, and deterministic algorithms are asked for. What is
done, in which precision, and how to measure it on your GPU: :doc:`/gpu`.
"""

# %%
# Whether this machine has one:

import torch

print(torch.cuda.is_available())

# sphinx_gallery_thumbnail_path = '../figures/lmc2020-figure-2/cifar10-resnet20-short.png'
