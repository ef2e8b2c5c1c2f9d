"""What lies in the files that a net reads, looked at before Caffe does.

``listing``, ``database``, ``images``, ``hdf5``, ``windows`` and ``blob_file`` each read one kind of
file; ``label_flow`` follows labels through a net; ``check`` puts them together. Each reader takes
a sample, always with the first and the last record, or everything.
"""
