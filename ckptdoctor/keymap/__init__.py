"""Maps: the YAML files with the rules. `load_map` reads one and finds everything that is wrong with it at once.

`types.py` is what a map becomes; `language.py` defines what it may say; `document.py` knows the YAML. Importing this
reads no YAML library; the first map does.
"""

from ckptdoctor.keymap.language import map_schema
from ckptdoctor.keymap.load import load_map, parse_map
from ckptdoctor.keymap.types import Declaration, EnvelopeEdit, KeyMap, Rule

__all__ = ["Declaration", "EnvelopeEdit", "KeyMap", "Rule", "load_map", "map_schema", "parse_map"]
