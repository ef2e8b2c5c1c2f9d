"""Experiments: trainings on real Caffe that measure something (verify, compare, noise)."""
