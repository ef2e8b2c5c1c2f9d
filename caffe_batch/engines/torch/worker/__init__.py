"""What runs in a worker of the PyTorch engine: the only modules that import torch.

``main.py`` is the script; the other modules are imported by it.
"""
