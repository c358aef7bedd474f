"""How often a policy answers right, and where it looks while it does.

`evaluate.evaluate` asks a model in memory about prepared rows. `sayo evaluate` runs task files (`tasks`, `sources`,
`questions`) on a model (`local`) or a server (`server`), keeps every record (`records`, `store`) and sums up
(`summary`, `statistics`); `compare` sets two runs against each other.
"""
