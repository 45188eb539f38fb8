"""Draw both networks from the code: every size in the figures is asked of the built model.

Run ``python docs/draw_networks.py`` after changing a network.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

FIGURES = Path(__file__).parent / "figures"
SIGNAL, CONVOLUTION, RECURRENCE = "#e8eaf0", "#d5e6f7", "#d9efd9"
ATTENTION, ANSWER = "#fbe6c8", "#f3d6e4"
BOX_HEIGHT = 52


class Drawing:
    """An SVG of boxes with two lines of text, and arrows between them."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
            f' role="img" aria-label="{escape(title)}" font-family="Helvetica, Arial, sans-serif">',
            "<defs><marker id='head' viewBox='0 0 8 8' refX='7' refY='4' markerWidth='7'"
            " markerHeight='7' orient='auto-start-reverse'><path d='M0 0 8 4 0 8z' fill='#445'/>"
            "</marker></defs>",
            f'<rect width="{width}" height="{height}" rx="8" fill="#fff"/>',
        ]

    def box(
        self, x: float, y: float, width: float, lines: Sequence[str], colour: str
    ) -> tuple[float, float, float]:
        """Draw a box whose left middle is (x, y); returns its left, right and middle height."""
        self.parts.append(
            f'<rect x="{x}" y="{y - BOX_HEIGHT / 2}" width="{width}" height="{BOX_HEIGHT}" rx="5"'
            f' fill="{colour}" stroke="#445"/>'
        )
        for number, line in enumerate(lines):
            self.text(x + width / 2, y + 4.5 + 16 * (number - (len(lines) - 1) / 2), line,
                      bold=number == 0)  # fmt: skip
        return x, x + width, y

    def text(
        self, x: float, y: float, line: str, *, bold: bool = False, anchor: str = "middle"
    ) -> None:
        """Write a line centred on x, or beginning or ending there."""
        weight = ' font-weight="600"' if bold else ""
        self.parts.append(
            f'<text x="{x}" y="{y}" font-size="12.5" text-anchor="{anchor}" fill="#223"{weight}>'
            f"{escape(line)}</text>"
        )

    def arrow(self, *points: tuple[float, float], both: bool = False, dashed: bool = False) -> None:
        """Draw an arrow through points, with a second head at its start if wanted."""
        path = " ".join(f"{x} {y}" for x, y in points)
        start = ' marker-start="url(#head)"' if both else ""
        dashes = ' stroke-dasharray="5 4"' if dashed else ""
        self.parts.append(
            f'<polyline points="{path}" fill="none" stroke="#445" stroke-width="1.4"'
            f' marker-end="url(#head)"{start}{dashes}/>'
        )

    def save(self, path: Path) -> None:
        """Write the file."""
        path.write_text("\n".join([*self.parts, "</svg>"]) + "\n")


def size(tensor: Any) -> str:
    """The shape of a tensor without its batch and axes of 1, as ``469 × 24``."""
    return " × ".join(str(n) for n in tensor.shape[1:] if n != 1)


def draw_mlbf(path: Path) -> None:
    """MLBF-Net (Fig. 1 of its paper), with the sizes of ``mlbf_keras.build_model``."""
    from mlbf_keras import build_model

    model = build_model()
    output = {layer.name: layer.output for layer in model.layers}
    branch = output["f_cnn"][0]
    _, time, leads, width = output["f_bigru"].shape
    convolutions = model.get_layer("f_cnn").kernel_sizes
    blocks = f"{len(convolutions)} blocks of 3 convolutions"

    drawing = Drawing(1000, 520, "MLBF-Net: twelve branches and a head on all of them")
    drawing.box(15, 215, 105, ["signal", size(output["signal"])], SIGNAL)
    lanes = {"I": 55, "II": 135, "V6": 295}
    for lead, y in lanes.items():
        drawing.arrow((120, 215), (138, 215), (138, y), (164, y))
        drawing.text(151, y - 9, lead, bold=True)
        f_cnn = drawing.box(166, y, 175, [blocks, f"f_CNN {size(branch)}"], CONVOLUTION)
        f_gru = drawing.box(370, y, 150, ["BiGRU", f"f_BiGRU {time} × {width}"], RECURRENCE)
        attended = drawing.box(560, y, 130, ["attention", f"f_att {width}"], ATTENTION)
        head = drawing.box(720, y, 120, ["softmax", f"{model.output['lead_I'].shape[-1]}"], ANSWER)
        drawing.arrow((f_cnn[1], y), (f_gru[0], y))
        drawing.arrow((f_gru[1], y), (attended[0], y), dashed=True)
        drawing.arrow((attended[1], y), (head[0], y), dashed=True)
        drawing.text(850, y + 4, f"lead_{lead}", anchor="start")
        drawing.arrow((f_gru[1], y), (540, y), (540, 404))
    for x in (253, 445, 625, 780):
        drawing.text(x, 220, "⋮", bold=True)
    drawing.text(253, 345, f"{leads} branches, equal in form, with weights of their own")

    y = 430
    drawing.box(470, y, 140, ["side by side", size(output["fused"])], SIGNAL)
    drawing.box(636, y, 130, ["attention", f"f_att {output['fused_features'].shape[-1]}"],
                ATTENTION)  # fmt: skip
    drawing.box(790, y, 195, ["batch norm, softmax", f"diagnosis {size(output['diagnosis'])}"],
                ANSWER)  # fmt: skip
    drawing.arrow((610, y), (636, y))
    drawing.arrow((766, y), (790, y))
    drawing.text(15, 412, "L = L_c + λ Σ L_j (eq. 10): the loss of the", anchor="start")
    drawing.text(15, 430, "answer and, dashed, of the twelve leads' own", anchor="start")
    drawing.text(15, 448, "heads. They serve training and explanation;", anchor="start")
    drawing.text(15, 466, "the answer is diagnosis.", anchor="start")
    drawing.text(985, 505, f"{model.count_params():,} parameters", anchor="end")
    drawing.save(path)


