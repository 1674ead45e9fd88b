"""How a model is made from a name: find it, call it without memory for its weights, list its state dict.

The kinds of target say *what* to call (a `Recipe`); what is difficult about calling it is here: user code that prints
or exits (`guard`), names that do not exist (`names`, `suggest`), nested configs (`recipe`, `settings`), weights that
must not be allocated (`devices`, `registration`, `build`), and what counts as a parameter (`contents`). Nothing here
knows the kinds.
"""
