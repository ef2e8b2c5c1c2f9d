"""Nets and solvers from Jinja2 templates: those that come with the package, and the user's own."""

from caffe_batch.rendering.find import available, find, find_path, names
from caffe_batch.rendering.header import TemplateRecipe, Variable
from caffe_batch.rendering.render import render, render_solver
from caffe_batch.rendering.template import Template
from caffe_batch.rendering.values import Value, VariableType, show

__all__ = [
    "Template",
    "TemplateRecipe",
    "Value",
    "Variable",
    "VariableType",
    "available",
    "find",
    "find_path",
    "names",
    "render",
    "render_solver",
    "show",
]
