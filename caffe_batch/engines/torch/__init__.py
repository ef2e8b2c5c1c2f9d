"""The second engine: PyTorch, computing what Caffe computes.

Only the worker imports torch. What the engine needs before a worker starts doesn't, so that the
commands stay quick and work without the extra ``torch``.
"""
