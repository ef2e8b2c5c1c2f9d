"""The memory of a training with PyTorch, before anything runs.

A fake run of the real engine, in a process of its own, says which tensors there are and how long
they live (:mod:`..worker.memory`): a :class:`~.trace.Trace`. From then on nothing needs torch: the
bytes alive at each moment (:mod:`.trace`), what CUDA's caching allocator makes of them
(:mod:`.allocator`), what the libraries take beside them (:mod:`.workspaces`).
"""
