"""Thin users of the public API inside training code: `load_into` for any module (modules.py), Lightning's hook (lightning.py).

judging.py is what they share: maps and a policy as a caller writes them, and the verdict that has to pass. filling.py puts
values into a live module. Nothing here imports Lightning.
"""
