"""A figure: accuracy against epochs, one point per network."""

from matplotlib.figure import Figure


def accuracy_by_epochs(records, *, metric: str = "test_accuracy"):
    sheet = Figure(figsize=(3.25, 2.1))
    axes = sheet.subplots()
    axes.plot(records["epochs"], records[metric], "o")
    return sheet, f"{metric} of each network.", records[["curve", "seed", "epochs", metric]]
