"""What a metric, a reward or a picture receives: the attention of one completion, read once and exactly."""

import html
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

Rows = Literal["of_token", "deciding"]
"""The two meanings of "attention at response token t" (both exist in the field, so every consumer says which).

- `"of_token"`: the query is the generated token itself, position `P + t` (what the SAYO and Look-Back releases read).
- `"deciding"`: the query is the position whose logits chose the token, `P + t - 1`.
"""


@dataclass(frozen=True)
class AttentionTrace:
    """Attention of one completion of `T` tokens after a prompt of `P` tokens, averaged over query heads.

    Row `i` of every array is the query position `P - 1 + i`, so there are `T + 1` rows: the row that decided the
    first token, then the row of every token. A trace read during `generate` has `T` rows: the last token's own row
    was never run, and there are no `"of_token"` rows.

    Attributes:
        masses: key group -> `(L, T + 1)` float32, the attention that the group received: `sum_k A[q, k] * w[k]`.
            Groups of the trainer: `"image"` (every visual token), `"region"` (the region's visual tokens, with
            their coverage weights; absent for a sample without a region).
        sizes: key group -> sum of the group's key weights (its number of tokens when the weights are 1).
        entropy: `(T,)` float32, nats: entropy of the distribution that chose each token (after temperature).
        layers: the `L` decoder layers that were read, as non-negative indices.
        maps: `(L, T + 1, N)` float32 or None: attention on each of the sample's `N` visual tokens.
        tokens: `(T,)` int64, where a completion holds more than the policy chose (results of tools): the positions of
            its own tokens. Masses and maps then have a row for every token, and entropies of its own only.
    """

    masses: dict[str, np.ndarray]
    sizes: dict[str, float]
    entropy: np.ndarray
    layers: tuple[int, ...]
    maps: np.ndarray | None = field(default=None, repr=False)
    tokens: np.ndarray | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        groups = ", ".join(f"{name} ({size:g} keys)" for name, size in self.sizes.items())
        maps = "" if self.maps is None else f", maps of {self.maps.shape[-1]} visual tokens"
        return f"AttentionTrace({len(self)} tokens, layers {list(self.layers)}, {groups}{maps})"

    def _repr_html_(self) -> str:
        """Its tokens by number, coloured by attention on the region, else on the image; the values at the pointer.

        Texts and pictures are not in a trace: `sayo.viz.look.Look` puts them beside it.
        """
        group = next((name for name in ("region", "image") if name in self.masses), next(iter(self.masses), None))
        shares = {name: self.mass(name, "deciding").mean(axis=0) for name in self.masses}
        peak = max(float(shares[group].max(initial=0.0)), 1e-12) if group else 1.0
        tokens = []
        for index, entropy in enumerate(self.entropy):
            values = ", ".join(f"{name} {share[index]:.2%}" for name, share in shares.items())
            alpha = 0.75 * shares[group][index] / peak if group else 0.0
            tokens.append(
                f'<span title="{html.escape(values)}, entropy {entropy:.2f} nats" style="display: inline-block; '
                f'padding: 1px 5px; background: rgba(213, 94, 0, {alpha:.2f})">{index}</span>'
            )
        legend = f"colour: attention on {group!r}, 0 to {peak:.2%} (deciding rows, mean of layers)"
        return f"<div>{html.escape(repr(self))}<br>{''.join(tokens)}<br>{html.escape(legend)}</div>"

    def to_dict(self) -> dict[str, np.ndarray]:
        """Everything as arrays, flat: `"masses/image"`, `"sizes/image"`, `"entropy"`, `"layers"`, `"maps"`, ..."""
        arrays = {f"masses/{name}": values for name, values in self.masses.items()}
        arrays |= {f"sizes/{name}": np.float64(size) for name, size in self.sizes.items()}
        arrays |= {"entropy": self.entropy, "layers": self.layers, "maps": self.maps, "tokens": self.tokens}
        return {name: np.asarray(value) for name, value in arrays.items() if value is not None}

    def save(self, path: str | Path) -> Path:
        """Write the arrays of `to_dict` to a compressed `.npz`, which numpy reads without sayo."""
        with open(path, "wb") as file:  # numpy would add a suffix to a path
            np.savez_compressed(file, **self.to_dict())
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> "AttentionTrace":
        """What `save` wrote; nothing in it is unpickled."""
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        parts = {
            kind: {name.partition("/")[2]: value for name, value in arrays.items() if name.startswith(f"{kind}/")}
            for kind in ("masses", "sizes")
        }
        sizes = {name: float(size) for name, size in parts["sizes"].items()}
        layers = tuple(arrays["layers"].tolist())
        return cls(parts["masses"], sizes, arrays["entropy"], layers, arrays.get("maps"), arrays.get("tokens"))

    @property
    def positions(self) -> np.ndarray:
        """`(T,)` int64: where its tokens stand in the completion."""
        return np.arange(len(self)) if self.tokens is None else self.tokens

    def __len__(self) -> int:
        """Number of response tokens `T`."""
        return len(self.entropy)

    @property
    def has_region(self) -> bool:
        """Whether the sample has a target region to look at."""
        return self.sizes.get("region", 0.0) > 0

    def mass(self, group: str, rows: Rows) -> np.ndarray:
        """`(L, T)` attention mass on `group` for each response token: the group's share of the row."""
        if group not in self.masses:
            raise KeyError(f"attention on {group!r} was not read for this sample; groups here: {sorted(self.masses)}")
        return self._select(self.masses[group], rows)

    def mean(self, group: str, rows: Rows) -> np.ndarray:
        """`(L, T)` attention per key of `group` (mass / size): SAYO's `a` for the target, `v` for the image."""
        return self.mass(group, rows) / self.sizes[group]

    def map(self, rows: Rows) -> np.ndarray:
        """`(L, T, N)` attention on each visual token; sums to `mass("image")` over the tokens.

        Raises:
            ValueError: the trace was read without maps.
        """
        if self.maps is None:
            raise ValueError("This trace holds no maps: read it with maps=True (or with an image index).")
        return self._select(self.maps, rows)

    def _select(self, array: np.ndarray, rows: Rows) -> np.ndarray:
        """`(L, T + 1, ...)` -> `(L, T, ...)`: the rows of the tokens, or the rows that decided them."""
        if rows not in ("of_token", "deciding"):
            raise ValueError(f"rows must be 'of_token' or 'deciding', got {rows!r}")
        if self.tokens is not None:
            return array[:, self.tokens + (rows == "of_token")]
        if rows == "deciding":
            return array[:, : len(self)]
        if array.shape[1] == len(self):
            raise ValueError(
                "rows='of_token' needs the last token's own row, which generate never runs: use rows='deciding', or "
                "read one forward over prompt + completion."
            )
        return array[:, 1:]
