"""The data layers: the same records in the same order as in Caffe, cropped and mirrored alike.

Each type is a :class:`~caffe_batch.engines.torch.data.feeds.Source` of batches; a
:class:`~caffe_batch.engines.torch.data.feeds.Feed` reads ahead of the training and makes tensors.
"""
