"""Files for machines without Python's weight: a personal model, or the personalising itself, as ONNX (extra ``export``).

Everything here needs onnx, onnxscript and onnxruntime: import it where it is used. ``on_device.py`` needs onnxruntime alone.
"""
