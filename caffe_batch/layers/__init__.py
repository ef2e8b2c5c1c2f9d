"""The rules of all layer types, by Caffe's own type name."""

from __future__ import annotations

from caffe_batch.layers.base import Rule
from caffe_batch.layers.inner_product import InnerProduct

RULES: dict[str, Rule] = {rule.type: rule for rule in (InnerProduct(),)}
