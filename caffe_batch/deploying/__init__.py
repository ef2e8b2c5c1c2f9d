"""From a trained net to one that answers: the prototxt, the folded weights, the preprocessing.

``transformation`` makes the net for inference of a TEST net, ``folding`` merges BatchNorm layers
into the weights before them, ``preprocessing`` says how a picture becomes the net's input, and
``folder`` owns deploy.json, which describes them all.
"""

from caffe_batch.deploying.transformation import Deployed, Output, deployed

__all__ = ["Deployed", "Output", "deployed"]
