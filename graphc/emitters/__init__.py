"""Emitters: a Program as a file or folder that its own runtime was seen to run equally.

``.onnx`` (write only), ``.pt2``, a folder with a generated ``model.py``; and back into the user's
own class, for Hugging Face models also a folder that ``from_pretrained`` loads. Others register
through the entry-point group ``graphc.emitters`` or ``register_emitter``.
"""

from graphc.emitters.base import Artifact, Emitter, emit, load, register_emitter
from graphc.emitters.module import to_module
from graphc.emitters.pretrained import save_pretrained

__all__ = ["Artifact", "Emitter", "emit", "load", "register_emitter", "save_pretrained", "to_module"]
