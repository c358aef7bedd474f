"""How often a policy answers right, and where it looks while it does.

`evaluate` asks a model (`local`) or a server (`server`) about prepared rows, writes every record into a folder
(`records`, `journal`) and sums up (`summary`, `intervals`). `compare` sets two results against each other.
"""
