"""What the README's figures come from: `make bench` (1 GB) and `make bench-full` (5 GB), or `python -m benchmarks --help`.

A kind of work is one file with a function `measure(options, folder)` that yields what it found, work by work. Each runs by
itself too (`python -m benchmarks.renaming --size 64MB`). To add one: that file, and its name in the table of `__main__.py`.

    renaming.py     rename-only remaps: safetensors, in one file and in shards; torch zip; Lightning with optimizer
    converting.py   torch zip to safetensors, and back
    computing.py    concat and transpose of half of the bytes
    reflinks.py     a file system that shares blocks
    startup.py      small checkpoints: what a start costs
    scale.py        many tensors, many shards
    planning.py     twenty rules over many keys

`measure.py` runs processes side by side, `results.py` judges what they took, `harness.py` holds options and the temporary
folder, `data.py` makes the files, `rivals.py` is what a user would otherwise run, `readme.py` writes the README's tables.
"""
