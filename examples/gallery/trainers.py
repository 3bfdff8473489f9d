"""
Lightning and Hugging Face trainers
===================================

The training loop that ``instability`` and ``lottery`` take may hold any trainer, as long as ``train`` starts from the
state that it is given and draws its noise from the seed. The scripts of this page are shown and not run, as they need
``lightning`` or ``transformers``.

PyTorch Lightning
-----------------

Both studies around a ``Trainer``: momentum is carried on, the learning rate follows from the iteration, and a callback
keeps the weights zero that a mask prunes.

.. literalinclude:: ../../examples/lightning_loop.py
   :language: python
   :start-at: import logging

Hugging Face ``Trainer``
------------------------

A GPT-2 of two layers learns to continue sequences. The optimizer is handed to the Trainer and carried on in the state,
and the schedule begins where the state is.

.. literalinclude:: ../../examples/hf_trainer.py
   :language: python
   :start-at: import sys
"""

# %%
# The loop in plain PyTorch, run: :doc:`/gallery/own_training_loop`.

# sphinx_gallery_thumbnail_path = '../figures/lmc2020-figure-2/digits-conv-paper.png'
