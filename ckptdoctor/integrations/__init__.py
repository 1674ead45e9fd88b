"""Thin users of the public API inside training code: `load_into` for any module (modules.py), `assert_loaded` (proving.py),
Lightning's hook (lightning.py) and its callback (callback.py, which alone imports Lightning).

judging.py is what they share: maps and a policy as a caller writes them, and the verdict that has to pass. filling.py puts
values into a live module, live.py reads them there.
"""
