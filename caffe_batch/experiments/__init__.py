"""What runs on real Caffe in order to measure something."""
