"""
Lightning and Hugging Face trainers
===================================

The training loop that ``instability`` takes may hold any trainer, as long as ``train`` starts from the state that it is
given and draws its noise from the seed. These scripts are not run here, as they need ``lightning`` or ``transformers``;
their tests do run them.

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
