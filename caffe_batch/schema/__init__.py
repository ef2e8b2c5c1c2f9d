"""The messages of Caffe 1.0, generated from the project's own caffe.proto."""
