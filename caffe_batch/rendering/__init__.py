"""Nets and solvers from Jinja2 templates: the package's (``templates/``) and the user's own."""

from caffe_batch.rendering.find import available, find, find_path
from caffe_batch.rendering.header import Variable
from caffe_batch.rendering.render import render, render_solver
from caffe_batch.rendering.template import Template
from caffe_batch.rendering.values import Kind, Value, show

__all__ = [
    "Kind",
    "Template",
    "Value",
    "Variable",
    "available",
    "find",
    "find_path",
    "render",
    "render_solver",
    "show",
]
