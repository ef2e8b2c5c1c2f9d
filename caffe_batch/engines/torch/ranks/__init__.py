"""Several processes that train together, one a GPU (or, on the CPU, as many as are asked for).

``launch.py`` starts the ranks of a machine and says which one failed first; it doesn't import
torch. ``group.py`` is what a rank knows of the others.
"""
