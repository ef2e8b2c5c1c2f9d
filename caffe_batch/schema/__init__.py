"""The messages of Caffe 1.0, from the project's own caffe.proto."""
