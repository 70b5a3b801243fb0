"""One look for all figures and drawings."""

# Okabe and Ito: told apart with any colour vision, and by brightness in print
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
PRINTED_COLOR = "#767676"


def use_style() -> None:
    """The one look of all figures; call it once per notebook, before plotting."""
    import matplotlib.pyplot as plt  # here: it takes a second, and detection draws without it

    plt.rcdefaults()
    plt.rcParams.update(
        {
            "figure.dpi": 100,
            "figure.constrained_layout.use": True,
            "savefig.dpi": 150,
            "svg.hashsalt": "lightdet",  # ids in the svg are random without it
            "font.size": 11,
            "axes.titlesize": 11,
            "axes.prop_cycle": plt.cycler(color=COLORS),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": "#e0e0e0",
            "lines.linewidth": 1.6,
            "legend.frameon": False,
        }
    )
