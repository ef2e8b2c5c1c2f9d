"""What is in the files that a net reads, checked before Caffe reads them.

``listing``, ``database``, ``images``, ``hdf5``, ``windows`` and ``blob_file`` each read one kind of
file; ``label_flow`` follows labels through a net; ``check`` puts them together. Each reader takes
either everything or a sample, which always includes the first and the last record.
"""
