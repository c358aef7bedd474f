"""sayo: fine-tune vision-language models by reinforcement learning so that they look where the answer is."""

__version__ = "0.1.0"