def draw_mrm(path: Path) -> None:
    """MRM-Net (Fig. 1 of its paper), with the sizes of ``mrm_keras.build_model``."""
    from mrm_keras import build_model

    model = build_model()
    output = {layer.name: layer.output for layer in model.layers}
    drawing = Drawing(1000, 470, "MRM-Net: two resolutions that learn from each other")
    drawing.box(15, 225, 90, ["signal", size(output["signal"])], SIGNAL)
    trunk = [model.get_layer(f"trunk_{i}") for i in (1, 2, 3, 4)]
    kernels = ", ".join(str(layer.kernel_sizes[0]) for layer in trunk)
    drawing.box(125, 225, 155, ["trunk: 4 × ConvBlock1", size(output["trunk_4"])], CONVOLUTION)
    drawing.text(202, 272, f"kernels {kernels}")
    drawing.arrow((105, 225), (125, 225))
    ends = {}
    for name, y, z, fused, head in (("low", 75, "Z1", "Z3", "out1"),
                                    ("high", 375, "Z2", "Z4", "out2")):  # fmt: skip
        scales = ", ".join(map(str, model.get_layer(f"{name}_multi_scale").kernel_sizes))
        drawing.arrow((280, 225), (295, 225), (295, y), (310, y))
        drawing.box(
            310, y, 165, ["multi-scale fusion", f"{z}: {size(output[f'{name}_z'])}"], CONVOLUTION
        )
        drawing.text(392, y + (-36 if name == "low" else 46), f"kernels {scales}, averaged")
        drawing.box(
            520,
            y,
            185,
            ["3 BaseBlocks, attention", f"{fused}: {size(output[f'{name}_fusion'])}"],
            ATTENTION,
        )
        drawing.box(
            735,
            y,
            130,
            ["pool, norm, linear", f"{head}: {size(output[f'{name}_head_linear'])}"],
            ANSWER,
        )
        drawing.text(612, y + (-36 if name == "low" else 46), "channel and spatial, side by side")
        drawing.arrow((475, y), (520, y))
        drawing.arrow((705, y), (735, y))
        ends[name] = (865, y)
    for x, symbol, pair in ((392, "α", "Z1, Z2"), (612, "β", "Z3, Z4"), (800, "γ", "out1, out2")):
        mutual = model.get_layer(f"mutual_{pair.lower().replace(', ', '_')}")
        drawing.arrow((x, 101), (x, 349), both=True, dashed=True)
        drawing.parts.append(f'<rect x="{x - 50}" y="204" width="100" height="42" fill="#fff"/>')
        drawing.text(x, 221, f"M({pair})", bold=True)
        drawing.text(x, 238, f"{symbol} = {mutual.weight:g}")
    drawing.box(880, 225, 105, ["mean of both", f"diagnosis {size(output['diagnosis'])}"], ANSWER)
    for name, edge in (("low", 199), ("high", 251)):
        x, y = ends[name]
        drawing.arrow((x, y), (932, y), (932, edge))
        drawing.text(900, y - 8, "sigmoid")
    drawing.text(15, 458, "Dashed: mutual learning (eq. 5 to 7), in training only.", anchor="start")
    drawing.text(985, 458, f"{model.count_params():,} parameters", anchor="end")
    drawing.save(path)


def main() -> None:
    """Draw both."""
    FIGURES.mkdir(exist_ok=True)
    draw_mlbf(FIGURES / "mlbf_net.svg")
    draw_mrm(FIGURES / "mrm_net.svg")


if __name__ == "__main__":
    main()
